"""Which arithmetic the convolutions of training use, decided by trying both."""

import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = 1.1  # bf16 must be this much faster: below, it is not worth its rounding
LOGITS_OFF = 0.1  # largest difference between the two, as a share of the float32 logits
GRADIENTS_AGREE = 0.9  # smallest cosine between the two gradients
PASS_SECONDS = 0.2  # length of a pass that is worth timing
TOTAL_SECONDS = 1.5


def resolve(
    name: str, module: nn.Module, shape: tuple[int, int, int, int], channels_last: bool = True
) -> tuple[str, str]:
    """Chooses for precision "auto": passes of a copy of the network, forward and backward, in both arithmetics.

    The batch is as large as a pass of about 0.2 s allows. Neither the network nor any random state changes.

    Arguments:
        name: "auto", or a choice that is kept.
        module: the network on its device.
        shape: N C H W of the training batches.
        channels_last: the memory format of training.

    Returns:
        "fp32" or "bf16", and the reason in a few words.
    """
    if name != "auto":
        return name, "as set"
    device = next(module.parameters()).device
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "fp32", "this GPU has no bfloat16"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    trial = copy.deepcopy(module).train()
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device).contiguous(memory_format=layout)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        few = images[:2]
        _pass(trial, few, "bf16")  # kernels are built at their first use
        _pass(trial, few, "fp32")
        cost = _pass(trial, few, "fp32")[0]
        images = images[: max(2, int(2 * PASS_SECONDS / cost))]
        (slow, logits, gradient), (fast, logits16, gradient16) = (_pass(trial, images, p) for p in ("fp32", "bf16"))
        end = time.perf_counter() + TOTAL_SECONDS
        for round_ in range(4):
            if round_ and time.perf_counter() > end:
                break
            slow, fast = min(slow, _pass(trial, images, "fp32")[0]), min(fast, _pass(trial, images, "bf16")[0])
    off = float((logits16 - logits).norm() / logits.norm().clamp(min=1e-12))
    agree = float(F.cosine_similarity(gradient16, gradient, dim=0))
    found = f"logits within {off:.1%}, gradients' cosine {agree:.4f}"
    # Written so that NaN fails.
    if not (off <= LOGITS_OFF and agree >= GRADIENTS_AGREE):
        return "fp32", f"bfloat16 is too far off on this network: {found}"
    speed = f"bfloat16 is {slow / fast:.2f}x as fast as float32 on {len(images)} images ({1e3 * fast:.0f} ms a pass)"
    return ("bf16" if slow >= GAIN * fast else "fp32"), f"{speed}; {found}"


def _pass(net: nn.Module, images: Tensor, precision: str) -> tuple[float, Tensor, Tensor]:
    """Seconds of a forward and backward pass, its logits and its gradient."""
    cuda = images.device.type == "cuda"
    net.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = net(images).float()
    targets = torch.arange(len(images), device=images.device) % logits.shape[1]
    F.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    gradients = [w.grad.float().flatten() for w in net.parameters() if w.grad is not None]
    return seconds, logits.detach(), torch.cat(gradients)
