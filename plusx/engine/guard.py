"""A step that fails for a reason that a user can do something about leaves the state as it was."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from plusx.config import EngineConfig
from plusx.engine.distributed import RankError
from plusx.errors import NEW_RUN, PlusxError, TrainingError

OUT_OF_MEMORY = "can't allocate memory|could not create a (primitive|memory)"  # of PyTorch and of oneDNN


class Guard:
    """Knows whether a run's state is that of a step's end, and takes back a step that did not come that far.

    Arguments:
        module: whose buffers a pass moves; batch norm's statistics.
        optimizer: what it has begun to move cannot be taken back.

    Attributes:
        exact: the state is that of a step's end, and so may be saved.
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self.exact = True
        self._updating = False  # the optimizer has begun to move weights
        every = list(module.buffers())  # by type: those of one are one kernel on a GPU
        self._buffers = [[buffer for buffer in every if buffer.dtype == kind] for kind in {b.dtype for b in every}]
        self._spare = [[buffer.clone() for buffer in alike] for alike in self._buffers]
        optimizer.register_step_pre_hook(lambda *_: setattr(self, "_updating", True))

    @contextmanager
    def whole_or_nothing(self, explain: Callable[[BaseException], PlusxError | None]) -> Iterator[None]:
        """What fails inside for a known reason, before the optimizer moves, leaves the state as it was.

        Arguments:
            explain: what a failure means to a user; None where nobody knows.

        Raises:
            PlusxError: in its place, with what to do.
        """
        self.exact = self._updating = False
        for spare, buffers in zip(self._spare, self._buffers, strict=True):  # batch norm moves them on the way forward
            torch._foreach_copy_(spare, buffers)
        try:
            yield
        except (MemoryError, RuntimeError, RankError) as error:
            explained = explain(error)
            if self._updating or explained is None:
                raise
            self.take_back()
            self.exact = True
            raise explained from error
        self.exact = True

    def take_back(self) -> None:
        """Put the buffers of before the step back."""
        for spare, buffers in zip(self._spare, self._buffers, strict=True):
            torch._foreach_copy_(buffers, spare)


def explain(error: BaseException, step: int, engine: EngineConfig) -> TrainingError | None:
    """What a user can do about a failure that is neither the data's nor ours."""
    if isinstance(error, PlusxError):
        return None
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or re.search(OUT_OF_MEMORY, str(error)):
        message = f"step {step}: out of memory with {engine.batch} examples a batch."
        parts = f"engine.accumulate={2 * engine.accumulate}, which keeps the batch, or a smaller engine.batch"
        return TrainingError(message, f"Set {parts}: {NEW_RUN}.")
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        message = f"step {step}: torch.compile failed: {str(error).strip().splitlines()[0][:200]}"
        return TrainingError(message, "Install what it asks for, or set engine.compile=false.")
    return None
