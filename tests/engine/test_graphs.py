"""Replayed passes: which are recorded, and that they change nothing."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from plusx.engine.graphs import Graphed
from plusx.models import create_model


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What was recorded; the replay here runs it, after three passes that warm up, as PyTorch's does."""
    found: list[nn.Module] = []

    def record(module: nn.Module, sample: tuple[Tensor]) -> Callable[[Tensor], Tensor]:
        warnings.warn("Attempting to run cuBLAS, but there was no current CUDA context! …", stacklevel=1)
        assert not torch.is_autocast_enabled("cpu") or not torch.is_autocast_cache_enabled()
        found.append(module)
        for _ in range(3):
            module(*sample)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    return found


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet8", 3, stem="cifar")


def test_full_batches_are_recorded_once_and_nothing_else_is(recorded: list[nn.Module]) -> None:
    module = network()
    net = Graphed(module, 4)
    net(torch.randn(3, 3, 8, 8))
    module.eval()
    net(torch.randn(4, 3, 8, 8))
    module.train()
    hook = module.get_submodule("layer1").register_forward_pre_hook(lambda *_: None)
    net(torch.randn(4, 3, 8, 8))
    assert recorded == []
    hook.remove()
    for _ in range(2):
        net(torch.randn(4, 3, 8, 8))
    assert len(recorded) == 1


@pytest.mark.parametrize("enabled", [False, True])
def test_recording_leaves_statistics_and_answers_as_they_are(recorded: list[nn.Module], enabled: bool) -> None:
    plain, module = network(), network()
    net = Graphed(module, 4)
    for _ in range(2):
        images = torch.randn(4, 3, 8, 8)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert torch.equal(net(images), plain(images))
    for own, expected in zip(module.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(own, expected)
    assert len(recorded) == 1
