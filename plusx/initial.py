"""The network that a run starts with: random, whitening, or given weights."""

import dataclasses
from collections.abc import Sequence

import torch

from plusx import weights
from plusx.config import Config
from plusx.data import Dataset, Preprocess, sample
from plusx.engine import Log
from plusx.models import Network, create_model, whiten_input, whiten_stem

WHITENING_SAMPLE = 2000  # images whose patches the stem's first filters are made from


def start_network(config: Config, dataset: Dataset, preprocess: Preprocess) -> Network:
    """The network with its initial weights: a function of the config and, where they whiten, of the training images."""
    network = make_network(config, len(dataset.classes))
    for wanted, whiten in ((config.model.whiten_input, whiten_input), (config.model.whiten_stem, whiten_stem)):
        if wanted:
            whiten(network, sample(dataset.splits["train"], preprocess, WHITENING_SAMPLE))
    return network


def make_network(config: Config, n_classes: int) -> Network:
    """The network with random weights, a function of the config alone."""
    torch.manual_seed(config.seed)
    assert config.model.name is not None, "choose fills this"
    options = dataclasses.asdict(config.model) | {"zero_init_last": bool(config.model.zero_init_last)}
    del options["whiten_stem"]  # what `start_network` does to it
    return create_model(num_classes=n_classes, in_channels=config.data.channels or 3, size=config.data.size, **options)


def fill(network: Network, source: str, classes: Sequence[str], log: Log) -> None:
    """Weights into the network; the screen gets a summary, the log what became of each."""
    rows = weights.load_weights(network, source, classes)
    for line in weights.summary(rows):
        log.line(f"weights: {line}")
    for row in (row for row in rows if row.why):
        log.line(f"weights: {row.name}: {row.why}", to_console=False)
