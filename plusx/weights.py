"""Weights to start from: a run, a model file, a state_dict of torchvision, timm or anyone, or ImageNet's by name.

All three use the same names of parameters (see `models.resnet`), so weights go by name where the shapes agree, and a
head's rows by class name where the file says its classes. What became of each tensor is told.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plusx import modelfile, pth
from plusx.data.download import cache_folder, fetch, file_sha256, progress_bar
from plusx.data.transforms import Preprocess
from plusx.errors import ConfigError, DataError, ModelFileError
from plusx.text import listed, plural

IMAGENET = ("imagenet", "imagenet-v1", "imagenet-v2")
PUBLISHED = ("resnet18", "resnet34", "resnet50-v1.5", "resnet101-v1.5", "resnet152-v1.5")
UNSEEN = ("stride_in", "norm_order")  # what changes a network's answers and no shape of its tensors
LEAST_SHARE = 0.9  # of the tensors of two bodies that must go together; another stem leaves out one to five
STRIDED = re.compile(r"layer[2-4]\.0\.conv1\.weight")  # where bottlenecks can have their stride in the 1x1
COUNTER = "num_batches_tracked"  # fits everywhere and carries nothing


class Loaded(NamedTuple):
    """What became of one tensor of the network or of the file; `why` begins with the reason, details after a colon."""

    name: str
    loaded: bool
    why: str


class Origin(NamedTuple):
    """What a model file says of its weights: the arguments of `create_model`, and how a file became a tensor."""

    arch: Mapping[str, Any]
    preprocess: Preprocess


Given = tuple[dict[str, Tensor], Sequence[str] | None, Mapping[str, str]]
"""Tensors by name, the classes of the head where they are known, and by name what is no tensor."""


def origin(source: str) -> Origin | None:
    """What a run or model file says of its weights; None for those of other programs.

    Raises:
        ModelFileError: damaged, not there, or with values that cannot be used.
    """
    if source in IMAGENET:
        return None
    path = modelfile.model_path(Path(source))
    found = None if pth.is_pickled(path) else modelfile.describe(path)
    return Origin(*found) if found else None


def load_weights(module: nn.Module, source: str | Path, classes: Sequence[str] | None = None) -> list[Loaded]:
    """Copies weights into a network.

    The head is matched by class names where the weights have them: rows of classes that both know are copied, the
    others keep their initial values. A head whose classes nobody knows is left out, unless `classes` is None.

    Arguments:
        module: the network to fill, with a `head_name`.
        source: a run folder, a model file, a state_dict in `.safetensors` or `.pth`; or `imagenet`, `imagenet-v1`,
            `imagenet-v2`: what torchvision publishes for this network, downloaded once.
        classes: names of the module's classes, in order.

    Returns:
        A row for each tensor of the network and each thing in the file that has no place: loaded or not, and why.

    Raises:
        ModelFileError: unreadable, hostile, or of another network: it computes something else, or not nine
            tenths of the tensors of both bodies go together. The module is as it was.
        ConfigError: no weights of that name for this network.
        DataError: they cannot be downloaded.
    """
    network = modelfile.unwrap(module)
    source = os.fspath(source)
    find = _imagenet if source in IMAGENET else _from_file
    given, given_classes, skipped = find(source, network.arch)
    given = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor for name, tensor in given.items()}
    here = network.state_dict()
    head = f"{network.head_name}."
    _check_body(source, _body(given, head), _body(here, head), network.arch["name"])
    common = None if classes is None else _common(classes, given_classes or ())
    weight = given.get(f"{head}weight")
    fits = weight is None or weight.shape[1:] == here[f"{head}weight"].shape[1:]
    rows = [
        _load_tensor(name, tensor, given.get(name), common if name.startswith(head) else None)
        if fits or name != f"{head}bias"
        else Loaded(name, False, "its weight has another shape")
        for name, tensor in here.items()
    ]
    if given_classes is None:
        rows = _doubted(rows, network.arch)
    rows += [Loaded(name, False, "no place in this network") for name in given if name not in here]
    return rows + [Loaded(name, False, f"not a weight: {what}") for name, what in skipped.items()]


def _doubted(rows: list[Loaded], arch: Mapping[str, Any]) -> list[Loaded]:
    """Rows of a file that does not say where its network has its strides; the tensors of a stride tell of others'."""
    if arch.get("stride_in") != "1x1" or arch["name"].endswith(("-v1.5", "-d")):
        return rows
    why = "torchvision's and timm's ResNets of 50 and more layers have their stride in the 3x3; if these weights are "
    why += f"theirs, choose {arch['name']}-v1.5"
    return [row._replace(why=why) if row.loaded and STRIDED.fullmatch(row.name) else row for row in rows]


