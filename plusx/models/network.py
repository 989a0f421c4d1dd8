"""What every network has: named stage outputs, a head that can be replaced, and the initialisers."""

import operator
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from plusx.errors import ConfigError, DataError
from plusx.models.blocks import BatchNorm, Block
from plusx.models.whitening import Whitening


class Network(nn.Module, ABC):
    """A stem, named stages, and a fully connected head.

    `arch` holds the arguments that make `create_model(**arch)` rebuild the network, as plain JSON values.
    """

    head_name = "fc"
    arch: dict[str, Any]
    in_channels: int
    total_stride: int  # pixels of the image per position of the last stage's output
    stages: tuple[str, ...]  # names of the submodules between stem and head, in order
    fc: nn.Linear
    whitening: Whitening | None

    def __init__(self) -> None:
        super().__init__()
        self.register_module("whitening", None)

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> the input of the first stage."""

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """The last stage's output -> the input of the head (N, F)."""

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, K).

        Raises:
            DataError: images that this network cannot take.
        """
        x = self.stem(self.enter(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.head(x)

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) -> the outputs of `stem` and of each stage by name; `head` of the last one is the logits.

        Raises:
            DataError: images that this network cannot take.
        """
        x = self.stem(self.enter(x))
        outputs = {"stem": x}
        for name in self.stages:
            x = outputs[name] = self.get_submodule(name)(x)
        return outputs

    def head(self, x: Tensor) -> Tensor:
        """The last stage's output -> logits (N, K)."""
        logits: Tensor = self.fc(self.pool(x))
        return logits

    def enter(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) as the stem gets them, whitened where the network has a whitening."""
        if isinstance(x, Tensor):  # torch.fx follows the network with something else, of which nothing is known
            self.check(x)
        return x if self.whitening is None else self.whitening(x)

    def check(self, x: Tensor) -> None:
        """Refuse, in words, images that would fail deep inside the network."""
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.shape[2] == 0 or x.shape[3] == 0:
            raise DataError(
                f"got images of shape {tuple(x.shape)}, expected (N, {self.in_channels}, H, W)",
                "Set data.channels, or create the network with in_channels, so that they agree.",
            )
        one_value = self.training and len(x) == 1 and max(x.shape[2:]) <= self.total_stride
        if one_value and any(isinstance(module, BatchNorm) and module.training for module in self.modules()):
            raise DataError(
                f"one image of {x.shape[3]}x{x.shape[2]} px ends as one value per channel: batch norm needs more",
                "Train on at least 2 images per batch, or on larger images.",
            )


def set_head(network: Network, num_classes: int) -> None:
    """Replace the head by a fresh one for `num_classes` classes; the body keeps its weights.

    Raises:
        ConfigError: fewer than one class.
    """
    num_classes = operator.index(num_classes)
    if num_classes < 1:
        raise ConfigError(f"num_classes: got {num_classes}, expected at least 1")
    old = network.fc
    network.fc = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    initialise_head(network.fc, network.arch["init"])
    network.arch = {**network.arch, "num_classes": num_classes}


def initialise(network: Network, init: str, zero_init_last: bool) -> None:
    """Draw all weights from torch's global generator (section 3.4).

    `he` is He et al. [13] with the variance from a layer's outputs (fan-out), `he-fan-in` from its inputs, `xavier` is
    Glorot and Bengio's. Batch norm starts as the identity; `zero_init_last` starts the scale that ends each residual
    branch at zero, so that a block starts as its shortcut (a departure: Goyal et al. 2017, arXiv 1706.02677).
    """
    if network.fc.weight.is_meta:
        return  # no values; and drawing there imports PyTorch's compiler, for seconds
    for module in network.modules():
        if module is network.fc:
            initialise_head(network.fc, init)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if init == "xavier":
                nn.init.xavier_normal_(module.weight)
            else:
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out" if init == "he" else "fan_in", nonlinearity="relu"
                )
        if zero_init_last and isinstance(module, Block):
            nn.init.zeros_(module.get_parameter(f"{module.last_norm}.weight"))


def initialise_head(fc: nn.Linear, init: str) -> None:
    """No ReLU follows the head, so He's factor has no place here: uniform in +-1/sqrt(fan-in), or Xavier; zero bias."""
    with torch.no_grad():
        if init == "xavier":
            nn.init.xavier_normal_(fc.weight)
        else:
            bound = fc.in_features**-0.5
            nn.init.uniform_(fc.weight, -bound, bound)
        nn.init.zeros_(fc.bias)
