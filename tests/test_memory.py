"""Freed memory stays with the process, as far as it is said to."""

import subprocess
import sys
from pathlib import Path

import pytest

from plusx.engine import infer, trainer
from tests.engine.tiny import examples, net, run

SOURCE = """
import ctypes, resource, sys
from plusx.memory import keep_freed_memory

libc, limit, size = ctypes.CDLL(None), {limit}, 40 << 20
libc.malloc.restype = ctypes.c_void_p
if limit != 0:
    keep_freed_memory(limit)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size))) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks:
        libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
sys.stdout.write(str(faults))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's switch")
def test_blocks_that_are_taken_again_are_not_faulted_in_again() -> None:
    faults = {}
    for limit in (0, 2**28, None):  # 0: without the call
        done = subprocess.run([sys.executable, "-c", SOURCE.format(limit=limit)], capture_output=True, check=True)
        faults[limit] = int(done.stdout)
    assert faults[None] < 100  # of the 81,920 pages of eight blocks of 40 MiB
    assert faults[0] > 40_000
    assert faults[2**28] > 40_000  # they are more than 256 MiB together, and go back


def test_training_and_evaluation_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module in (trainer, infer):
        monkeypatch.setattr(module, "keep_freed_memory", lambda name=module.__name__: calls.append(name))
    run(tmp_path)
    assert calls == [trainer.__name__]
    list(infer.predict_logits(net(), [examples(4)]))
    assert calls == [trainer.__name__, infer.__name__]
