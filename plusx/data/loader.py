"""Batches for training and evaluation, from images in memory or from files decoded by worker processes.

What an epoch yields is a function of (seed, epoch, position) alone: example order and random numbers are hashes
(`sampling`), so any number of workers gives the same pixels and an epoch can start in its middle.
"""

import itertools
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plusx.config import AugmentConfig
from plusx.data import augment as changes
from plusx.data.colour import Colours, shift_colours
from plusx.data.copies import Copies
from plusx.data.dataset import Progress, Split
from plusx.data.decode import Box, decode_crop
from plusx.data.pixel_mean import MovingMean
from plusx.data.sampling import Ids, batch_bounds, key, order_at, repeated, share
from plusx.data.transforms import Preprocess, as_channels, eval_batch
from plusx.data.workers import Workers
from plusx.threads import ahead, in_parallel

R = TypeVar("R")

STEPS_AHEAD = 64  # steps whose example order is computed at a time
KEPT_BYTES = 2**30  # of preprocessed evaluation images that stay in memory


class Batch(NamedTuple):
    """One step's examples.

    Arguments:
        images: float32 (N, C, H, W), normalised, on the loader's device.
        targets: int64 (N,); float32 (N, K) for several labels an image, and after mixup or cutmix. On the same device.
        ids: int64 (N,) on the CPU: which examples of the split.
        total: examples of the step over all processes.
    """

    images: Tensor
    targets: Tensor
    ids: Tensor
    total: int


class TrainLoader:
    """Shuffled and augmented batches of a split.

    Arguments:
        split: the training split.
        preprocess: size, channels, normalisation and decoding rules.
        augment: random changes.
        n_classes: K of soft targets.
        mode: "small": all images in memory, resized once; "photo" (or None): decoded as they are needed.
        batch: examples a step.
        seed: of order and augmentation.
        workers: decoding processes in "photo" mode; 0, or None, decodes in a thread of this one.
        device: where batches go.
        progress: called with (done, total) while files are read into memory.
        colours: directions of the colour shifts, whose size is `augment.colour`; None shifts none.
        copies: what large files are decoded from in "photo" mode, instead of them.
        rank: which part of each batch to give.
        processes: how many share each batch.

    Attributes:
        n: examples in an epoch.
        steps_per_epoch: batches in an epoch.

    Raises:
        DataError: fewer than two examples for each process; in "small" mode also an ImageError for a file that
            cannot be decoded.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        augment: AugmentConfig,
        *,
        n_classes: int,
        mode: str | None,
        batch: int,
        seed: int,
        workers: int | None = None,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        colours: Colours | None = None,
        copies: Copies | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        device = torch.device(device)
        if augment.size is not None:
            preprocess = replace(preprocess, size=augment.size, resize=max(augment.size, preprocess.resize))
        if mode == "small":
            stored = _stored(split, preprocess, augment, progress).to(device)
            self._pixels: _Memory | _Photos = _Memory(stored, preprocess.size, augment, seed)
        else:
            room = 4 * (batch + 1) * preprocess.channels * preprocess.size**2  # bytes; a step may hold one more
            self._pixels = _Photos(_Cutter(split, preprocess, augment, seed, copies), workers or 0, room)
        self._plan = batch_bounds(len(split), batch, processes)
        self._rank, self._processes = rank, processes
        self.n, self.steps_per_epoch = self._plan.n, self._plan.steps
        self._targets, self._preprocess, self._augment = torch.from_numpy(split.targets), preprocess, augment
        self._n_classes, self._seed, self._device, self._colours = n_classes, seed, device, colours
        self._moving = None if preprocess.mean_image is None else MovingMean(preprocess, augment, seed, device)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Steps `start` to the last of an epoch; closing the generator ends the workers' work, `close` the workers.

        Raises:
            ImageError: a file that cannot be decoded.
            TrainingError: a worker process died.
        """
        with closing(self._pixels.batches(epoch, self._ids(epoch, start))) as batches:
            for step, (ids, pixels) in enumerate(batches, start):
                yield self._batch(epoch, step, ids, pixels)

    def close(self) -> None:
        """End the workers that wait for the next epoch; one that is asked for all the same starts new ones."""
        self._pixels.close()

    def _ids(self, epoch: int, start: int) -> Iterator[Ids]:
        """The ids of each step that are this process's, some steps' order computed at a time.

        An example that comes again in a step has, for its random numbers, another id each time: n more than before.
        """
        steps = self.steps_per_epoch
        for first in range(start, steps, STEPS_AHEAD):
            bounds = [self._plan.bounds(step) for step in range(first, min(first + STEPS_AHEAD, steps))]
            shares = [share(*edges, self._rank, self._processes) for edges in bounds]
            found = [
                repeated(*edges, np.arange(*own), self._augment.repeats)
                for edges, own in zip(bounds, shares, strict=True)
            ]
            places, visits = (np.concatenate(column) for column in zip(*found, strict=True))
            ids = order_at(self.n, self._seed, epoch, places) + self.n * visits
            yield from np.split(ids, np.cumsum([b - a for a, b in shares])[:-1])

    def _batch(self, epoch: int, step: int, ids: Ids, pixels: Tensor) -> Batch:
        augment, chosen = self._augment, torch.from_numpy(ids % self.n)
        pixels, mean = pixels.to(self._device, non_blocking=True), self._preprocess.mean
        if self._moving is not None:
            pixels, mean = pixels - self._moving.of(epoch, ids), (0.0,) * len(mean)
        images = changes.normalize(pixels, mean=mean, std=self._preprocess.std)
        targets = self._targets[chosen].to(self._device)
        if self._colours is not None:
            shift_colours(images, self._colours.shifts(augment.colour, self._seed, epoch, ids), self._preprocess.std)
        if augment.cutout:
            changes.cut_out(images, augment.cutout, self._seed, epoch, ids)
        if augment.erase:
            changes.erase(images, augment.erase, self._seed, epoch, ids)
        if augment.mixup or augment.cutmix:
            soft = targets if targets.ndim == 2 else F.one_hot(targets, self._n_classes).float()
            images, targets = changes.mix(images, soft, augment.mixup, augment.cutmix, key(self._seed, epoch, step))
        first, last = self._plan.bounds(step)
        return Batch(images, targets, chosen, last - first)


