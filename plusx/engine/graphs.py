"""CUDA graphs: passes recorded once and replayed, for networks whose kernels end before Python has started the next."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

EXPECTED = "Attempting to run cuBLAS, but there was no"  # PyTorch's own warm-up starts a thread's cuBLAS


class Graphed(nn.Module):
    """A network whose training passes over full batches are replayed, forward and backward.

    The first such batch is recorded. Other batches, evaluation, a body in evaluation mode and layers with hooks run
    as without this. The gradients that a backward pass leaves lie in the recording: the next pass overwrites them, so
    they must be used, or copied, before it.

    Arguments:
        module: the network, on a GPU; images (N, C, H, W) -> logits (N, K).
        batch: N of a full batch.
    """

    def __init__(self, module: nn.Module, batch: int) -> None:
        super().__init__()
        self.module, self._parts = module, tuple(module.modules())
        self._batch = batch
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        if len(images) != self._batch or not self._recordable():
            out: Tensor = self.module(images)
            return out
        if self._replay is None:
            self._shape, self._replay = images.shape, self._record(images)
        assert images.shape == self._shape, "batches of a run have one shape"
        return self._replay(images).clone()  # the next replay overwrites its output

    def _recordable(self) -> bool:
        return self.module.training and not any(p._forward_pre_hooks or p._forward_hooks for p in self._parts)

    def _record(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        """PyTorch warms up with passes of its own, which must not count in batch norm's statistics."""
        buffers = list(self.module.buffers())
        before = [buffer.clone() for buffer in buffers]
        kind = images.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", EXPECTED)
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # replays run on another stream
            # Sequential: the network's own forward stays as it is.
            replay: Any = torch.cuda.make_graphed_callables(nn.Sequential(self.module), (images.clone(),))
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        found: Callable[[Tensor], Tensor] = replay
        return found
