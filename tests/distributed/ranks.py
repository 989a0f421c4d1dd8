"""Runs of several processes for tests: `torchrun` as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT = 120


def torchrun(processes: int, *arguments: str, restarts: int = 0, **environment: str) -> subprocess.Popen[str]:
    """`torchrun --standalone` of `python arguments`, one thread a rank, in a group of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [f"--max-restarts={restarts}", *arguments]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def train(processes: int, data: Path, out: Path, *options: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """`plusx train` in several processes, to its end."""
    arguments = ("-m", "plusx", "train", str(data), "--out", str(out), *options)
    process = torchrun(processes, *arguments, restarts=restarts)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
