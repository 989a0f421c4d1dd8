"""Turns the `.pth` file on its standard input into safetensors: the one place where a pickle is loaded.

    python -I pth_import.py OUT FOLDER... < FILE.pth

`weights_only=True` makes tensors and plain containers and calls nothing else. Should a file ever fool it, this process
has little to give: no network, no program, no file of Python's, and bounded memory, time and output. The folders are
those that torch and safetensors are imported from; nothing of plusx is.
"""

import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model")  # what training programs wrap weights in
DEPTH = 4  # containers in containers
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
ROOM = 1 << 30  # bytes of memory beside a few times the file
SECONDS = 30  # of CPU time; ResNet-152 with its optimizer takes a few
HARMLESS = "object.__setattr__"  # the only event of PyTorch and safetensors once they are warm


def main(out: str, folders: list[str]) -> None:
    """Import, confine, load, write."""
    sys.path += folders
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)  # threads that start later would not fit into the memory

    def load(file: io.BytesIO) -> Any:
        return torch.load(file, map_location="cpu", weights_only=True)

    for archive in (True, False):  # a rehearsal, which imports all that is imported late
        sample = io.BytesIO()
        torch.save({"a": torch.ones(2)}, sample, _use_new_zipfile_serialization=archive)
        save_file(load(io.BytesIO(sample.getvalue())), out)
    content = sys.stdin.buffer.read()
    confine(len(content))
    try:
        state, rest = unwrapped(load(io.BytesIO(content)))
        known = {k: v for k, v in state.items() if type(k) is str and torch.is_tensor(v) and kind(v) in DTYPES}
        rest |= {k: v for k, v in state.items() if k not in known}
        skipped = {k[:200] if type(k) is str else f"a key that is {kind(k)}": kind(v) for k, v in rest.items()}
        # Cloned, so that none share memory, which a .safetensors file cannot say.
        tensors = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in known.items()}
        save_file(tensors, out, {"skipped": json.dumps(skipped)})
    except Exception as error:  # whatever a stranger's file leads to is told in one line
        sys.exit(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    os._exit(0)  # what runs at exit may open files


def confine(size: int) -> None:
    """From now on: no event that leaves this process, and limits for a file of `size` bytes."""
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_AS, (memory + 4 * size + ROOM,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + ROOM // 64,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(refuse)


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook."""
    if event != HARMLESS:
        raise RuntimeError(f"refused, it led to {event}")


def unwrapped(plain: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The state_dict in what was loaded, and what stands around it."""
    rest: dict[Any, Any] = {}
    for _ in range(DEPTH):
        inner = [name for name in CONTAINERS if isinstance(plain, dict) and isinstance(plain.get(name), dict)]
        if inner:
            rest |= {name: value for name, value in plain.items() if name != inner[0]}
            plain = plain[inner[0]]
    if not isinstance(plain, dict):
        raise TypeError(f"it holds {kind(plain)}, expected a state_dict")
    return plain, rest


def kind(value: Any) -> str:
    """The dtype of a tensor, the type of anything else."""
    return str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
