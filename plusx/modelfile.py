"""The finished model: one safetensors file that carries all that answering needs, and the `Classifier` read from it.

The header's metadata has one key, `plusx`: a JSON document (canonical: sorted keys, ASCII, no spaces) with

    format            version of this layout
    versions          of Python and of the packages that wrote it
    arch              arguments of `create_model` that rebuild the network
    classes, task     class names in the order of the logits; "single" or "multi"
    preprocess        how a file becomes a tensor
    temperature       divides the logits before softmax; null when not calibrated
    metrics           what was measured, on which data set, with counts
    recipe, config    where the weights came from, fully resolved
    manifest_hash     of the examples it was trained on
    tensors_sha256    over the tensors, as `tensorfile.digest` defines it
    document_sha256   over the canonical document without this key

A loader verifies all of it; unknown extra keys are kept, so that files of later minor versions still load.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plusx.data.folder import find_images
from plusx.data.transforms import Preprocess, eval_batch
from plusx.engine import tensorfile
from plusx.engine.infer import Images, predict_logits
from plusx.engine.isolation import standard
from plusx.errors import ConfigError, ImageError, ModelFileError, PlusxError
from plusx.models import create_model, resolve
from plusx.threads import ahead, own_cores

FORMAT = 1
FILE_NAME = "model.safetensors"
RECORD = "result.json"  # the last file of a run
PACKAGES = ("plusx", "torch", "torchvision", "numpy", "pillow", "simplejpeg", "safetensors")

Answer = dict[str, Any]  # {"path", "labels": [{"label", "probability"}, …]} or {"path", "error"}


@dataclass(frozen=True)
class Classifier:
    """A trained network and the one way to ask it.

    Attributes:
        module: the network, in evaluation mode; images (N, C, H, W) -> logits (N, K).
        classes: the K class names, in the order of the logits.
        preprocess: file or bytes -> float32 (C, H, W); the same code as evaluation in training.
        task: "single" (one label an image) or "multi" (any number).
        meta: the model file's document.
        path: the model file.
    """

    module: nn.Module
    classes: tuple[str, ...]
    preprocess: Preprocess
    task: str
    meta: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)
    path: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the network answers."""
        return next(self.module.parameters()).device

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits (N, K) divided by the calibration temperature; on the CPU float64, so that what differs goes on to.

        Raises:
            ModelFileError: some are not finite.
        """
        exact = logits.double() if logits.device.type == "cpu" else logits
        answers = exact / (self.meta.get("temperature") or 1.0)
        if not answers.isfinite().all():
            raise ModelFileError("the model's answers are not finite numbers.", "Its weights cannot be used.")
        return answers

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, K) -> probabilities (N, K), calibrated: softmax, or sigmoid for multi-label."""
        scaled = self.calibrated(logits)
        return (scaled.softmax(1) if self.task == "single" else scaled.sigmoid()).to(logits.dtype)

    def labels(self, logits: Tensor, top: int = 5) -> list[list[dict[str, Any]]]:
        """Logits (N, K) -> for each of N the `top` classes, most probable first."""
        # Ranked by logits: softmax rounds different logits to the same probability.
        ranks = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]
        values = self.probabilities(logits).gather(1, ranks)
        return [
            [{"label": self.classes[k], "probability": p} for k, p in zip(row, shares, strict=True)]
            for row, shares in zip(ranks.tolist(), values.tolist(), strict=True)
        ]

    @standard()
    def predict(self, paths: str | Path | Iterable[str | Path], top: int = 5) -> list[Answer]:
        """Answers for files, folders and globs, as `plusx predict --json` prints them; a bad file gets an `error`.

        What is left out of folders is a warning.

        Raises:
            PlusxError: `top` below 1.
        """
        check_top(top)
        return list(self.answers(find_images(paths), top))

    def answers(self, files: Sequence[str], top: int = 5, batch: int | None = None) -> Iterator[Answer]:
        """An answer for each file, in order; a file that cannot be read is answered with its `error`.

        Arguments:
            files: paths of image files.
            top: labels an answer.
            batch: images a forward pass; None is as many as evaluation takes.
        """
        errors: dict[int, str] = {}
        position, count = 0, batch or eval_batch(self.preprocess.size)
        for logits, _, ids in predict_logits(self.module, self._batches(files, count, errors), self.device):
            for index, labels in zip(ids.tolist(), self.labels(logits, top), strict=True):
                yield from ({"path": files[bad], "error": errors[bad]} for bad in range(position, index))
                yield {"path": files[index], "labels": labels}
                position = index + 1
        yield from ({"path": files[bad], "error": errors[bad]} for bad in range(position, len(files)))

    def _batches(self, files: Sequence[str], batch: int, errors: dict[int, str]) -> Iterator[Images]:
        """The files that decode, in batches; why the others do not goes into `errors`."""
        images: list[Tensor] = []
        ids: list[int] = []
        for index, image in enumerate(ahead(self._open, files, own_cores(), 2 * batch)):
            if isinstance(image, ImageError):
                errors[index] = image.reason
            else:
                images.append(image)
                ids.append(index)
            if images and (len(images) == batch or index == len(files) - 1):
                yield Images.of(images, ids)
                images, ids = [], []

    def _open(self, path: str) -> Tensor | ImageError:
        try:
            image: Tensor = self.preprocess.load(path)
            return image
        except ImageError as error:
            return error


