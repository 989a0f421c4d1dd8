"""A step that fails, taken back or not."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from plusx.engine.guard import Guard
from plusx.errors import PlusxError, TrainingError


def explained(error: BaseException) -> PlusxError | None:
    return TrainingError("out of memory") if isinstance(error, MemoryError) else None


@pytest.mark.parametrize(
    ("error", "moved", "raised", "exact"),
    [
        (MemoryError, False, TrainingError, True),
        (MemoryError, True, MemoryError, False),  # the optimizer has begun: nothing can be taken back
        (RuntimeError, False, RuntimeError, False),  # nobody knows what it left
    ],
)
def test_only_a_known_failure_before_the_optimizer_is_taken_back(
    error: type[Exception], moved: bool, raised: type[Exception], exact: bool
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
