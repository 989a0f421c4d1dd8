"""Text for people: names as harmless lines, whoever gave them, lists of them, numbers with their word or unit."""

from collections.abc import Iterable

MAX_LISTED = 5  # names shown in one message; the rest is a number
JOINERS = "\u200c\u200d"  # without them words of Persian and Hindi, and families of emoji, fall apart


def show(text: str) -> str:
    """A name as one harmless line: control, direction and undecodable characters as escapes."""
    return "".join(c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode("ascii") for c in text)


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    text = ", ".join(show(n) for n in names[:MAX_LISTED])
    return text + (f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else "")


def plural(word: str, n: int) -> str:
    """`3 files`, `1 file`, `2 classes`."""
    return f"{n:,} {word}{'' if n == 1 else 'es' if word.endswith('s') else 's'}"


def in_bytes(n: int) -> str:
    """A length of so many bytes: `94.3 MB`, `340 bytes`."""
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else plural("byte", n)
