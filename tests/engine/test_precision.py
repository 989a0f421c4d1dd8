"""The start-up choice of arithmetic."""

import copy
import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from plusx.engine import precision
from plusx.engine.infer import predict_logits
from plusx.engine.precision import keep_float32, resolve_precision
from tests.engine.tiny import examples, net, run

SHAPE = (8, 3, 8, 8)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "TOTAL_SECONDS", 0.05)
    monkeypatch.setattr(precision, "EMULATED", ())  # so that both are tried here, whatever this CPU can do


def test_the_check_changes_neither_network_nor_random_state() -> None:
    torch.set_num_threads(2)
    module = net().eval()
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    choice, reason = resolve_precision(module, SHAPE)
    assert choice in ("fp32", "bf16")
    assert "layers are within" in reason
    assert not module.training
    assert all(w.grad is None for w in module.parameters())
    assert torch.equal(random, torch.get_rng_state())
    assert torch.get_num_threads() == 2
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_convolutions_on_a_gpu_keep_float32() -> None:
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    try:
        keep_float32("cpu")
        assert convolutions.fp32_precision == before
        keep_float32(torch.device("cuda", 1))
        assert convolutions.fp32_precision == "ieee"
    finally:
        convolutions.fp32_precision = before


def test_whatever_computes_keeps_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, work in {
        "precision": lambda: resolve_precision(net(), SHAPE),
        "infer": lambda: list(predict_logits(net(), [examples(4)])),
        "trainer": lambda: run(tmp_path),
    }.items():
        asked: list[str] = []
        monkeypatch.setattr(f"plusx.engine.{part}.keep_float32", lambda device, asked=asked: asked.append(str(device)))
        work()
        assert asked == ["cpu"], part


@pytest.mark.parametrize(("fast", "wanted"), [(0.03, "bf16"), (0.059, "fp32"), (0.12, "fp32")])
def test_the_faster_one_wins_when_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, fast: float, wanted: str
) -> None:
    sizes: set[int] = set()
    disturbed = itertools.cycle((False, True))

    def seconds(net: nn.Module, images: Tensor, name: str) -> float:
        sizes.add(len(images))
        return len(images) * (fast * (5 if next(disturbed) else 1) if name == "bf16" else 0.06)

    monkeypatch.setattr(precision, "_seconds", seconds)
    choice, reason = resolve_precision(net(), SHAPE)
    assert choice == wanted
    assert f"{0.06 / fast:.2f}x as fast as float32, tried on 5 images" in reason
    assert sizes == {2, 5}


@pytest.mark.parametrize("capability", ["NO AVX", "AVX2"])
def test_emulated_bfloat16_is_not_tried(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(precision, "_seconds", lambda *_: pytest.fail("a pass was timed"))
    assert resolve_precision(net(), SHAPE) == ("fp32", "this CPU has no bfloat16")


class Rough(nn.Conv2d):
    """A convolution whose bf16 kernel is broken."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * self.slip if y.dtype == torch.bfloat16 else y


@pytest.mark.parametrize("slip", [1.1, float("nan")])
def test_a_wrong_layer_is_refused(slip: float) -> None:
    module = net()
    module.conv2 = Rough(8, 8, 3)
    module.conv2.slip = slip
    choice, reason = resolve_precision(module, SHAPE)
    assert choice == "fp32"
    assert re.fullmatch(r"a layer in bfloat16 is (10\.\d|nan)% off", reason)


def test_every_kind_of_layer_is_compared_once() -> None:
    layers = [layer for layer, _ in precision._layers(net(), torch.randn(2, 3, 8, 8))]
    assert [type(layer).__name__ for layer in layers] == ["Conv2d", "Conv2d", "Linear"]
    twice = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)))
    assert len(precision._layers(twice, torch.randn(2, 3, 8, 8))) == 1