def check_top(top: int) -> None:
    """Refuses a number of labels that no answer can have.

    Raises:
        PlusxError: no whole number, or one below 1.
    """
    if not hasattr(top, "__index__") or top < 1:
        raise PlusxError(f"top: got {top!r}, expected a whole number, at least 1.")


def check_device(device: str | torch.device, called: str = "device") -> None:
    """Whether a device is there; `called` is what the user set.

    Raises:
        ConfigError: it is not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # each device has its own way to say that it is not there
        message = f"{called}: got {str(device)!r}: {str(error).splitlines()[0]}"
        raise ConfigError(message, "Leave it out of a new run, or name one that is, such as cpu.") from error


def save(
    path: str | Path,
    module: nn.Module,
    *,
    classes: Sequence[str],
    task: str,
    preprocess: Preprocess,
    metrics: Mapping[str, Any],
    recipe: str,
    config: Mapping[str, Any],
    manifest_hash: str,
    temperature: float | None = None,
) -> None:
    """Writes a model file: whole, synced and read back before it replaces what was there.

    Arguments:
        path: the file to write.
        module: the network; wrappers of `torch.compile` and DDP are left out.
        classes: K names in the order of the logits.
        task: "single" or "multi".
        preprocess: the evaluation transform.
        metrics: what was measured, with data set, split and counts.
        recipe: name of the recipe.
        config: the resolved configuration, as plain JSON values.
        manifest_hash: of the examples trained on; "" when there is none.
        temperature: divides the logits before softmax.

    Raises:
        TrainingError: the disk is full or failed; what was at `path` is untouched.
        ModelFileError: a weight, or something of the document, that `load` would refuse.
    """
    network = unwrap(module)
    tensors = network.state_dict()
    if problem := tensorfile.unusable(tensors):
        raise ModelFileError(f"{path}: not written, {problem}.", "Continue from the last good checkpoint.")
    document = {
        "format": FORMAT,
        "versions": versions(),
        "arch": network.arch,
        "classes": list(classes),
        "task": task,
        "preprocess": preprocess.to_dict(),
        "temperature": temperature,
        "metrics": dict(metrics),
        "recipe": recipe,
        "config": dict(config),
        "manifest_hash": manifest_hash,
        "tensors_sha256": tensorfile.digest(tensors),
    }
    document["document_sha256"] = _document_hash(document)
    if problem := _document_problem(document):
        raise ModelFileError(f"{path}: not written, {problem}.", "`plusx.load` would refuse it.")
    tensorfile.write(Path(path), tensors, {"plusx": _canonical(document)})


@standard()
def load(
    path: str | os.PathLike[str], *, device: str | torch.device | None = None, allow_nonfinite: bool = False
) -> Classifier:
    """Reads a model file, verifies all of it, and runs no code from it.

    Arguments:
        path: a model file, or the run, or run folder, that holds one.
        device: where the network will answer; None is the GPU where there is one.
        allow_nonfinite: accept NaN, infinity and other values that no network can compute with, to inspect them.

    Raises:
        ModelFileError: no file there, damaged, foreign, made by a later version, or unusable; the message says which.
        ConfigError: no such device here.
    """
    if not isinstance(path, str | os.PathLike):
        raise ModelFileError(f"got a {type(path).__name__}, expected a run or a path.", "Give a run or a model file.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    found = model_path(Path(path))
    tensors, document, module = read(found, allow_nonfinite=allow_nonfinite)
    module.load_state_dict(tensors, assign=True)
    preprocess = _preprocess(document, found)
    module, classes = module.to(device).eval(), tuple(document["classes"])
    return Classifier(module, classes, preprocess, document["task"], document, found)


def read(
    path: Path, *, foreign: bool = False, allow_nonfinite: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any], Any]:
    """The verified tensors of a file, its document, and the network it describes, without memory for weights.

    Arguments:
        path: the file.
        foreign: accept .safetensors files of other programs, which have an empty document and no network.
        allow_nonfinite: see `load`.

    Raises:
        ModelFileError: damaged, or with values that no network can compute with.
    """
    document, module = {}, None
    with tensorfile.opened(path) as file:
        header = tensorfile.read_header(file, path)
        if "plusx" in header.metadata or not foreign:
            document = _document(header.metadata, path)
            module = _empty_network(document["arch"], header, path)
        tensors = tensorfile.read_tensors(file, header)
    if document and tensorfile.digest(tensors) != document["tensors_sha256"]:
        raise ModelFileError(f"{path}: damaged, the weights differ from their SHA-256.", tensorfile.COPY)
    if (problem := tensorfile.unusable(tensors)) and not allow_nonfinite:
        raise ModelFileError(f"{path}: refused, {problem}.", "plusx.load(path, allow_nonfinite=True) inspects it.")
    return tensors, document, module


def describe(path: Path) -> tuple[dict[str, Any], Preprocess] | None:
    """The verified arguments of `create_model` and the evaluation transform; None for files of other programs.

    Raises:
        ModelFileError: damaged, or with values that cannot be used.
    """
    with tensorfile.opened(path) as file:
        header = tensorfile.read_header(file, path)
    if "plusx" not in header.metadata:
        return None
    document = _document(header.metadata, path)
    _empty_network(document["arch"], header, path)
    return document["arch"], _preprocess(document, path)


def _preprocess(document: Mapping[str, Any], path: Path) -> Preprocess:
    try:
        return Preprocess.from_dict(document["preprocess"])
    except (PlusxError, ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"{path}: preprocessing that cannot be used: {error}", tensorfile.COPY) from error


def model_path(path: Path) -> Path:
    """The file that a path names: itself, or the model file of a run folder.

    Raises:
        ModelFileError: nothing there.
    """
    if path.is_dir():
        if (path / FILE_NAME).exists():
            return path / FILE_NAME
        raise ModelFileError(f"{path}: a folder without {FILE_NAME}.", "Give a finished run folder or a model file.")
    if not path.exists():
        raise ModelFileError(f"{path}: no such file or run folder.", "Give a run folder or a .safetensors model file.")
    return path


def versions() -> dict[str, str]:
    """Versions of what decides a model's answers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def finished(folder: Path) -> bool:
    """Whether a run there went to its end."""
    return (folder / RECORD).exists()


