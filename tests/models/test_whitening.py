"""The fixed whitening of a network's input."""

from typing import Any

import pytest
import torch

from plusx.errors import ConfigError
from plusx.models import count_macs, count_params, create_model, whiten_input, whiten_stem


def images(n: int = 400, channels: int = 3) -> torch.Tensor:
    """Smooth noise: neighbours and channels are correlated."""
    torch.manual_seed(0)
    noise = torch.nn.functional.avg_pool2d(torch.randn(n, channels, 20, 20), 3, 1)
    return noise + 0.5 * noise.mean(1, keepdim=True)


def neighbours(x: torch.Tensor) -> float:
    """Correlation of each pixel with the one to its right."""
    return float(torch.corrcoef(torch.stack([x[..., :-1].flatten(), x[..., 1:].flatten()]))[0, 1])


@pytest.mark.parametrize("channels", [1, 3])
def test_neighbours_are_less_alike_and_channels_have_variance_1(channels: int) -> None:
    network, x = create_model("resnet20", 10, in_channels=channels, whiten_input=True), images(channels=channels)
    assert torch.equal(network.enter(x), x), "the identity before it is set"
    whiten_input(network, x)
    white = network.enter(x)
    assert neighbours(x) > 0.6
    assert abs(neighbours(white)) < 0.25
    torch.testing.assert_close(white.std((0, 2, 3)), torch.ones(channels), atol=1e-4, rtol=0)
    if channels == 3:
        alike = torch.corrcoef(white.transpose(0, 1).flatten(1))
        assert alike.triu(1).abs().max() < 0.1


def test_a_channel_that_says_nothing_stays_silent() -> None:
    network, x = create_model("resnet20", 10, whiten_input=True), images()
    x[:, 2] = 0
    whiten_input(network, x)
    white = network.enter(x)
    assert white.isfinite().all()
    torch.testing.assert_close(white.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), atol=1e-4, rtol=0)
    assert network.get_buffer("whitening.weight")[2].abs().max() < 11, "10, by the floor of the variance alone"


def test_an_even_image_stays_even_to_its_edges() -> None:
    network = create_model("resnet20", 10, whiten_input=True)
    whiten_input(network, images())
    white = network.enter(torch.ones(1, 3, 6, 7))
    torch.testing.assert_close(white, white[:, :, 3:4, 3:4].expand(white.shape))


def test_the_stem_whitens_what_it_sees() -> None:
    network, x = create_model("resnet11", 10, whiten_input=True), images()
    whiten_input(network, x)
    whiten_stem(network, x)
    seen = network.enter(x)
    answers = torch.nn.functional.conv2d(seen, network.conv1.weight.detach()[::2]).transpose(0, 1).flatten(1)
    second = answers @ answers.T / answers.shape[1]
    torch.testing.assert_close(second, torch.eye(len(second)), atol=0.05, rtol=0)


@pytest.mark.parametrize("whiten", [whiten_input, whiten_stem])
def test_images_smaller_than_a_patch_are_told(whiten: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.size: got 2 px, whitening looks at patches of 3 px"):
        whiten(create_model("resnet11", 10, whiten_input=True), torch.zeros(4, 3, 2, 2))


def test_it_is_part_of_the_network_but_no_parameter() -> None:
    plain, network = create_model("resnet20", 10), create_model("resnet20", 10, whiten_input=True)
    assert count_params(network) == count_params(plain) == 269_722
    assert network.state_dict().keys() - plain.state_dict().keys() == {"whitening.weight"}
    assert count_macs(network, (3, 32, 32)) - count_macs(plain, (3, 32, 32)) == 3 * 3 * 9 * 32 * 32
    whiten_input(network, images())
    again = create_model(**network.arch)
    again.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), network.eval()(x))
    assert "whiten_input" not in plain.arch


def test_it_computes_in_float32_under_autocast() -> None:
    network = create_model("resnet20", 10, whiten_input=True)
    whiten_input(network, images())
    x = images(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network.enter(x.bfloat16()), network.enter(x.bfloat16().float()).bfloat16())
        assert network.enter(x).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_of_another_type_take_images_of_it(dtype: torch.dtype) -> None:
    network = create_model("resnet8", 10, whiten_input=True).eval()
    assert network.to(dtype)(images(2).to(dtype)).dtype == dtype
