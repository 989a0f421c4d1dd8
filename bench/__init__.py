"""plusx beside plain PyTorch, measured in one run; `python -m bench` runs it all."""
