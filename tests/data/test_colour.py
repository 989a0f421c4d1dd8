"""PCA colour: the training set's directions exactly, shifts of the promised covariance, and nothing else changed."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from plusx.config import AugmentConfig
from plusx.data.colour import IMAGENET_COLOURS, Colours, shift_colours
from plusx.data.dataset import Split
from plusx.data.loader import EvalLoader, TrainLoader
from plusx.data.names import Names
from plusx.data.statistics import channel_statistics
from tests.data.test_transforms import RULES

STD = 0.1
SIDE16 = replace(RULES, size=16, resize=16)


def arrays(n: int = 60) -> Split:
    """Images whose channels go together, as in photos."""
    rng = np.random.default_rng(0)
    gray, own = rng.normal(size=(n, 1, 16, 16)), rng.normal(size=(n, 3, 16, 16))
    images = (128 + 40 * gray + own * np.array([25, 10, 18])[:, None, None]).clip(0, 255).astype(np.uint8)
    return Split("train", np.arange(n) % 3, None, Names(map(str, range(n))), images)


def test_directions_are_numpys() -> None:
    split = arrays()
    assert split.images is not None
    pixels = split.images.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    wanted = np.cov(pixels, bias=True)
    found = Colours.of(channel_statistics(split, RULES).covariance)
    values, vectors = np.linalg.eigh(wanted)
    assert np.abs(np.array(found.values) / values[::-1] - 1).max() < 1e-9
    matrix = np.array(found.vectors)
    assert np.abs(np.abs(matrix) - np.abs(vectors[:, ::-1])).max() < 1e-6
    assert (matrix[0] >= 0).all()
    assert np.abs(matrix * np.array(found.values) @ matrix.T - wanted).max() < 1e-12


@pytest.mark.parametrize("colours", [IMAGENET_COLOURS, Colours.of(channel_statistics(arrays(), RULES).covariance)])
def test_shifts_have_the_covariance_of_the_formula(colours: Colours) -> None:
    shifts = colours.shifts(STD, seed=3, epoch=2, ids=np.arange(100_000)).double()
    matrix, values = torch.tensor(colours.vectors).double(), torch.tensor(colours.values).double()
    wanted = STD**2 * matrix @ (values**2).diag() @ matrix.T
    assert (torch.cov(shifts.T) - wanted).norm() < 0.02 * wanted.norm()
    assert shifts.mean(0).norm() < 0.01 * wanted.trace().sqrt()
    assert torch.isfinite(shifts).all()


def test_a_shift_is_a_function_of_seed_epoch_and_id() -> None:
    ids = np.array([5, 900, 7])
    one = IMAGENET_COLOURS.shifts(STD, 1, 4, ids)
    assert torch.equal(IMAGENET_COLOURS.shifts(STD, 1, 4, ids[::-1].copy()), one.flip(0))
    for seed, epoch in ((2, 4), (1, 5)):
        assert not (IMAGENET_COLOURS.shifts(STD, seed, epoch, ids) == one).any()


def test_the_same_shift_before_and_after_normalisation() -> None:
    images, shifts = torch.rand(4, 3, 5, 6), IMAGENET_COLOURS.shifts(STD, 0, 0, np.arange(4))
    raw = shift_colours(images.clone(), shifts, (1.0, 1.0, 1.0))
    assert torch.allclose(raw - images, shifts[:, :, None, None].expand_as(raw), atol=1e-6)
    normalised = shift_colours(RULES.normalize(images), shifts, RULES.std)
    assert torch.allclose(normalised, RULES.normalize(raw), atol=1e-5)


@pytest.mark.parametrize("mode", ["small", "photo"])
def test_training_batches_are_shifted_and_nothing_else(mode: str) -> None:
    split, augment = arrays(), AugmentConfig(crop="none", colour=STD)
    options = {"n_classes": 3, "mode": mode, "batch": 8, "seed": 1}
    plain = TrainLoader(split, SIDE16, replace(augment, colour=0.0), **options)
    shifted = TrainLoader(split, SIDE16, augment, colours=IMAGENET_COLOURS, **options)
    for a, b in zip(plain.epoch(3), shifted.epoch(3), strict=True):
        wanted = IMAGENET_COLOURS.shifts(STD, 1, 3, a.ids.numpy()) / torch.tensor(SIDE16.std)
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.targets, b.targets)
        assert torch.allclose(b.images - a.images, wanted[:, :, None, None].expand_as(a.images), atol=1e-5)
    before = torch.cat([batch.images for batch in EvalLoader(split, SIDE16)])
    list(shifted.epoch(0))
    assert torch.equal(torch.cat([batch.images for batch in EvalLoader(split, SIDE16)]), before)


def test_record() -> None:
    assert Colours.from_dict(asdict(IMAGENET_COLOURS)) == IMAGENET_COLOURS
