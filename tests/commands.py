"""plusx as a user runs it: in this process, which is fast, or in one of its own, which can be stopped."""

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from plusx.cli import app, main
from tests.forks import Fork

ROOT = Path(__file__).parents[1]
SMALL = ("--model", "resnet8", "--set", "model.width=8", "--set", "engine.precision=fp32", "--set", "engine.threads=1")
STEPS = (*SMALL, "--set", "schedule.steps=3")


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def plusx(*words: Any) -> Ran:
    """Run a command in this process."""
    out, err, hears = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGINT)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([str(word) for word in words], prog_name="plusx")
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGINT, hears)  # a command that fails ends its process, and hears nothing more
    assert isinstance(code, int)
    return Ran(code, out.getvalue(), err.getvalue())


def start(*words: Any) -> "subprocess.Popen[str]":
    """Start a command as a shell does."""
    command, env = [sys.executable, "-m", "plusx", *map(str, words)], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> Ran:
    """Wait for the end of such a command."""
    out, err = process.communicate(timeout=300)
    return Ran(process.returncode, out, err)


def begin(folder: Path, *words: Any, file_size: int | None = None) -> Fork:
    """Start a command in a process, a session and a group of its own, in a moment.

    Arguments:
        folder: gets what it writes.
        words: of the command.
        file_size: bytes that a file may have.
    """
    return Fork(_command, *map(str, words), path=folder / f"told-{time.time_ns()}", file_size=file_size)


def _command(*words: str) -> None:
    os.setsid()
    sys.argv = ["plusx", *words]
    main()


def end(process: Fork) -> Ran:
    """Wait for the end of such a process."""
    code = process.wait()
    assert code is not None, process.told()
    return Ran(code, *process.said())


def contents(folder: Path) -> dict[str, str]:
    """Every path below a folder with the hash of its bytes; "" for folders."""
    files = {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
    return {str(p.relative_to(folder)): "" if b is None else hashlib.sha256(b).hexdigest() for p, b in files.items()}


def photos(root: Path, count: int = 16, classes: tuple[str, ...] = ("apple", "bear", "cat"), seed: int = 0) -> Path:
    """JPEG photos of mixed sizes, some of them turned by EXIF; the class is a weak tint in strong noise."""
    draw = np.random.default_rng(seed)
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            width, height = (int(side) for side in draw.integers(60, 201, 2))
            pixels = draw.normal(128, 30, (height, width, 3)) + draw.normal(0, 25, 3)
            pixels[..., k] += 40
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            exif = image.getexif()
            if i % 4 == 1:
                exif[0x112] = 3 + 3 * (i % 3 == 0)
            image.save(root / name / f"{i}.jpg", exif=exif)
    return root
