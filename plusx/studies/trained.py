"""A finished run's network and the examples it was tested on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plusx.config import DataConfig
from plusx.data import Dataset, open_dataset
from plusx.modelfile import Classifier, load
from plusx.models import Network
from plusx.plan import read_json
from plusx.run import Run


@dataclass(frozen=True)
class Trained:
    """The model file of a run, and its data."""

    classifier: Classifier
    dataset: Dataset
    split: str

    @property
    def network(self) -> Network:
        """The trained network, in evaluation mode."""
        assert isinstance(self.classifier.module, Network), "plusx trained it"
        return self.classifier.module

    def images(self, count: int) -> Tensor:
        """The first examples of the watched split as the network sees them, (N, C, S, S)."""
        split = self.dataset.splits[self.split]
        return torch.stack([self.classifier.preprocess.load(split.source(i)) for i in range(min(count, len(split)))])


def trained(run: Run) -> Trained:
    """What a run left behind."""
    recorded = read_json(run.folder / "config.json")
    config = DataConfig(**recorded["config"]["data"])
    return Trained(load(run.folder, device="cpu"), open_dataset(recorded["request"]["data"], config), run.watched)
