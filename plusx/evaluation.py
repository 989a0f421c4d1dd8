"""Exact metrics of a model on data: every example once, classes matched by name, the same inference as in training."""

import dataclasses
import heapq
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plusx import config as configs
from plusx.config import DataConfig
from plusx.data import Dataset, Split, manifest, open_dataset, scan, source_of
from plusx.data.loader import viewed
from plusx.data.transforms import eval_batch
from plusx.data.views import views_of
from plusx.engine.infer import averaged, predict_views
from plusx.engine.isolation import standard
from plusx.engine.metrics import Metrics
from plusx.errors import ConfigError, DataError, ModelFileError
from plusx.modelfile import Classifier, load, unfinished, unwrap
from plusx.models.mlp import ResMLP
from plusx.text import listed, plural

WORST = 24  # mistakes kept
RULE = attrgetter("val_fraction", "split_seed")  # by which val is made where there is none
USABLE = ("data.root", "data.val_fraction", "data.split_seed", "data.workers", "engine.on_bad_image")


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        name: of the example, for people.
        true: its class; for multi-label the label, with "not " before it where it does not belong.
        predicted: the answer, likewise.
        probability: how sure the answer was, 0..1.
        source: the file's path, or the image, uint8 (C, H, W).
    """

    name: str
    true: str
    predicted: str
    probability: float
    source: str | NDArray[np.uint8] = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Exact metrics; fractions are 0..1.

    Attributes:
        n: examples.
        top1: share of examples answered right; for multi-label with every label right.
        top5: share of examples whose class is among the first five; for multi-label as top1.
        loss: mean cross-entropy of an example, without label smoothing.
        ece: expected calibration error, 15 bins.
        protocol: how an image is viewed, as it was given.
        models: the model files whose probabilities were averaged.
        split: which examples.
        task: "single" or "multi".
        per_class: `{name: {n, precision, recall, f1}}` in the model's order.
        confusion: int64 (K, K), rows are true classes; None for multi-label and for very many classes.
        mistakes: the wrong answers that were surest.
        notes: what a person should know.
    """

    n: int
    top1: float
    top5: float
    loss: float
    ece: float
    protocol: str
    models: tuple[str, ...]
    split: str
    task: str
    per_class: dict[str, dict[str, Any]] = field(repr=False, hash=False)
    confusion: NDArray[np.int64] | None = field(repr=False, compare=False)
    mistakes: tuple[Mistake, ...] = field(repr=False)
    notes: tuple[str, ...]

    @property
    def commonest(self) -> tuple[str, float]:
        """The class of most examples and their share: what always answering it would be right in."""
        name = max(self.per_class, key=lambda name: self.per_class[name]["n"])
        return name, self.per_class[name]["n"] / self.n

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `plusx evaluate --json` prints them."""
        hidden = ("confusion", "mistakes")
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}
        return {**plain, "models": list(self.models), "notes": list(self.notes)}


@standard()
def evaluate(
    model: str | os.PathLike[str] | Classifier,
    data: str | os.PathLike[str] | Dataset,
    *,
    split: str | None = None,
    protocol: str = "1-crop",
    others: Sequence[str | os.PathLike[str] | Classifier] = (),
    ignore_extra: bool = False,
    batch: int | None = None,
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Metrics of a model, or of several together, on a split of a data set.

    Probabilities are averaged over the views of an image as the network gives them (section 3.4), then calibrated, so
    that the temperature changes no answer of a model; then averaged over the models, each with its own preprocessing
    and calibration.

    Arguments:
        model: a run or its folder, a model file, or what `load` returned.
        data: a folder, table, `.npz` or name, or an open data set, which is taken as it is: nothing in it is known as
            the run's own. A path object is never a name.
        split: train, val, test; all, of data without splits. None is test, else val; of data without either the run's
            own validation examples where it is the run's own data, else all.
        protocol: how an image is viewed (section 3.4): "1-crop", "6-view", "10-crop", "multi-scale", or
            "multi-scale=224,256" with shorter sides in px; see `plusx.data.views`.
        others: further models for the same classes, in any order.
        ignore_extra: leave out, and count, the images of classes that the model does not know; of several labels an
            image, those labels alone.
        batch: images of the model's input size a forward pass, of larger views fewer; None is 128 small ones, 32 of
            224 px.
        overrides: `section.field=value`, as `--set`.
        progress: called with (done, all).

    Raises:
        ModelFileError, DataError, ConfigError: what was given cannot be used; the message says why.
    """
    views_of(protocol)  # an impossible name is told before the work
    given = (model, *([others] if isinstance(others, str | os.PathLike | Classifier) else others))
    members = [one if isinstance(one, Classifier) else load(one) for one in given]
    _check_members(members, protocol)
    classifier = members[0]
    config, on_bad_image = _settings(classifier, overrides)
    dataset = data if isinstance(data, Dataset) else _open(classifier, source_of(data), config, split, on_bad_image)
    if classifier.task == "single" and dataset.task == "multi":
        raise DataError("the model answers single-label, the data is multi-label", "Give data of the same kind.")
    mapped, left_out = _known(classifier, dataset, _choose(dataset, split), ignore_extra)
    mapped, missing = _by_name(classifier, dataset, mapped)
    notes = [*dataset.notes, *left_out]
    if dataset.task != classifier.task:
        notes.append("the data gives each image one label: every other label of the model counts as absent")
    if missing:
        where = "the data" if mapped.name == "all" else mapped.name
        notes.append(f"{where} has no image of {plural('class', len(missing))}: {listed(missing)}")
    notes += [f"{one}: the run is not finished" for one in given if unfinished(one)]
    notes += _doubts(members, dataset, mapped, protocol)
    notes += [] if isinstance(data, Dataset) else _trained_on(members, mapped)
    count = batch or min(eval_batch(member.preprocess.size) for member in members)
    streams = [_answers(member, classifier.classes, mapped, config, protocol, count) for member in members]
    metrics, mistakes = _measure(classifier, mapped, streams, progress)
    return Evaluation(
        n=metrics.n,
        top1=metrics.top1,
        top5=metrics.top5,
        loss=metrics.loss,
        ece=metrics.ece,
        protocol=protocol,
        models=tuple(map(_called, members)),
        split=mapped.name,
        task=classifier.task,
        per_class=metrics.per_class(classifier.classes),
        confusion=None if metrics.confusion is None else metrics.confusion.numpy(),
        mistakes=mistakes,
        notes=tuple(dict.fromkeys(notes)),  # the data may say the same of its split
    )


