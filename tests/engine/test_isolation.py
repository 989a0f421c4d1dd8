"""What the caller has set for PyTorch stays outside and as it was."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import torch
from torch import Tensor, nn

from plusx.engine.isolation import alone, standard


@contextmanager
def odd() -> Iterator[None]:
    """All that a caller may have set."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def seen() -> tuple[object, ...]:
    made = torch.zeros(1)
    cached = torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()
    return made.dtype, made.device.type, made.is_inference(), torch.is_grad_enabled(), *cached


@pytest.mark.parametrize("entered", [standard, alone])
def test_nothing_of_the_callers_comes_in_and_all_is_given_back(entered: object) -> None:
    assert callable(entered)
    with odd():
        before = seen()
        with suppress(KeyError), entered():
            inside = seen()
            raise KeyError
        assert seen() == before == (torch.float64, "meta", True, False, True, True)
    assert inside == (torch.float32, "cpu", False, True, False, False)


def test_weights_that_move_under_the_callers_autocast_are_the_new_ones() -> None:
    layer, x, answers = nn.Linear(1, 1, bias=False), torch.ones(1, 1), list[Tensor]()
    with torch.autocast("cpu", torch.bfloat16), standard():
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                answers.append(layer(x))
            with torch.no_grad():
                layer.weight += 1
    assert answers[1] - answers[0] == 1


def test_random_numbers_and_threads_are_given_back() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    with alone():
        torch.manual_seed(0)
        torch.set_num_threads(2)
    assert (torch.rand(1), torch.get_num_threads()) == (wanted, 1)


def test_the_default_type_is_given_back_by_the_last_thread_that_leaves() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with standard():
            inside.set()
            leave.wait()

    torch.set_default_dtype(torch.float64)
    try:
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait()
        with standard():
            pass
        assert torch.get_default_dtype() == torch.float32
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_one_thread_at_a_time_is_alone() -> None:
    inside, most = [], []

    def work() -> None:
        with alone(), alone():  # as a training that is started in another one's on_step
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
