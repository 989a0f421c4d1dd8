"""Every parameter and multiply-add count that the paper's architectures have."""

import pytest
import torch

from plusx.models import Network, count_macs, count_params, create_model, describe, list_models

IMAGENET = [  # depth, parameters B, multiply-adds with the stride in 1x1 and in 3x3, in units of 1e9
    (18, 11_689_512, 1.814, None),
    (34, 21_797_672, 3.664, None),
    (50, 25_557_032, 3.858, 4.089),
    (101, 44_549_160, 7.570, 7.801),
    (152, 60_192_808, 11.282, 11.514),
]
CIFAR = [  # depth, parameters and multiply-adds (1e6) of option A, then of B
    (20, 269_722, 40.55, 272_474, 40.81),
    (32, 464_154, 68.86, 466_906, 69.12),
    (44, 658_586, 97.17, 661_338, 97.44),
    (56, 853_018, 125.49, 855_770, 125.75),
    (110, 1_727_962, 252.89, 1_730_714, 253.15),
    (1202, 19_421_274, 2829.2, 19_424_026, 2829.5),
]


def on_meta(name: str, num_classes: int, **options: str) -> Network:
    with torch.device("meta"):
        return create_model(name, num_classes, **options)


@pytest.mark.parametrize(("depth", "params", "macs_1x1", "macs_3x3"), IMAGENET)
def test_imagenet_table(depth: int, params: int, macs_1x1: float, macs_3x3: float | None) -> None:
    model = on_meta(f"resnet{depth}", 1000)
    assert count_params(model) == params
    assert round(count_macs(model, (3, 224, 224)) / 1e9, 3) == macs_1x1
    if macs_3x3 is not None:
        later = on_meta(f"resnet{depth}-v1.5", 1000)
        assert count_params(later) == params
        assert round(count_macs(later, (3, 224, 224)) / 1e9, 3) == macs_3x3


@pytest.mark.parametrize(("depth", "params"), [(18, 11_515_688), (34, 21_623_848)])
def test_option_a_and_the_plain_twin_have_no_projections(depth: int, params: int) -> None:
    assert count_params(on_meta(f"resnet{depth}", 1000, shortcut="A")) == params
    assert count_params(on_meta(f"plain{depth}", 1000)) == params


@pytest.mark.parametrize(("depth", "params_a", "macs_a", "params_b", "macs_b"), CIFAR)
def test_cifar_table(depth: int, params_a: int, macs_a: float, params_b: int, macs_b: float) -> None:
    digits = 2 if depth < 1202 else 1
    a, b = on_meta(f"resnet{depth}", 10), on_meta(f"resnet{depth}", 10, shortcut="B")
    assert (count_params(a), count_params(b)) == (params_a, params_b)
    assert round(count_macs(a, (3, 32, 32)) / 1e6, digits) == macs_a
    assert round(count_macs(b, (3, 32, 32)) / 1e6, digits) == macs_b


@pytest.mark.parametrize("depth", [20, 56, 1202])
def test_the_plain_twin_costs_what_option_a_does(depth: int) -> None:
    plain = on_meta(f"plain{depth}", 10)
    assert count_params(plain) == next(row[1] for row in CIFAR if row[0] == depth)


def test_option_c_projects_in_every_block() -> None:
    extra = count_params(on_meta("resnet34", 1000, shortcut="C")) - count_params(on_meta("resnet34", 1000))
    same_shape = {64: 3, 128: 3, 256: 5, 512: 2}  # blocks whose shortcut option B leaves alone
    assert extra == sum(blocks * (width * width + 2 * width) for width, blocks in same_shape.items())


def test_the_deep_stem_and_the_fully_connected_network() -> None:
    assert count_params(on_meta("resnet50-d", 1000)) == 25_576_264  # as published with the variant
    hidden = 256 * 256 + 2 * 256
    assert describe("resmlp-8x256")["params"] == 3072 * 256 + 2 * 256 + 16 * hidden + 256 * 10 + 10
    assert describe("resmlp-8x256")["macs"] == 3072 * 256 + 16 * 256 * 256 + 256 * 10


def test_counting_changes_nothing_and_takes_any_mode() -> None:
    model = create_model("resnet8", 10, width=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_macs(model.train(), (3, 32, 32)) == count_macs(model.eval(), (3, 32, 32))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "name", [n for n in list_models() if any(d in n for d in ("18", "50", "t20", "n20", "t9", "mlp"))]
)
def test_depth_is_the_number_of_weighted_layers(name: str) -> None:
    row = describe(name)
    model = on_meta(name, 10)
    layers = [key for key, p in model.named_parameters() if p.dim() > 1 and "downsample" not in key]
    deep_stem = 2 if "-d" in name else 0  # three convolutions count as the one they replace
    assert len(layers) - deep_stem == row["depth"]
