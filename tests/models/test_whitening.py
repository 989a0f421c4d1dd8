"""The fixed whitening of a network's input."""

import pytest
import torch

from plusx.models import count_macs, count_params, create_model, whiten_input


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
        assert torch.equal(network.enter(x.bfloat16()), network.enter(x.bfloat16().float()))
        assert network.enter(x).dtype == torch.float32
