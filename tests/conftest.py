"""What every test gets: one thread, no screen, a cache folder of its own.

Several tests run at a time, each in a process: threads of all of them would wait for each other.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # runs under nohup ignore it on purpose, and so would those of tests


def pytest_configure(config: pytest.Config) -> None:
    """Tests are the same on every machine: only those that are of a GPU see it."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """PLUSX_CACHE in a temporary folder, for this process and those that tests start."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUSX_CACHE", str(cache))
        yield cache


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """One thread at the start of each test, whatever the one before set."""
    import torch

    torch.set_num_threads(1)
