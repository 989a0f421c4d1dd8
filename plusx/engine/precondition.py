"""Gradients that correlated inputs do not slow down, for short runs; a departure from the paper."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from plusx.engine.distributed import ALONE, World
from plusx.errors import TrainingError

EVERY = 25  # steps from one look at the inputs to the next
SAMPLE = 4096  # patches of a layer in each look
LEAST_IMAGES = 16  # that they come from
MEMORY = 10  # looks that the moving average remembers


class Preconditioner:
    """Multiplies each convolution's gradient by the inverse covariance of the patches that it is applied to.

    Neighbouring pixels, and channels, vary together. Gradient descent moves a filter fast along what they share and
    hardly along what tells them apart. Of a gradient G (channels, patch) and the covariance C (patch, patch) the
    optimizer gets G (C + damping mean(diag C) I)^-1, made as long as G was. This is the input's factor of K-FAC
    (Martens and Grosse 2015, arXiv 1503.05671; for convolutions Grosse and Martens 2016, arXiv 1602.01407) without the
    output's, as Benzing found it to work best (2022, arXiv 2201.12250). Covariances are a moving average, kept in the
    optimizer's state, and so in checkpoints.

    Arguments:
        module: a network; convolutions with groups, and parts that are frozen, are left as they are.
        optimizer: of its parameters; this acts before each of its steps.
        damping: a share of the mean variance; the larger, the nearer to plain gradients.
        world: the processes of the run; the covariance is the mean of theirs.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, damping: float, world: World = ALONE) -> None:
        self._layers = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
        self._layers = [layer for layer in self._layers if layer.weight.requires_grad]
        self._optimizer, self._damping, self._world = optimizer, damping, world
        self._seen: dict[Tensor, Tensor] = {}  # by weight, the covariance in this step's batch
        self._inverses: dict[Tensor, Tensor] = {}
        self._share = 1.0  # of the current batch in the moving average
        optimizer.register_step_pre_hook(self._before_step)

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Looks at the inputs of the forward passes inside, in every 25th step; the first is 0."""
        self._share = max(1 / MEMORY, 1 / (step // EVERY + 1))
        looked_at = self._layers if step % EVERY == 0 else []
        hooks = [layer.register_forward_pre_hook(self._look) for layer in looked_at]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._seen.clear()

    def _look(self, layer: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        if layer.weight not in self._seen:  # of several micro-batches the first
            self._seen[layer.weight] = patch_covariance(layer, inputs[0])

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        moved = self._follow() if self._seen else {}
        for layer in self._layers:
            gradient, inverse = layer.weight.grad, self._inverse(layer.weight)
            if gradient is None or inverse is None:
                continue
            flat = gradient.flatten(1)
            turned = flat @ inverse
            turned *= flat.norm() / turned.norm().clamp(min=torch.finfo(turned.dtype).tiny)
            gradient.copy_(turned.view(gradient.shape))
        for weight, covariance in moved.items():  # when nothing can fail any more: a step is made as a whole or not
            self._optimizer.state[weight]["covariance"] = covariance

    def _follow(self) -> dict[Tensor, Tensor]:
        """The covariances moved toward what was seen, whose inverses are those from now on."""
        self._world.mean(list(self._seen.values()))
        moved = {}
        for weight, seen in self._seen.items():
            before = self._optimizer.state[weight].get("covariance")
            moved[weight] = seen if before is None else before.lerp(seen, self._share)
        self._inverses = {weight: self._inverted(covariance) for weight, covariance in moved.items()}
        return moved

    def _inverse(self, weight: Tensor) -> Tensor | None:
        """None before the first look; after a resume it is computed from the covariance anew, in the same bits."""
        if weight not in self._inverses and "covariance" in self._optimizer.state[weight]:
            self._inverses[weight] = self._inverted(self._optimizer.state[weight]["covariance"])
        return self._inverses.get(weight)

    def _inverted(self, covariance: Tensor) -> Tensor:
        floor = self._damping * covariance.diagonal().mean().clamp(min=torch.finfo(covariance.dtype).eps)
        damped = covariance + floor * torch.eye(len(covariance), device=covariance.device)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            raise TrainingError("the covariance of a layer's inputs has no inverse.", "Raise optim.damping.")
        return torch.cholesky_inverse(factor)


@torch.no_grad()
def patch_covariance(layer: nn.Conv2d, images: Tensor) -> Tensor:
    """Covariance of the patches of images (N, C, H, W) that a convolution multiplies, float32 (C h w, C h w).

    Of some of them: at most `SAMPLE`, of the first images, drawn by torch's global generator.
    """
    with torch.autocast(images.device.type, enabled=False):
        area = images.shape[2] * images.shape[3] // (layer.stride[0] * layer.stride[1])
        some = images[: max(LEAST_IMAGES, SAMPLE // max(area, 1))].float().contiguous()
        geometry = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
        patches = F.unfold(some, layer.kernel_size, **geometry).transpose(0, 1).flatten(1)  # type: ignore[arg-type]
        if patches.shape[1] > SAMPLE:
            drawn = torch.randperm(patches.shape[1])[:SAMPLE]
            patches = patches[:, drawn.to(patches.device)]
        return torch.cov(patches, correction=0).reshape(len(patches), len(patches))