def _settings(classifier: Classifier, overrides: Sequence[str]) -> tuple[DataConfig, str]:
    """How to open the data: as the run did, with the user's changes; and what to do with a file that is bad."""
    changes = configs.taken(overrides, USABLE, "evaluating", "All else is fixed by the model file.")
    recorded = classifier.meta.get("config", {}).get("engine", {})
    on_bad_image = changes.pop("engine.on_bad_image", recorded.get("on_bad_image", "error"))
    given = {key.removeprefix("data."): value for key, value in changes.items()}
    return dataclasses.replace(_recorded(classifier), **given), str(on_bad_image)


def _recorded(classifier: Classifier) -> DataConfig:
    """How the run opened its data, as far as its model file says."""
    names = {f.name for f in dataclasses.fields(DataConfig)} - {"workers"}  # those suit the machine that trained
    recorded = classifier.meta.get("config", {}).get("data", {})
    return DataConfig(**{name: value for name, value in recorded.items() if name in names})


def _open(classifier: Classifier, source: str, config: DataConfig, split: str | None, on_bad_image: str) -> Dataset:
    """The data as it is found; where it lacks the split that is wanted, with the recorded split made again."""
    found = _screened(open_dataset(source, config, training=False), config, on_bad_image)
    if split in ("all", "test") or "val" in found.splits or (split is None and "test" in found.splits):
        return found
    record = _record(classifier)
    own = (record.get("root"), record.get("name")) == (found.root, found.name)
    try:
        before = manifest.held_out(record) if RULE(config) == RULE(_recorded(classifier)) else None
        made = _screened(open_dataset(source, config, before=before), config, on_bad_image)
        if manifest.build(made, scan.scan(made, config))["hash"] == classifier.meta.get("manifest_hash"):
            return made  # wherever it lies now
        if not own:
            made = _screened(open_dataset(source, config), config, on_bad_image)
    except DataError as error:  # it cannot be split: as it is now, nobody could train on it
        if (split is not None or own) and {"train", "all"} & found.splits.keys():
            hint = "Mend the data, or measure all of it, what was trained on too, with --split all."
            raise DataError(f"the split of the run cannot be made again: {error.message}", hint) from error
        made = None
    if made is None or (split is None and not own):
        return found.changed(notes=("not the run's own data: if some was trained on, the result is too good",))
    return made.changed(notes=(f"not the examples that the run recorded: {split or 'val'} was made again by its rule",))


