"""`python -m plusx` is the `plusx` command."""

from plusx.cli import main

if __name__ == "__main__":
    main()
