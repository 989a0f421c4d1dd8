"""What PyTorch keeps for a process or a thread is the caller's: it changes no result here, and stays as it was."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_TRAINING = threading.RLock()  # random state and number of threads are the process's: one training at a time
_COUNTING = threading.Lock()
_users, _given = 0, torch.float32  # how many of `_float32` are entered, and the default type before the first


@contextmanager
def standard() -> Iterator[None]:
    """Inside, PyTorch is as after its import: float32, on the CPU, gradients recorded, no autocast.

    Only what the caller has set costs anything: a default device is asked at every call of PyTorch.
    """
    with ExitStack() as stack:
        stack.enter_context(_float32())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                # Its cache of rounded weights would live until the caller's autocast ends, over steps that move them.
                stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        yield


@contextmanager
def alone() -> Iterator[None]:
    """`standard`, with random numbers and threads that nobody else uses; another thread that enters waits its turn.

    The random states of PyTorch, those of GPUs where they are in use, and its number of threads are given back.
    """
    with _TRAINING:
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        threads = torch.get_num_threads()
        try:
            with standard(), torch.random.fork_rng(gpus):
                yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _float32() -> Iterator[None]:
    """float32 by default, for all threads: the first to enter sets it, the last to leave gives back what was there."""
    global _users, _given
    with _COUNTING:
        if _users == 0:
            _given = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _users += 1
    try:
        yield
    finally:
        with _COUNTING:
            _users -= 1
            if _users == 0:
                torch.set_default_dtype(_given)
