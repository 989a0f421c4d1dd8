"""Data: sources, decoding, transforms, sampling, loaders, checks."""

from plusx.data.check import CheckReport, check
from plusx.data.dataset import Dataset, Split
from plusx.data.facts import facts
from plusx.data.scan import find_bad, screen
from plusx.data.sources import SOURCES, open_dataset

__all__ = ["SOURCES", "CheckReport", "Dataset", "Split", "check", "facts", "find_bad", "open_dataset", "screen"]