def unfinished(given: str | os.PathLike[str] | Classifier) -> bool:
    """Whether this is the folder of a run that has more to do."""
    if isinstance(given, Classifier):
        return False
    return (Path(given) / "config.json").exists() and not finished(Path(given))


def unwrap(module: nn.Module) -> Any:
    """The network inside the wrappers of `torch.compile` and DDP, whose names would end up in the file."""
    children = dict(module.named_children())
    while inner := [children[name] for name in ("_orig_mod", "module") if name in children]:
        module = inner[0]
        children = dict(module.named_children())
    return module


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _document_hash(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "document_sha256"}
    return hashlib.sha256(_canonical(rest).encode()).hexdigest()


def _document(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The verified document of a header."""
    if "plusx" not in metadata:
        raise ModelFileError(
            f"{path}: weights of another program, without plusx's metadata.", "Use it with `plusx train --weights`."
        )
    try:
        document = tensorfile.parse_json(metadata["plusx"])
        # Compared as text too: "\u00e9" and "\u00E9" are one string, and a flipped bit apart.
        same_text = _canonical(document) == metadata["plusx"]
        whole = same_text and document.get("document_sha256") == _document_hash(document)
    except ValueError as error:
        raise ModelFileError(f"{path}: damaged metadata: {error}.", tensorfile.COPY) from error
    made_by = document.get("format")
    if type(made_by) is int and made_by > FORMAT:
        raise ModelFileError(
            f"{path}: made by format {made_by}, this plusx reads up to {FORMAT}.", "Install the current plusx."
        )
    if not whole or made_by != FORMAT:
        raise ModelFileError(f"{path}: damaged, the metadata differs from its SHA-256.", tensorfile.COPY)
    if problem := _document_problem(document):
        raise ModelFileError(f"{path}: metadata that cannot be used: {problem}.", "The file was not made by plusx.")
    return document


def _document_problem(document: Mapping[str, Any]) -> str:
    kinds = {"arch": dict, "classes": list, "preprocess": dict, "metrics": dict, "config": dict, "versions": dict}
    if wrong := [key for key, kind in kinds.items() if not isinstance(document.get(key), kind)]:
        return f"{', '.join(wrong)} missing or of another type"
    classes, temperature = document["classes"], document.get("temperature")
    if not classes or not all(isinstance(c, str) and c for c in classes) or len(set(classes)) != len(classes):
        return "class names that are empty, repeated or not text"
    if document["arch"].get("num_classes") != len(classes):
        return f"{len(classes)} class names for {document['arch'].get('num_classes')} outputs"
    if document.get("task") not in ("single", "multi"):
        return f"task {document.get('task')!r}"
    if temperature is not None and not (type(temperature) in (int, float) and 1e-6 <= temperature <= 1e6):
        return f"temperature {str(temperature)[:40]}"
    return ""


def _empty_network(arch: Mapping[str, Any], header: tensorfile.Header, path: Path) -> nn.Module:
    """The network that a document describes, without memory for weights, after its shapes were found in the header."""
    try:
        depth = resolve(str(arch.get("name"))).depth
        # A layer has at least one tensor, so a name that asks for more layers than that would be built for nothing.
        if depth > len(header.entries):
            raise ValueError(f"{len(header.entries)} tensors for {depth} layers")
        with torch.device("meta"):
            module = create_model(**arch)
    except (PlusxError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ModelFileError(f"{path}: a network that cannot be built: {str(error)[:200]}", tensorfile.COPY) from error
    expected = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in module.state_dict().items()}
    stored = {name: (entry.dtype, entry.shape) for name, entry in header.entries.items()}
    wrong = [name for name in {**expected, **stored} if expected.get(name) != stored.get(name)]
    if wrong:
        name = wrong[0]
        raise ModelFileError(
            f"{path}: {len(wrong)} tensors do not fit {arch.get('name')}; first {name[:99]!r}: "
            f"{stored.get(name, 'missing')} in the file, {expected.get(name, 'no such tensor')} in the network.",
            tensorfile.COPY,
        )
    return module
