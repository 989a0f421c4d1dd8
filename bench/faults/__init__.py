"""Faults injected into training, and what became of them; `python -m bench.faults` runs them all."""
