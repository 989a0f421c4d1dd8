"""Data: sources, decoding, transforms, sampling, loaders, checks."""

from plusx.data.check import check
from plusx.data.colour import IMAGENET_COLOURS, Colours
from plusx.data.dataset import Dataset, Split
from plusx.data.decode import decode
from plusx.data.facts import facts
from plusx.data.loader import EvalLoader, TrainLoader
from plusx.data.pixel_mean import mean_image
from plusx.data.sources import open_dataset, source_of
from plusx.data.statistics import channel_statistics, sample
from plusx.data.transforms import Preprocess

__all__ = [
    "IMAGENET_COLOURS",
    "Colours",
    "Dataset",
    "EvalLoader",
    "Preprocess",
    "Split",
    "TrainLoader",
    "channel_statistics",
    "check",
    "decode",
    "facts",
    "mean_image",
    "open_dataset",
    "sample",
    "source_of",
]
