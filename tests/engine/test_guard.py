"""A step that fails, taken back or not."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from plusx.config import EngineConfig
from plusx.engine.distributed import RankError
from plusx.engine.guard import Guard, explain
from plusx.errors import PlusxError, TrainingError


def explained(error: BaseException) -> PlusxError | None:
    return TrainingError("out of memory") if isinstance(error, MemoryError | RankError) else None


@pytest.mark.parametrize(
    ("error", "moved", "raised", "exact"),
    [
        (MemoryError, False, TrainingError, True),
        (RankError("rank 1 lost."), False, TrainingError, True),
        (MemoryError, True, MemoryError, False),  # the optimizer has begun: nothing can be taken back
        (RuntimeError, False, RuntimeError, False),  # nobody knows what it left
    ],
)
def test_only_a_known_failure_before_the_optimizer_is_taken_back(
    error: Exception | type[Exception], moved: bool, raised: type[Exception], exact: bool
) -> None:
    module = nn.BatchNorm1d(3)
    optimizer = SGD(module.parameters(), lr=0.1)
    guard = Guard(module, optimizer)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def step() -> None:
        module(torch.randn(8, 3)).sum().backward()
        if moved:
            optimizer.step()
        raise error

    with pytest.raises(raised), guard.whole_or_nothing(explained):
        step()
    assert guard.exact is exact
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers()) is exact


def test_a_whole_step_may_be_saved_and_one_in_its_midst_not() -> None:
    module = nn.BatchNorm1d(3)
    guard = Guard(module, SGD(module.parameters(), lr=0.1))
    assert guard.exact
    with guard.whole_or_nothing(explained):
        assert not guard.exact
        module(torch.randn(8, 3))
    assert guard.exact
    assert module.num_batches_tracked == 1


@pytest.mark.parametrize("text", ["can't allocate memory", "could not create a primitive", "could not create a memory"])
def test_too_little_memory_asks_for_twice_as_many_parts_of_a_batch(text: str) -> None:
    error = explain(RuntimeError(text), 3, EngineConfig(batch=64, accumulate=4))
    assert error is not None
    assert error.message == "step 3: out of memory with 64 examples a batch."
    assert "engine.accumulate=8," in error.hint
