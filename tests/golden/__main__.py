"""`python -m tests.golden`, or `make golden`: records the golden losses again."""

import sys

from tests.golden.losses import PATH, record, recorded

before = recorded()["losses"] if PATH.exists() else []
record()
after = recorded()["losses"]
changed = sum(a != b for a, b in zip(before, after, strict=False)) if before else len(after)
sys.stdout.write(f"{PATH.name}: {changed} of {len(after)} losses changed\n")
