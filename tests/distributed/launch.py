"""`python launch.py PROCESSES RESTARTS DRIVER WORD…`: ranks under torchrun's agent, forks of one that imported plusx.

They are started, watched and restarted as by `torchrun --standalone`; each begins in a moment, not in the seconds that
importing PyTorch takes.
"""

import importlib
import runpy
import sys
import uuid

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

ONCE = ("plusx.run", "pyarrow.dataset", "scipy.optimize", "torch._dynamo")  # what ranks import, late too


def rank(driver: str, words: list[str]) -> None:
    """The whole life of a rank, whose place in the world is in the environment."""
    sys.argv = [driver, *words]
    runpy.run_path(driver, run_name="__main__")


def main(processes: str, restarts: str, driver: str, *words: str) -> None:
    """Start them, and wait for their end."""
    for name in ONCE:
        importlib.import_module(name)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(processes),
        max_restarts=int(restarts),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
    )
    elastic_launch(config, rank)(driver, list(words))


if __name__ == "__main__":
    main(*sys.argv[1:])
