"""Data: sources, decoding, transforms, sampling, loaders, checks."""

from plusx.data.dataset import Dataset, Split
from plusx.data.sources import SOURCES, open_dataset

__all__ = ["SOURCES", "Dataset", "Split", "open_dataset"]