def _screened(dataset: Dataset, config: DataConfig, on_bad_image: str) -> Dataset:
    return scan.screen(dataset, scan.scan(dataset, config), "skip") if on_bad_image == "skip" else dataset


def _record(classifier: Classifier) -> dict[str, Any]:
    """The manifest beside the model file; an empty one where there is none, or one of other data or another shape."""
    with suppress(OSError, ValueError, TypeError, AttributeError, LookupError):
        record: dict[str, Any] = json.loads((classifier.path or Path()).with_name("manifest.json").read_text())
        manifest.held_out(record)
        hashes = [record["hash"], *(change["from"] for change in record.get("accepted", ()))]
        if classifier.meta.get("manifest_hash") in hashes:
            return record
    return {"splits": {}}


def _trained_on(members: Sequence[Classifier], split: Split) -> list[str]:
    """A note for each model that was trained on some of the files, as far as its manifest lies beside it."""
    counts = ((one, manifest.trained_on(_record(one), split.paths or ())) for one in members)
    what = plural("image", len(split))
    return [f"{_called(one)} was trained on {n:,} of {what}: the result is too good" for one, n in counts if n]


def _choose(dataset: Dataset, split: str | None) -> Split:
    """The split asked for, or the one to report."""
    name = split or next(name for name in ("test", "val", "all", "train") if name in dataset.splits)
    if name not in dataset.splits:
        there = ("train", "val", "all") if "all" in dataset.splits else tuple(dataset.splits)
        raise DataError(f"--split: got {name!r}, the data has {listed(there)}", "Choose one of these.")
    return dataset.splits[name]


def _known(classifier: Classifier, dataset: Dataset, split: Split, ignore: bool) -> tuple[Split, list[str]]:
    """The examples whose class the model knows, and a note of the others, which are an error unless ignored."""
    counts = split.counts(len(dataset.classes))
    unknown = [k for k, name in enumerate(dataset.classes) if counts[k] and name not in classifier.classes]
    if not unknown:
        return split, []
    named = listed(dataset.classes[k] for k in unknown)
    what = f"{plural('class', len(unknown))} that the model does not know: {named}"
    if dataset.task == "single" and np.isin(split.targets, unknown).all():
        raise DataError(
            f"the data has nothing but {what}", f"Give data with classes of the model: {listed(classifier.classes)}."
        )
    if not ignore:
        raise DataError(
            f"the data has {what}; the model has {len(classifier.classes):,}: {listed(classifier.classes)}",
            "Leave their images out with --ignore-extra, or train on them.",
        )
    if dataset.task == "multi":
        return split, [f"ignored are the labels of {what}"]
    kept = split.take(~np.isin(split.targets, unknown))
    return kept, [f"left out are {plural('image', len(split) - len(kept))} of {what}"]


def _by_name(classifier: Classifier, dataset: Dataset, split: Split) -> tuple[Split, list[str]]:
    """The split with targets in the model's order of classes, and the model's classes that it has no image of."""
    places = {name: k for k, name in enumerate(classifier.classes)}
    present = [dataset.classes[k] for k in np.flatnonzero(split.counts(len(dataset.classes)))]
    there = np.array([places.get(name, -1) for name in dataset.classes], np.int64)
    if classifier.task == "single":
        targets = there[split.targets]
    else:
        single = dataset.task == "single"  # one label an image is one of several
        given = np.eye(len(there), dtype=np.float32)[split.targets] if single else split.targets
        targets = np.zeros((len(split), len(places)), np.float32)
        targets[:, there[there >= 0]] = given[:, there >= 0]
    missing = set(places) - set(present)
    return dataclasses.replace(split, targets=targets), [name for name in classifier.classes if name in missing]


def _called(classifier: Classifier) -> str:
    return str(classifier.path or type(classifier.module).__name__)