@dataclass(frozen=True)
class _Memory:
    """All training images in memory, resized and padded once; a batch is a few tensor operations."""

    stored: Tensor
    size: int
    augment: AugmentConfig
    seed: int

    def batches(self, epoch: int, ids: Iterator[Ids]) -> Generator[tuple[Ids, Tensor], None, None]:
        """For each batch of ids the cropped and mirrored (N, S, S, C), 0..255."""
        for chosen in ids:
            yield chosen, self._cut(epoch, chosen)

    def close(self) -> None:
        """Nothing runs between batches."""

    def _cut(self, epoch: int, ids: Ids) -> Tensor:
        augment, size = self.augment, self.size
        corners = changes.shifts(changes.padding(augment), self.seed, epoch, ids)
        pixels = changes.windows(self.stored, ids % len(self.stored), corners, size)
        if augment.crop in changes.RANDOM_CROPS:
            draws = changes.crop_draws(self.seed, epoch, ids)
            pixels = changes.resampled(pixels, [changes.crop_box(augment, d, size, size, size) for d in draws])
        pixels = changes.mirror(pixels, changes.mirrored(augment, self.seed, epoch, ids))
        return _varied(pixels, augment, self.seed, epoch, ids, [pixels.is_floating_point()] * len(ids))


def _stored(split: Split, preprocess: Preprocess, augment: AugmentConfig, progress: Progress | None) -> Tensor:
    """All images of a split, (N, S + 2 pad, S + 2 pad, C); uint8, or float32 if any has more than 8 bits."""
    n, side, channels = len(split), preprocess.size, preprocess.channels
    pad, fill = changes.padding(augment), changes.fill_colour(augment, preprocess.mean)
    if split.images is not None and preprocess.keeps(split.images.shape[1:]):
        return changes.padded(torch.from_numpy(split.images).permute(0, 2, 3, 1), pad, fill)
    store = torch.empty(n, side + 2 * pad, side + 2 * pad, channels, dtype=torch.uint8)
    found = viewed(split, preprocess, lambda image: _plain(image, preprocess), progress=progress)
    for i, pixels in enumerate(found):
        if pixels.is_floating_point() and not store.is_floating_point():
            store = store.float()
        store[i, pad : pad + side, pad : pad + side] = pixels
    return changes.frame(store, pad, fill)


