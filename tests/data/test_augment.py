"""Random changes: their distributions, and that batched operations equal plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from plusx.config import AugmentConfig
from plusx.data.augment import (
    crop_box,
    crop_draws,
    cut_out,
    erase,
    mirror,
    mirrored,
    mix,
    normalize,
    padded,
    resampled,
    resize_crop,
    shifts,
    windows,
)

IDS = np.arange(4000)


def test_resized_crops_are_distributed_as_torchvisions() -> None:
    augment = AugmentConfig(crop="resized")
    boxes = np.array([crop_box(augment, draws, 375, 500, 224) for draws in crop_draws(0, 0, IDS)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (height > 0).all() and (width > 0).all()  # noqa: PT018
    assert (top + height <= 375).all() and (left + width <= 500).all()  # noqa: PT018
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    theirs_of = v2.RandomResizedCrop(224).make_params
    reference = np.array([list(theirs_of([image]).values()) for _ in range(1500)])
    for ours, theirs in zip(boxes.T, reference.T, strict=True):
        spread = 5 * theirs.std() / 1500**0.5
        assert abs(ours.mean() - theirs.mean()) < spread
        assert ours.std() == pytest.approx(theirs.std(), rel=0.1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1), (3, 3), (2, 400)])
def test_crops_of_extreme_shapes_lie_inside(height: int, width: int) -> None:
    for kind in ("resized", "scale"):
        augment = AugmentConfig(crop=kind, shorter_side=(256, 480))
        for draws in crop_draws(0, 0, IDS[:50]):
            top, left, rows, columns = crop_box(augment, draws, height, width, 224)
            assert 0 <= top <= top + rows <= height
            assert 0 <= left <= left + columns <= width
            assert min(rows, columns) >= 1


def test_scale_crops_follow_the_shorter_side() -> None:
    augment = AugmentConfig(crop="scale", shorter_side=(256, 480))
    boxes = np.array([crop_box(augment, draws, 300, 400, 224) for draws in crop_draws(0, 0, IDS)])
    assert (boxes[:, 2] == boxes[:, 3]).all()
    sides = 300 * 224 / boxes[:, 2]
    assert 254 < sides.min() < 260
    assert 475 < sides.max() < 483
    assert sides.mean() == pytest.approx(368, abs=6)
    assert boxes[:, 0].max() > 100


def test_both_ends_of_the_range_of_scales_come() -> None:
    augment = AugmentConfig(crop="scale", shorter_side=(30, 31))
    sides = np.array([crop_box(augment, draws, 930, 930, 15)[2] for draws in crop_draws(0, 0, IDS)])
    assert set(sides.tolist()) == {930 * 15 // 30, 930 * 15 // 31}
    assert 0.46 < (sides == 450).mean() < 0.54


@pytest.mark.parametrize(("shape", "wanted"), [((1000, 90), (120, 90)), ((90, 1000), (90, 120))])
def test_where_ten_crops_do_not_fit_the_largest_of_an_allowed_aspect_does(
    shape: tuple[int, int], wanted: tuple[int, int]
) -> None:
    augment = AugmentConfig(crop="resized", area=(1.0, 1.0))
    assert {crop_box(augment, draws, *shape, 224)[2:] for draws in crop_draws(0, 0, IDS[:50])} == {wanted}


def test_mirror_by_chance_and_by_turns() -> None:
    random, turns = (
        [mirrored(AugmentConfig(crop="none", flip=flip), 0, epoch, IDS) for epoch in range(4)]
        for flip in ("random", "alternate")
    )
    assert not mirrored(AugmentConfig(crop="none", flip="none"), 0, 0, IDS).any()
    assert 0.46 < random[0].mean() < 0.54
    assert 0.4 < (random[0] == random[1]).mean() < 0.6
    assert 0.46 < turns[0].mean() < 0.54
    assert (turns[0] != turns[1]).all()
    assert (turns[0] == turns[2]).all()
    images = torch.arange(24).reshape(2, 2, 3, 2)
    out = mirror(images.clone(), np.array([False, True]))
    assert torch.equal(out[0], images[0])
    assert torch.equal(out[1], images[1].flip(1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_windows_are_slices(dtype: torch.dtype) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3))).to(dtype)
    stored = padded(images, 2, torch.tensor([10.0, 20.0, 30.0]))
    assert stored.dtype == dtype
    assert stored[0, 0, 0].tolist() == [10, 20, 30]
    assert torch.equal(stored[:, 2:10, 2:10], images)
    rows = np.array([6, 0, 6, 3])
    corners = np.array([[0, 0], [4, 4], [4, 0], [1, 3]])
    out = windows(stored, rows, corners, 8)
    for image, row, (top, left) in zip(out, rows, corners, strict=True):
        assert torch.equal(image, stored[row, top : top + 8, left : left + 8])
    offsets = shifts(2, 0, 0, IDS)
    assert np.bincount(offsets.ravel(), minlength=5).min() > 1400
    assert offsets.max() == 4


@pytest.mark.parametrize(("height", "width", "pad"), [(8, 6, 0), (8, 6, 3), (5, 9, 4)])
def test_images_are_padded_as_pytorch_pads(height: int, width: int, pad: int) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, height, width, 3), np.uint8))
    first = images.permute(0, 3, 1, 2).float()
    zeros, reflected = F.pad(first, (pad,) * 4), F.pad(first, (pad,) * 4, mode="reflect")
    assert torch.equal(padded(images, pad, torch.zeros(3)), zeros.permute(0, 2, 3, 1).to(torch.uint8))
    assert torch.equal(padded(images, pad, None), reflected.permute(0, 2, 3, 1).to(torch.uint8))


def test_an_image_smaller_than_its_padding_is_reflected_again_and_again() -> None:
    image = torch.tensor([[1, 2]]).view(1, 1, 2, 1)
    assert padded(image, 3, None)[0, :, :, 0].tolist() == [[2, 1, 2, 1, 2, 1, 2, 1]] * 7


def test_normalize_is_the_evaluation_formula() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    out = normalize(pixels, mean, std)
    wanted = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(out, wanted, atol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalize(pixels.float(), mean, std), out)


def test_cutout_zeroes_a_square_at_most() -> None:
    out = cut_out(torch.ones(400, 3, 16, 16), 5, 0, 0, IDS[:400])
    holes = (out[:, 0] == 0).sum((1, 2))
    assert holes.max() == 25
    assert holes.min() >= 9  # around a corner pixel
    assert torch.equal(out[:, 0], out[:, 2])
    often = (out[:, 0] == 0).float().mean(0)
    assert often.min() > 0


def test_rectangles_are_erased_as_torchvision_erases() -> None:
    side = 64
    out = erase(torch.ones(4000, 3, side, side), 0.6, 0, 0, IDS)
    holes = out[:, 0] == 0
    assert torch.equal(out[:, 0], out[:, 2])
    hit = holes.flatten(1).any(1)
    assert abs(hit.float().mean() - 0.6) < 0.04
    high, wide = (holes[hit].any(axis).sum(1) for axis in (2, 1))
    assert torch.equal(high * wide, holes[hit].sum((1, 2)))  # one rectangle, whole
    torch.manual_seed(0)
    theirs_of = v2.RandomErasing(p=1.0)
    reference = torch.stack([theirs_of(torch.ones(1, side, side))[0] == 0 for _ in range(1500)])
    theirs = [reference.any(axis).sum(1).float() for axis in (2, 1)]
    for ours, others in ((high, theirs[0]), (wide, theirs[1]), (high * wide, theirs[0] * theirs[1])):
        assert abs(ours.float().mean() - others.mean()) < 5 * others.std() / 1500**0.5
    often = holes[hit].float().mean(0)
    expected = reference.float().mean(0)
    assert (often - expected).abs().max() < 0.1
    assert torch.equal(erase(torch.ones(2, 3, side, side), 0.6, 0, 0, IDS[[3, 77]]), out[[3, 77]])


def test_resampling_the_whole_changes_nothing() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    assert torch.allclose(resampled(pixels, [(0, 0, 8, 8)] * 3), pixels.float(), atol=1e-3)
    ramp = torch.arange(8.0).repeat(8, 1)[None, :, :, None]
    assert torch.allclose(
        resampled(ramp, [(2, 4, 4, 4)])[0, 0, :, 0], (torch.arange(8.0) / 2 + 3.75).clamp(max=7), atol=1e-4
    )
    down = resampled(ramp.transpose(1, 2), [(4, 2, 4, 4)])
    assert torch.allclose(down, resampled(ramp, [(2, 4, 4, 4)]).transpose(1, 2), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resize_crop(dtype: torch.dtype) -> None:
    pixels = torch.full((30, 20, 3), 100).to(dtype)
    out = resize_crop(pixels[3:, 2:], 16)
    assert out.dtype == dtype
    assert out.shape == (16, 16, 3)
    assert torch.allclose(out.float(), torch.tensor(100.0))


def test_mixup_and_cutmix_mix_targets_as_images() -> None:
    images = torch.eye(6)[:, :, None, None].expand(6, 6, 12, 12).contiguous()  # image i is one in channel i
    targets = torch.eye(6)
    for options in ((0.4, 0.0), (0.0, 1.0), (0.4, 1.0)):
        kinds = set()
        for key in range(30):
            mixed, soft = mix(images, targets, *options, key)
            assert torch.allclose(mixed.mean((2, 3)), soft, atol=1e-5)
            assert torch.allclose(soft.sum(1), torch.ones(6))
            kinds.add(set(mixed.unique().tolist()) <= {0.0, 1.0})
            again = mix(images, targets, *options, key)
            assert torch.equal(again[0], mixed)
        assert len(kinds) == (2 if all(options) else 1)
    assert torch.equal(images.sum((0, 2, 3)), torch.full((6,), 144.0))  # the input was not changed


@pytest.mark.parametrize("options", [(0.4, 0.0), (0.0, 1.0)])
def test_one_without_a_partner_is_mixed_with_the_one_before_it(options: tuple[float, float]) -> None:
    images, targets = torch.eye(5)[:, :, None, None].expand(5, 5, 12, 12).contiguous(), torch.eye(5)
    for key in range(10):
        mixed, soft = mix(images, targets, *options, key)
        assert torch.allclose(mixed.mean((2, 3)), soft, atol=1e-5)
        assert torch.equal(soft[4, 3:], soft[2, [3, 2]])
        assert all(map(torch.equal, mix(images[:1], targets[:1], *options, key), (images[:1], targets[:1])))


def test_changes_of_one_image_are_unrelated() -> None:
    centres = []
    for change, amount in ((cut_out, 8), (erase, 1.0)):
        hole = change(torch.ones(4000, 1, 32, 32), amount, 0, 0, IDS)[:, 0] == 0
        lines = [hole.any(axis).float() for axis in (1, 2)]
        centres += [line @ torch.arange(32.0) / line.sum(1) for line in lines]
    crops = [crop_box(AugmentConfig(crop="resized"), draws, 90, 90, 32) for draws in crop_draws(0, 0, IDS)]
    top, left, height, width = np.array(crops).T
    flips = mirrored(AugmentConfig(crop="none", flip="random"), 0, 0, IDS)
    related = np.corrcoef([*centres, 2 * top + height, 2 * left + width, *shifts(8, 0, 0, IDS).T, flips])
    assert np.abs(related - np.eye(len(related))).max() < 0.08