def _check_members(members: Sequence[Classifier], protocol: str) -> None:
    """Refuse models that answer different questions, or that cannot take the protocol's views."""
    first, *others = members
    for other in others:
        differ = f"{_called(other)}: cannot be averaged with {_called(first)}"
        if other.task != first.task:
            raise ModelFileError(
                f"{differ}: it is {other.task}-label, the other {first.task}-label", "Average models of one task."
            )
        lacking, added = set(first.classes) - set(other.classes), set(other.classes) - set(first.classes)
        if lacking or added:
            parts = [("lacks", lacking), ("adds", added)]
            found = "; ".join(f"it {verb} {plural('class', len(n))}: {listed(sorted(n))}" for verb, n in parts if n)
            raise ModelFileError(f"{differ}: {found}", "Average models of the same classes, in any order.")
    for member in members:
        if protocol.startswith("multi-scale") and isinstance(unwrap(member.module), ResMLP):
            raise ConfigError(
                f"--protocol: got {protocol!r}, but {_called(member)} is fully connected: it takes one size",
                "Choose 1-crop or 10-crop.",
            )


def _doubts(members: Sequence[Classifier], dataset: Dataset, split: Split, protocol: str) -> list[str]:
    """What may make the result of these views, or of several models, another than it seems."""
    notes = []
    if protocol in ("6-view", "10-crop") and dataset.mirror is False:
        notes.append(f"{protocol} mirrors images, and mirrored images of this data may be of another class")
    hashes = {member.meta.get("manifest_hash") for member in members}
    if split.name != "test" and len(hashes) > 1:
        notes.append("the models were trained on different examples: if some are among these, the result is too good")
    return notes


def _answers(
    member: Classifier, classes: Sequence[str], split: Split, config: DataConfig, protocol: str, batch: int
) -> Iterator[Tensor]:
    """A model's logits (N, K) for each batch, averaged over views, calibrated, columns in the order of `classes`."""
    rules, order = member.preprocess, torch.tensor([member.classes.index(name) for name in classes])
    views, count = views_of(protocol)
    found = viewed(split, rules, partial(views, rules), config.workers)
    while images := list(islice(found, max(1, batch // count))):
        answers = predict_views(member.module, images, member.device, pixels=batch * rules.size**2)
        logits = torch.stack([averaged(answer, member.task) for answer in answers])
        yield member.calibrated(logits).index_select(1, order)


def _measure(
    classifier: Classifier,
    split: Split,
    streams: Sequence[Iterator[Tensor]],
    progress: Callable[[int, int], None] | None,
) -> tuple[Metrics, tuple[Mistake, ...]]:
    """Counts over every example once, and the wrong answers that were surest."""
    metrics = Metrics(classifier.task, len(classifier.classes))
    worst: list[tuple[float, int, int, bool]] = []  # probability, id, class answered, whether it was answered yes
    for answers in zip(*streams, strict=True):
        logits = averaged(torch.stack(answers), classifier.task)
        ids = torch.arange(metrics.n, metrics.n + len(logits))
        targets = torch.from_numpy(split.targets)[ids]
        metrics.update(logits, targets)
        worst = heapq.nlargest(WORST, [*worst, *_wrong(classifier.task, logits, targets, ids)])
        if progress is not None:
            progress(metrics.n, len(split))
    assert metrics.n == len(split), f"{metrics.n} of {len(split)} examples were evaluated"
    return metrics, tuple(_mistake(classifier, split, *row) for row in worst)


def _wrong(task: str, logits: Tensor, targets: Tensor, ids: Tensor) -> list[tuple[float, int, int, bool]]:
    """For each example answered wrong its surest wrong answer."""
    probabilities = (logits.softmax(1) if task == "single" else logits.sigmoid()).float()  # as `predict` gives them
    if task == "single":
        sure, answers = probabilities.gather(1, logits.argmax(1, keepdim=True)).squeeze(1), logits.argmax(1)
        wrong = answers != targets
        yes = wrong
    else:
        sure_each = (probabilities - targets).abs() * ((logits > 0) != (targets > 0.5))
        sure, answers = sure_each.max(1)
        wrong = sure > 0
        yes = targets.gather(1, answers[:, None]).squeeze(1) < 0.5
    columns = (sure[wrong].tolist(), ids[wrong].tolist(), answers[wrong].tolist(), yes[wrong].tolist())
    return list(zip(*columns, strict=True))


def _mistake(classifier: Classifier, split: Split, probability: float, index: int, answer: int, yes: bool) -> Mistake:
    label = classifier.classes[answer]
    if classifier.task == "single":
        true, predicted = classifier.classes[int(split.targets[index])], label
    else:
        true, predicted = (f"not {label}", label) if yes else (label, f"not {label}")
    return Mistake(split.names[index], true, predicted, probability, split.source(index))
