"""Whitening: images, or the stem's first answers to them, without the correlation of neighbouring pixels.

Both are departures from the paper that save epochs, and functions of the training images alone.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from plusx.errors import ConfigError

STEM_FLOOR = 5e-4  # added to the variance along each eigenvector, so that faint ones are not blown up
INPUT_FLOOR = 1e-2  # the same where every eigenvector counts
SIDE = 3  # of the patches that the input's whitening looks at, px
CONSTANT = 1e-6  # deviation of a channel that says nothing, and is not made louder
CHUNK = 250  # images whose patches are in memory at a time


class Whitening(nn.Module):
    """A fixed convolution that takes out of each pixel what its neighbours tell about it (ZCA); not trained.

    Arguments:
        channels: C of the images.

    Attributes:
        weight: (C, C, 3, 3), a buffer; the identity until `whiten_input` sets it.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        weight = torch.zeros(channels, channels, SIDE, SIDE)
        weight[:, :, SIDE // 2, SIDE // 2] = torch.eye(channels)
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and type, computed in float32: differences of neighbours need its digits."""
        return _convolved(x, self.weight)


@torch.fx.wrap  # one node of a traced graph, since it looks at what it gets
def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    exact = nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)  # meta has no autocast
    with exact:
        return F.conv2d(F.pad(x.float(), [SIDE // 2] * 4, mode="replicate"), weight.float()).to(x.dtype)


def whiten_input(network: Any, images: Tensor) -> None:
    """Set a network's whitening by the covariance of patches of 3x3 px, its scale so that each channel has variance 1.

    ZCA (Krizhevsky 2009) of patches, of which each keeps its middle pixel.

    Arguments:
        network: made with `whiten_input=True`.
        images: training images (N, C, H, W), normalised.
    """
    assert network.whitening is not None, "create_model(whiten_input=True) makes a place for it"
    weight = network.whitening.weight
    channels = weight.shape[0]
    values, vectors = torch.linalg.eigh(_second_moments(images, SIDE))
    zca = vectors / (values + INPUT_FLOOR).sqrt() @ vectors.T
    middle = zca.view(channels, SIDE, SIDE, -1)[:, SIDE // 2, SIDE // 2]
    with torch.no_grad():
        weight.copy_(middle.view_as(weight))
        deviation = network.whitening(images).std((0, 2, 3)).view(-1, 1, 1, 1)
        weight /= deviation.where(deviation > CONSTANT, 1)


def whiten_stem(network: Any, images: Tensor) -> None:
    """Start the first convolution as filters whose outputs on its input's patches are uncorrelated, of variance 1.

    Each filter is an eigenvector of the patches' covariance over the root of its eigenvalue; the strongest come first,
    each followed by its negative, so that ReLU loses nothing of it. What filters are left keep their weights. All of
    them train on. A departure, after the frozen ones of D. Page's and K. Jordan's CIFAR-10 networks (arXiv 2404.00498).

    Arguments:
        network: with a single convolution as its stem.
        images: training images (N, C, H, W), normalised.

    Raises:
        ConfigError: the stem is something else.
    """
    conv = getattr(network, "conv1", None)
    if not isinstance(conv, nn.Conv2d):
        message = f"model.whiten_stem: got True, but the stem of {network.arch['name']} is not a convolution"
        raise ConfigError(message, "Leave it out.")
    if network.whitening is not None:
        with torch.no_grad():
            images = network.whitening(images)
    values, vectors = torch.linalg.eigh(_second_moments(images, conv.kernel_size[0]))
    filters = (vectors / (values + STEM_FLOOR).sqrt()).T.flip(0).float()
    pairs = torch.stack([filters, -filters], 1).flatten(0, 1)[: conv.out_channels]
    with torch.no_grad():
        conv.weight[: len(pairs)] = pairs.view(-1, *conv.weight.shape[1:])


def _second_moments(images: Tensor, side: int) -> Tensor:
    """Mean products of the values of all patches, float64 (C side side, C side side).

    Raises:
        ConfigError: images smaller than a patch.
    """
    if min(images.shape[2:]) < side:
        message = f"data.size: got {min(images.shape[2:])} px, whitening looks at patches of {side} px"
        raise ConfigError(message, "Set model.whiten_input=false and model.whiten_stem=false, or a larger size.")
    second, count = torch.zeros((), dtype=torch.float64), 0
    for part in torch.split(images, CHUNK):
        patches = F.unfold(part, side).double()  # (n, C side side, positions)
        second = second + torch.einsum("nip,njp->ij", patches, patches)
        count += patches.shape[0] * patches.shape[2]
    return second / count
