"""Ranks of the driver: alone, under torchrun, or under its agent as forks, each of which begins in a moment."""

import os
import runpy
import sys
import traceback
import uuid
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from torch.distributed import run
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests import forks

DRIVER = Path(__file__).with_name("driver.py")


def alone(*words: str) -> None:
    """The whole life of a rank, whose place in the world is in the environment."""
    sys.argv = [str(DRIVER), *words]
    runpy.run_path(str(DRIVER), run_name="__main__")


def torchrun(processes: int, restarts: int, *words: str) -> None:
    """What the command does: a new interpreter for each rank."""
    os.setpgid(0, 0)
    run.main(["--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}", str(DRIVER), *words])


def agent(path: Path, processes: int, restarts: int, *words: str) -> None:
    """Starts, watches and restarts ranks as `torchrun --standalone` does.

    They are not its own forks: a thread of its store looks up a name whenever a rank connects, and who was forked
    meanwhile waits for the C library's lock for ever. They are those of the server that made this process.
    """
    os.setpgid(0, 0)
    server: Any = forkserver._forkserver
    server.ensure_running = lambda: None  # it runs, but not as a child of this process
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        max_restarts=restarts,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="forkserver",
    )
    elastic_launch(config, _rank)(os.getpid(), path, dict(os.environ), words)


def _rank(group: int, path: Path, environment: dict[str, str], words: tuple[str, ...]) -> None:
    os.setpgid(0, group)
    forks.settle(path, environment)
    try:
        alone(*words)
    except Exception:  # which the agent tells only of the rank that left first
        traceback.print_exc()
        sys.exit(1)