def _plain(image: Tensor, preprocess: Preprocess) -> Tensor:
    """(C, H, W) as evaluation sees it, (S, S, C) in 0..255: uint8 for uint8, float32 for float32."""
    square = (preprocess.square(image) * 255).permute(1, 2, 0)
    return square if image.is_floating_point() else square.round().to(torch.uint8)


def _varied(pixels: Tensor, augment: AugmentConfig, seed: int, epoch: int, ids: Ids, deep: list[bool]) -> Tensor:
    """(N, S, S, C), 0..255, after the operations of a policy; `deep` are those of more than 8 bits."""
    if augment.policy == "none":
        return pixels
    from plusx.data.trivial import varied  # torchvision's transforms take a second to import

    return varied(pixels, seed, epoch, ids, deep)


class _Task(NamedTuple):
    """One batch of work, small enough that a pipe takes it at once."""

    epoch: int
    ids: Ids


@dataclass(frozen=True)
class _Cutter:
    """Decodes, crops and mirrors: the part of a photo loader that runs in the workers."""

    split: Split
    preprocess: Preprocess
    augment: AugmentConfig
    seed: int
    copies: Copies | None

    def cut(self, task: _Task, alive: Callable[[], None] = lambda: None) -> Tensor:
        """(N, S, S, C), uint8 or, if any source has more than 8 bits, float32; 0..255. Calls `alive` for each image."""
        augment, size = self.augment, self.preprocess.size
        draws = changes.crop_draws(self.seed, task.epoch, task.ids)
        found = []
        for i, drawn in zip((task.ids % len(self.split)).tolist(), draws, strict=True):
            found.append(self._cut_one(self.split.source(i), drawn))
            alive()
        deep = [one.is_floating_point() for one in found]
        pixels = torch.empty(len(found), *found[0].shape, dtype=torch.float32 if any(deep) else torch.uint8)
        which = changes.mirrored(augment, self.seed, task.epoch, task.ids)
        for out, one, flip in zip(pixels, found, which, strict=True):
            out.copy_(one.flip(1) if flip else one)
        if augment.crop == "translate":
            pad = changes.padding(augment)
            stored = changes.padded(pixels, pad, changes.fill_colour(augment, self.preprocess.mean))
            corners = changes.shifts_of_mirrored(changes.shifts(pad, self.seed, task.epoch, task.ids), which, pad)
            pixels = changes.windows(stored, np.arange(len(found)), corners, size)
        return _varied(pixels, augment, self.seed, task.epoch, task.ids, deep)

    def _cut_one(self, source: str | bytes | NDArray[np.uint8], draws: list[float]) -> Tensor:
        """(S, S, C) in 0..255 of a file or an array (C, H, W), not yet mirrored or translated."""
        if self.copies and isinstance(source, str):
            source = self.copies.source(source)
        rules, size = self.preprocess, self.preprocess.size

        def choose(height: int, width: int) -> Box:
            return changes.crop_box(self.augment, draws, height, width, size)

        if self.augment.crop not in changes.RANDOM_CROPS:
            return _plain(rules.decode(source), rules)
        if isinstance(source, str | bytes):
            crop = decode_crop(source, choose, size, **rules.decoding)
        else:
            top, left, high, wide = choose(*source.shape[1:])
            image = torch.from_numpy(source[:, top : top + high, left : left + wide])
            crop = as_channels(image, rules.channels).permute(1, 2, 0)
        pixels = changes.resize_crop(crop, size)
        return pixels * 255 if pixels.is_floating_point() else pixels


