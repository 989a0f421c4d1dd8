"""What plusx finds on this machine, and a self-check of the fast paths that it would use."""

import io
import platform
import timeit
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from PIL import Image, features

from plusx import modelfile
from plusx.data.decode import decode
from plusx.engine import checkpoint
from plusx.engine.distributed import FOLDER as FAILURES
from plusx.errors import ConfigError, ModelFileError
from plusx.models import create_model
from plusx.plan import read_json
from plusx.threads import own_cores

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "scikit-learn", "pyarrow", "simplejpeg")


def examine() -> dict[str, Any]:
    """Versions, devices and fast paths, and `checks`: a list of `{check, ok, detail}`, each really run."""
    return {
        "plusx": metadata.version("plusx"),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "system": platform.platform(),
        "cpu": f"{own_cores()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or "none",
        "jpeg decoder": "libjpeg-turbo" if features.check_feature("libjpeg_turbo") else "libjpeg (slow)",
        "checks": [_run_check(name, check) for name, check in CHECKS.items()],
    }


def examine_run(folder: Path) -> dict[str, Any]:
    """What a run folder holds: `finished`, its checkpoints and model file as `files`, and `failures` of its ranks.

    Every file is read in full and verified; nothing is changed. Each is `{file, bytes, ok, state}`; a damaged record of
    a failure is among them.

    Raises:
        ConfigError: no run there.
    """
    if not (folder / "config.json").exists():
        raise ConfigError(f"{folder}: holds no run.", "Give a run folder, such as runs/photos.")
    checkpoints = sorted((folder / "checkpoints").glob("step-*"), reverse=True)
    files = [_file_row(path, checkpoint.load) for path in checkpoints]
    finished, model = modelfile.finished(folder), folder / modelfile.FILE_NAME
    if model.exists():
        files.append(_file_row(model, modelfile.load))
    elif finished:
        files.append({"file": model.name, "bytes": 0, "ok": False, "state": "missing"})
    records = sorted((folder / FAILURES).glob("rank-*.json"))
    damaged = [row for row in (_file_row(path, _failure) for path in records) if not row["ok"]]
    failures = [_failure(path) for path in records if path.name not in {row["file"] for row in damaged}]
    files += damaged
    return {"run": str(folder), "finished": finished, "files": files, "failures": failures}


def _failure(path: Path) -> dict[str, Any]:
    return read_json(path, ("rank", "step", "failure"))


def _file_row(path: Path, read: Callable[[Path], object]) -> dict[str, Any]:
    state = "whole"
    try:
        read(path)
    except ModelFileError as error:
        state = error.message.removeprefix(f"{path}: ")
    return {"file": path.name, "bytes": path.stat().st_size, "ok": state == "whole", "state": state}


def _run_check(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "detail": check()}
    except Exception as error:  # a broken installation may fail in any way, and doctor has to say how
        return {"check": name, "ok": False, "detail": f"{type(error).__name__}: {error}"}


def _decodes() -> str:
    """A JPEG written and read back is the same picture to within its compression."""
    ramp = Image.linear_gradient("L").convert("RGB")
    buffer = io.BytesIO()
    ramp.save(buffer, "JPEG", quality=95)
    image = decode(buffer.getvalue(), channels=3)
    wanted = torch.arange(256).view(1, 256, 1).expand(3, 256, 256)
    worst = int((image.int() - wanted).abs().max())
    if worst > 4:
        raise ValueError(f"a decoded ramp is off by {worst} of 255")
    return f"JPEG ramp within {worst} of 255"


def _bf16_convolution() -> str:
    """bfloat16 convolutions agree with float32 and, where the hardware has them, are faster."""
    x = torch.randn(32, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        exact, t32 = _timed(lambda: conv(x))
        with torch.autocast("cpu", torch.bfloat16):
            half, t16 = _timed(lambda: conv(x))
    error = float((half.float() - exact).norm() / exact.norm())
    if error > 0.01:
        raise ValueError(f"bf16 differs from fp32 by {error:.1%}")
    return f"{t32 / t16:.1f}x the speed of fp32, relative difference {error:.2%}"


def _timed(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """The result of a call and its shortest time of five in seconds, after one warm-up."""
    return call(), min(timeit.repeat(call, number=1, repeat=5))


def _channels_last() -> str:
    """Both memory formats give the same logits."""
    torch.manual_seed(0)
    model, x = create_model("resnet20", num_classes=10).eval(), torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        plain = model(x)
        last = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    worst = float((plain - last).abs().max() / plain.abs().max())
    if worst > 1e-4:
        raise ValueError(f"logits differ by {worst:.1e}")
    return f"logits within {worst:.0e}, relative"


CHECKS: dict[str, Callable[[], str]] = {
    "image decoding": _decodes,
    "bf16 convolutions": _bf16_convolution,
    "channels_last": _channels_last,
}
