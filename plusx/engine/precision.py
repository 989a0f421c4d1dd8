"""Which arithmetic the convolutions of training use, decided by trying both."""

import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plusx.engine.isolation import alone

GAIN = 1.1  # bf16 must be this much faster: below, it is not worth its rounding
OFF = 0.03  # largest difference of a layer from float32, as a share of its norm; rounding alone gives 0.005
PASS_SECONDS = 0.3  # length of a pass that is worth timing
TOTAL_SECONDS = 1.5
EMULATED = ("NO AVX", "AVX2")  # capabilities of CPUs that make up bfloat16 from float32, in nine times its time


def keep_float32(device: torch.device | str) -> None:
    """From here on this process's float32 convolutions on a GPU use all bits; by default they have TF32's 10 of 23.

    So that a GPU, too, answers alike to an image alone and in a batch, up to the order of sums, and as a CPU does.
    """
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


def resolve_precision(module: nn.Module, shape: tuple[int, ...], channels_last: bool = True) -> tuple[str, str]:
    """Chooses for precision "auto": a copy of the network is tried in both arithmetics, forward and backward.

    Every different convolution and linear layer must agree with float32; whole passes are timed on as many images as
    fit in 0.3 s. Neither the network nor any random state changes.

    Arguments:
        module: the network on its device.
        shape: N C H W of the training batches.
        channels_last: the memory format of training.

    Returns:
        "fp32" or "bf16", and the reason in a few words.
    """
    device = next(module.parameters()).device
    keep_float32(device)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32", "this GPU has no bfloat16"
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in EMULATED:
        return "fp32", "this CPU has no bfloat16"  # trying it takes ResNet-50 half a minute
    layout = torch.channels_last if channels_last else torch.contiguous_format
    trial = copy.deepcopy(module).train().requires_grad_()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device).contiguous(memory_format=layout)
    with alone():
        torch.set_num_threads(1)  # so that the time it computes can be told from the time other programs take
        end = time.perf_counter() + TOTAL_SECONDS
        differences = [_difference(layer, x) for layer, x in _layers(trial, images[:2])]
        if wrong := [d for d in differences if not d <= OFF]:  # NaN too
            return "fp32", f"a layer in bfloat16 is {wrong[0]:.1%} off"
        times = {p: [_seconds(trial, images[:2], p)] for p in ("fp32", "bf16")}
        # A GPU takes no longer for a quarter of a batch than for two images.
        fitting = len(images) // 4 if device.type == "cuda" else int(2 * PASS_SECONDS / times["fp32"][0])
        count = min(len(images), fitting)
        if count > 2:
            for p in times:
                _seconds(trial, images[:count], p)  # kernels of another shape are built at their first use
            times = {p: [_seconds(trial, images[:count], p)] for p in times}
        while time.perf_counter() < end:
            for p, found in times.items():
                found.append(_seconds(trial, images[: max(count, 2)], p))
    slow, fast = min(times["fp32"]), min(times["bf16"])
    speed = f"bfloat16 is {slow / fast:.2f}x as fast as float32, tried on {max(count, 2)} images"
    return ("bf16" if slow >= GAIN * fast else "fp32"), f"{speed}; its layers are within {max(differences):.1%}"


def _layers(net: nn.Module, images: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """One convolution or linear layer of each kind and shape, with what it gets in a forward pass."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[f"{layer} {tuple(inputs[0].shape)}"] = (layer, inputs[0].detach())

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return list(found.values())


def _difference(layer: nn.Module, x: Tensor) -> float:
    """How far a layer's output and gradients in bf16 are from float32, as a share of their norms."""
    results = []
    direction: Tensor | None = None
    for enabled in (False, True):
        layer.zero_grad(set_to_none=True)
        x = x.detach().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=enabled):
            y = layer(x)
        direction = torch.randn_like(y) if direction is None else direction
        y.float().backward(direction)
        weight: Tensor = layer.get_parameter("weight")
        results.append([t.float() for t in (y.detach(), x.grad, weight.grad) if t is not None])
    pairs = zip(*results, strict=True)
    return max(float((rough - exact).norm() / exact.norm().clamp(min=1e-12)) for exact, rough in pairs)


def _seconds(net: nn.Module, images: Tensor, precision: str) -> float:
    """How long a forward and backward pass takes; on a CPU without what other programs take."""
    cuda = images.device.type == "cuda"
    clock = time.perf_counter if cuda else time.thread_time
    net.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = net(images).float()
    F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64, device=images.device)).backward()  # type: ignore[no-untyped-call]
    if cuda:
        torch.cuda.synchronize()
    return clock() - start