class _Photos:
    """Photos decoded by worker processes, or, without any, by a thread of this one."""

    def __init__(self, cutter: _Cutter, workers: int, room: int) -> None:
        self._cutter, self._workers, self._room = cutter, workers, room
        self._pool: Workers | None = None  # waits here between epochs

    def batches(self, epoch: int, ids: Iterator[Ids]) -> Generator[tuple[Ids, Tensor], None, None]:
        """For each batch of ids the cropped and mirrored (N, S, S, C), 0..255."""
        tasks = (_Task(epoch, chosen) for chosen in ids)
        if not self._workers:
            yield from ahead(lambda task: (task.ids, self._cutter.cut(task)), tasks, 1, 1)
            return
        pool, self._pool = self._pool or Workers(self._cutter.cut, self._workers, self._room), None
        try:
            yield from ((task.ids, pixels) for task, pixels in pool.results(tasks))
        finally:
            self._pool = pool
            if pool.waiting:  # closed early, or failed
                self.close()

    def close(self) -> None:
        """End the workers."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


class EvalLoader:
    """A split's examples in order, each exactly once, through the one evaluation transform.

    Arguments:
        split: what to evaluate.
        preprocess: the evaluation transform.
        keep: the first 1 GiB of the results stays in memory for the next time.
        batch: examples a batch; None is `eval_batch`'s.
        workers: decoding threads; None or 0 is one a core.
        device: where batches go.

    Attributes:
        n: examples.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        *,
        keep: bool = False,
        batch: int | None = None,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.n = len(split)
        self._split, self._preprocess = split, preprocess
        self._batch, self._workers = batch or eval_batch(preprocess.size), workers
        self._device = torch.device(device)
        self._targets = torch.from_numpy(split.targets)
        fit = KEPT_BYTES // (4 * self._batch * preprocess.channels * preprocess.size**2)
        self._room = fit if keep else 0  # batches
        self._kept: list[Tensor] = []  # the first ones

    def __iter__(self) -> Iterator[Batch]:
        """Batches of `batch` examples; the last may be smaller.

        Raises:
            ImageError: a file that cannot be decoded.
        """
        start = 0
        for number, images in enumerate(itertools.chain(tuple(self._kept), self._computed(len(self._kept)))):
            if number == len(self._kept) < self._room:
                self._kept.append(images)
            ids = torch.arange(start, start + len(images))
            yield Batch(images.to(self._device), self._targets[ids].to(self._device), ids, len(ids))
            start += len(images)
        assert start == self.n, (start, self.n)

    def _computed(self, done: int) -> Iterator[Tensor]:
        """Batches after the first `done`."""
        split, rules, first = self._split, self._preprocess, done * self._batch
        if split.images is not None and rules.keeps(split.images.shape[1:]):
            # Nothing to resize: elementwise operations give each image its own bits in any company.
            for start in range(first, self.n, self._batch):
                images = torch.from_numpy(split.images[start : start + self._batch])
                yield rules.normalize(images.to(torch.float32).div_(255))
        else:
            found = viewed(split, rules, rules, self._workers, first=first)
            while group := list(itertools.islice(found, self._batch)):
                yield torch.stack(group)


def viewed(
    split: Split,
    preprocess: Preprocess,
    view: Callable[[Tensor], R],
    workers: int | None = None,
    progress: Progress | None = None,
    first: int = 0,
) -> Iterator[R]:
    """Every example once, in order, as a function of its decoded image sees it.

    Arguments:
        split: what to view.
        preprocess: decoding rules.
        view: a function of uint8 or float32 (C, H, W).
        workers: threads that decode and view files; None or 0 is one a core.
        progress: called with (done, total) of files.
        first: the example to begin with.

    Raises:
        ImageError: a file that cannot be decoded.
    """
    if split.images is not None:
        return (view(torch.from_numpy(image)) for image in split.images[first:])
    assert split.paths is not None
    ids, paths = range(first, len(split)), split.paths
    return in_parallel(lambda i: view(preprocess.decode(paths[i])), ids, progress, workers)
