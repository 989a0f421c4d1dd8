"""Batch norm over the images of all processes, so that its statistics do not depend on how many there are."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize(module: nn.Module) -> nn.Module:
    """A network whose batch norms see the batches of all ranks; parameters and names stay.

    GPUs get PyTorch's own, which a CPU cannot run.
    """
    if next(module.parameters()).device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return synced
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.__class__ = SyncedBatchNorm
    return module


class SyncedBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of the batches of all ranks, in float32."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2, input.shape

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, …) of this rank -> the same shape; a collective of all ranks in training."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None, "networks of plusx track statistics"
        assert self.running_var is not None, "networks of plusx track statistics"
        others, row = [0, *range(2, input.ndim)], [1, -1] + [1] * (input.ndim - 2)
        # Sums of what lies around 0 lose no digits, and one exchange is enough for both.
        shift = self.running_mean.view(row).clone()
        x = input.float() - shift
        count = torch.full((1,), x.numel() / x.shape[1], device=x.device)
        sums = _Total.apply(torch.cat([x.sum(others), x.square().sum(others), count]))
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        variance = square - mean.square()
        with torch.no_grad():
            self._follow(mean + shift.flatten(), variance * (sums[-1] / (sums[-1] - 1)))
        scale = (variance + self.eps).rsqrt() * self.weight
        out: Tensor = (x - mean.view(row)) * scale.view(row) + self.bias.view(row)
        return out.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, as PyTorch's batch norm does."""
        assert self.num_batches_tracked is not None, "networks of plusx track statistics"
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        for running, now in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(now, share)  # type: ignore[union-attr]


class _Total(torch.autograd.Function):
    """The sum over ranks; each rank's gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