def summary(rows: Sequence[Loaded]) -> list[str]:
    """What became of given weights in a few lines: how many were loaded, and for each reason how many and which."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.why:
            reasons.setdefault(row.why.partition(":")[0], []).append(row.name)
    lines = [f"{why}: {plural('tensor', len(names))}, {listed(names)}" for why, names in reasons.items()]
    return [f"{sum(row.loaded for row in rows)} of {len(rows)} tensors loaded", *lines]


def _body(tensors: Mapping[str, Tensor], head: str) -> dict[str, torch.Size]:
    """Shapes by name, without the head and without counters."""
    return {name: t.shape for name, t in tensors.items() if not name.startswith(head) and not name.endswith(COUNTER)}


def _check_body(source: str, given: Mapping[str, torch.Size], here: Mapping[str, torch.Size], name: str) -> None:
    """Refuse the body of another network, some of whose tensors fit by chance."""
    fit = sum(given.get(key) == shape for key, shape in here.items())
    if fit < LEAST_SHARE * max(len(given), len(here)):
        found = f"{fit} of its {len(given)} tensors fit the {len(here)} of {name}"
        message = f"{source}: weights of another network: {found}."
        hint = "Choose the --model of the weights, or keep of the file what is the network's."
        raise ModelFileError(message, hint)


def _common(classes: Sequence[str], given: Sequence[str]) -> list[tuple[int, int]]:
    """Places, in both, of the classes that both have."""
    places = {label: i for i, label in enumerate(given)}
    return [(i, places[label]) for i, label in enumerate(classes) if label in places]


def _load_tensor(name: str, tensor: Tensor, given: Tensor | None, rows: list[tuple[int, int]] | None) -> Loaded:
    """Copy one tensor, or, of a head, the rows of classes that both have: their places (here, in the file)."""
    if given is None:
        return Loaded(name, False, "not in the file")
    if given.shape[1:] != tensor.shape[1:] or (rows is None and given.shape != tensor.shape):
        same = (given.shape[:1], given.shape[2:]) == (tensor.shape[:1], tensor.shape[2:])
        channels = given.shape[1:2] if same else ()
        what = f"made for data.channels={channels[0]}" if channels in ((1,), (3,)) else "another shape"
        return Loaded(name, False, f"{what}: {list(given.shape)} in the file, {list(tensor.shape)} here")
    if rows is None:
        tensor.copy_(given)
        return Loaded(name, True, "")
    if not rows:
        return Loaded(name, False, "a new head, for the file names none of its classes")
    here, there = map(torch.tensor, zip(*rows, strict=True))
    tensor[here] = given[there].to(tensor)
    return Loaded(name, True, f"by class name: {len(rows)} of {len(tensor)} classes have a row in the file")


def _from_file(source: str, arch: Mapping[str, Any]) -> Given:
    path = modelfile.model_path(Path(source))
    if pth.is_pickled(path):
        tensors, skipped = pth.read(path)
        return tensors, None, skipped
    tensors, document, _ = modelfile.read(path, foreign=True)
    _check_arch(source, document.get("arch", {}), arch)
    return tensors, document.get("classes"), {}


def _imagenet(source: str, arch: Mapping[str, Any]) -> Given:
    name = published_name(source, arch["name"])
    _check_arch(source, {"name": name, "stride_in": "3x3", "norm_order": "before"}, arch)
    weights = published(source, name)
    tensors, skipped = pth.read(*_download(weights.url, int(weights.meta["_file_size"] + 1) << 20))
    return tensors, weights.meta["categories"], skipped


def published_name(source: str, network: str) -> str:
    """The network of `PUBLISHED` whose weights a network could start from.

    Raises:
        ConfigError: none.
    """
    for name in PUBLISHED:
        if name in (network, f"{network}-v1.5"):
            return name
    message = f"--weights {source}: got the network {network}, there are weights for {', '.join(PUBLISHED)}"
    raise ConfigError(message, "Choose one of them with --model.")


def published(source: str, name: str) -> Any:
    """What torchvision publishes for one of `PUBLISHED` under a name of `IMAGENET`: weights with `url` and `meta`.

    Raises:
        ConfigError: nothing; the message says which names there are.
    """
    from torchvision.models import get_model_weights  # no other source needs its networks

    versions = get_model_weights(name.removesuffix("-v1.5"))
    found = {"imagenet": versions.DEFAULT} | {f"imagenet-{w.name[-2:].lower()}": w for w in versions}
    if source not in found:
        raise ConfigError(f"--weights {source}: {name} has {', '.join(found)}", "Choose one of them.")
    return found[source]


def _check_arch(source: str, given: Mapping[str, Any], arch: Mapping[str, Any]) -> None:
    """Refuse weights that would fit by shape and compute something else."""
    differ = [key for key in UNSEEN if key in given and key in arch and given[key] != arch[key]]
    if differ:
        theirs = " ".join(f"--set model.{key}={given[key]}" for key in differ)
        message = f"{source}: weights of a network with another {' and '.join(differ)} than {arch['name']} here."
        raise ModelFileError(message, f"Choose --model {given['name']}, or add {theirs}.")


def _download(url: str, limit: int) -> tuple[Path, str, str]:
    """The file in the cache, the start of its SHA-256 that its name publishes, `-f37072fd.pth`, and all of it."""
    target = cache_folder() / "weights" / url.rpartition("/")[2]
    record, digits = target.with_suffix(".sha256"), target.stem.rpartition("-")[2]

    def verify(path: Path) -> None:
        found = file_sha256(path)
        if not found.startswith(digits):
            raise DataError(f"{url}: got the SHA-256 {found}, expected {digits}…", "Try again.")
        record.write_text(found)

    if not target.exists():
        hint = f"Bring it from elsewhere and give the file: --weights {target.name}"
        with progress_bar(target.name) as progress:
            fetch(url, target, limit=limit, verify=verify, hint=hint, progress=progress)
    return target, digits, record.read_text(errors="replace") if record.exists() else "no record of it"
