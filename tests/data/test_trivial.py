"""TrivialAugment against torchvision's: the same operations at the same strengths, by our own random numbers."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from plusx.data.trivial import OPERATIONS, STRENGTHS, _operated, varied

SIZE = 48  # px: a translation of 32 leaves something


@pytest.fixture(scope="module")
def image() -> Tensor:
    small = torch.from_numpy(np.random.default_rng(0).integers(30, 220, (1, 3, 7, 7))).float()
    return torch.nn.functional.interpolate(small, (SIZE, SIZE), mode="bicubic")[0].clamp(0, 255).to(torch.uint8)


def ours(image: Tensor) -> set[bytes]:
    """Every result there is."""
    middles = [(i + 0.5) / STRENGTHS for i in range(STRENGTHS)]
    kinds = [(i + 0.5) / len(OPERATIONS) for i in range(len(OPERATIONS))]
    draws = itertools.product(kinds, middles, (0.25, 0.75))
    return {_operated(image, *drawn).numpy().tobytes() for drawn in draws}


def test_all_of_torchvisions_operations_and_no_others(image: Tensor) -> None:
    theirs = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = {theirs(image).numpy().tobytes() for _ in range(9000)}  # the rarest of 868 comes ten times
    wanted = ours(image)
    assert len(wanted) > 500
    assert found == wanted


def test_each_image_has_its_own_operation(image: Tensor) -> None:
    ids = np.arange(3000)
    pixels = varied(image.permute(1, 2, 0).repeat(len(ids), 1, 1, 1), 0, 1, ids, [False] * len(ids))
    assert len({one.numpy().tobytes() for one in pixels}) > 450
    same = (pixels == image.permute(1, 2, 0)).flatten(1).all(1).float().mean()
    assert 0.07 < same < 0.2  # one operation of 14 does nothing, and so does no strength
    again = varied(image.permute(1, 2, 0).repeat(2, 1, 1, 1), 0, 1, ids[[7, 2999]], [False] * 2)
    assert torch.equal(again, pixels[[7, 2999]])


def test_deep_and_gray_images(image: Tensor) -> None:
    gray = image[:1].permute(1, 2, 0).repeat(600, 1, 1, 1)
    ids = np.arange(len(gray))
    deep = varied(gray.float() + 0.25, 0, 0, ids, [True] * len(ids))
    assert deep.dtype == torch.float32
    assert ((deep >= 0) & (deep <= 255)).all()
    shallow = varied(gray.clone(), 0, 0, ids, [False] * len(ids))
    near = (deep - shallow.float()).abs().flatten(1).mean(1) < 2
    assert near.float().mean() > 0.9
