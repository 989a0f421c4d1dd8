"""The views of an image: where each is, and which protocols there are."""

from dataclasses import replace

import pytest
import torch

from plusx.data.transforms import Preprocess
from plusx.data.views import one_crop, scales, ten_crops, views_of
from plusx.errors import ConfigError
from tests.data.test_transforms import GRAY, RULES, random_image

PLAIN = Preprocess(size=2, resize=4, fit="crop", channels=1, mean=(0.0,), std=(1.0,))


def corners(rules: Preprocess, height: int, width: int) -> list[tuple[int, int]]:
    """The first pixel of each of the ten crops of an image that counts its pixels, as (row, column)."""
    image = torch.arange(height * width, dtype=torch.float32).view(1, height, width)
    return [divmod(int(view[0, 0, 0]), width) for view in ten_crops(rules, image)]


def test_ten_crops_are_corners_and_centre_each_with_its_mirror() -> None:
    upright, mirrored = corners(PLAIN, 4, 7)[::2], corners(PLAIN, 4, 7)[1::2]
    assert upright == [(0, 0), (0, 5), (2, 0), (2, 5), (1, 2)]
    assert mirrored == [(row, column + 1) for row, column in upright]
    assert corners(PLAIN, 9, 4)[::2] == [(0, 0), (0, 2), (7, 0), (7, 2), (3, 1)]


def test_the_centre_of_ten_is_the_one_crop() -> None:
    image = random_image(40, 61)
    views = ten_crops(RULES, image)
    assert len(views) == 10
    assert all(view.shape == (3, 24, 24) and view.dtype == torch.float32 for view in views)
    assert torch.equal(views[8], one_crop(RULES, image)[0])
    assert torch.equal(views[9], RULES(image).flip(2))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_where_all_crops_are_one_it_comes_once_with_its_mirror(fit: str) -> None:
    rules, image = replace(RULES, resize=24, fit=fit), random_image(50, 50 if fit == "crop" else 70)
    views = ten_crops(rules, image)
    assert len(views) == 2
    assert torch.equal(views[0], rules(image))
    assert torch.equal(views[1], rules(image).flip(2))
    assert len(ten_crops(replace(RULES, resize=24), random_image(50, 70))) == 10


def test_the_sides_are_the_papers_at_the_size_of_the_network() -> None:
    sides = [view.shape for view in scales(RULES, random_image(50, 50))]
    assert sides == [(3, s, s) for s in (24, 27, 41, 51, 69)]  # {224, 256, 384, 480, 640} * 24 / 224
    square = replace(RULES, size=224, resize=256)
    assert [view.shape[1] for view in scales(square, random_image(9, 9))] == [224, 256, 384, 480, 640]


@pytest.mark.parametrize(("shape", "wanted"), [((40, 60), (30, 45)), ((61, 40), (45, 30)), ((9, 900), (30, 120))])
def test_a_scale_is_the_whole_image_in_its_shape(shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    (view,) = scales(RULES, random_image(*shape), (30,))
    assert view.shape == (3, *wanted)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_scale_of_another_fit_is_its_square(fit: str) -> None:
    rules, image = replace(RULES, fit=fit), random_image(40, 60)
    small, large = scales(rules, image, (24, 30))
    assert torch.equal(small, rules(image))
    assert torch.equal(large, replace(rules, size=30, resize=30)(image))


def test_views_are_in_the_networks_channels() -> None:
    for views in (ten_crops(GRAY, random_image(30, 40)), scales(GRAY, random_image(30, 40))):
        assert {len(view) for view in views} == {1}


def test_protocols_and_how_many_views_they_make() -> None:
    image = random_image(30, 40)
    for protocol, count in (("1-crop", 1), ("10-crop", 10), ("multi-scale", 5), ("multi-scale=8,24,8192", 3)):
        views, most = views_of(protocol)
        assert most == count
        if "8192" not in protocol:
            assert len(views(RULES, image)) == count
    views, most = views_of("multi-scale=8,30")
    assert [view.shape for view in views(RULES, image)] == [(3, 8, 10), (3, 30, 40)]


@pytest.mark.parametrize(
    "protocol",
    [
        *(
            "",
            "11-crop",
            "10-crop=3",
            "Multi-scale",
            "multi-scale=",
            "multi-scale=8,",
            "multi-scale=0",
            "multi-scale=-8",
        ),
        *("multi-scale=8193", "multi-scale=8.5", "multi-scale=8, 9", "multi-scale=٨", f"multi-scale={'9' * 5000}"),
    ],
)
def test_other_protocols_are_refused(protocol: str) -> None:
    with pytest.raises(ConfigError) as error:
        views_of(protocol)
    assert str(error.value).startswith(
        f"--protocol: got {protocol!r}, expected one of 1-crop, 6-view, 10-crop, multi-scale, "
    )
    assert error.value.hint == "PX is a shorter side from 1 to 8192, as in multi-scale=224,256,384."
