"""Data: sources, decoding, transforms, sampling, loaders, checks."""

from plusx.data.check import check as check
from plusx.data.colour import IMAGENET_COLOURS as IMAGENET_COLOURS
from plusx.data.colour import Colours as Colours
from plusx.data.dataset import Dataset as Dataset
from plusx.data.dataset import Split as Split
from plusx.data.decode import decode as decode
from plusx.data.facts import facts as facts
from plusx.data.loader import EvalLoader as EvalLoader
from plusx.data.loader import TrainLoader as TrainLoader
from plusx.data.pixel_mean import mean_image as mean_image
from plusx.data.sources import open_dataset as open_dataset
from plusx.data.sources import source_of as source_of
from plusx.data.statistics import channel_statistics as channel_statistics
from plusx.data.statistics import sample as sample
from plusx.data.transforms import Preprocess as Preprocess
