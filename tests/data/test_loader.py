"""Loaders: the same ids and pixels whatever the workers, epochs from their middle, workers that fail or are left."""

import errno
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from plusx.config import AugmentConfig
from plusx.data.augment import cut_out, erase, mix, normalize
from plusx.data.colour import Colours
from plusx.data.dataset import Split
from plusx.data.decode import decode, decode_crop
from plusx.data.loader import Batch, EvalLoader, TrainLoader
from plusx.data.names import Names
from plusx.data.sampling import key, order
from plusx.data.transforms import Preprocess
from plusx.data.trivial import varied
from plusx.errors import DataError, ImageError, TrainingError
from tests.data.test_transforms import RULES
from tests.forks import Fork

N = 22
SMALL = replace(RULES, size=16, resize=16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Files of several formats, sizes and depths."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = []
    for i in range(N):
        scene = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((90 + 7 * i, 70 + 3 * i))
        path = folder / f"{i}.{'png' if i % 5 == 0 else 'jpg'}"
        scene.save(path)
        paths.append(str(path))
    Image.fromarray(rng.integers(0, 65536, (60, 80)).astype(np.uint16)).save(paths[5])
    return Split("train", np.arange(N) % 3, Names(paths), Names(paths))


@pytest.fixture(scope="module")
def arrays() -> Split:
    images = np.random.default_rng(0).integers(0, 256, (N, 3, 16, 16), np.uint8)
    return Split("train", np.arange(N) % 3, None, Names(map(str, range(N))), images)


def make(split: Split, mode: str, workers: int = 0, **options: Any) -> TrainLoader:
    rules = SMALL if mode == "small" else RULES
    return TrainLoader(split, rules, AugmentConfig(**options), n_classes=3, mode=mode, batch=4, seed=1, workers=workers)


def same(a: Iterable[Batch], b: Iterable[Batch]) -> bool:
    return all(all(map(torch.equal, x[:3], y[:3])) for x, y in zip(a, b, strict=True))


CROPS = [
    {"crop": "resized", "flip": "random"},
    {"crop": "scale", "shorter_side": (28, 60), "flip": "alternate", "cutout": 6},
    {"crop": "translate", "pad": 3, "mixup": 0.2},
    {"crop": "translate", "pad": 3, "padding_mode": "reflect"},
    {"crop": "none", "cutmix": 1.0},
    {"crop": "translate", "pad": 2, "flip": "random", "policy": "trivial", "erase": 0.5, "repeats": 2},
]


def test_workers_live_where_python_would_not_fork(arrays: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.14 starts processes from a server, which is then their parent."""
    monkeypatch.setattr(
        multiprocessing.context._default_context, "_actual_context", multiprocessing.get_context("forkserver")
    )
    assert same(make(arrays, "photo", 1, crop="none").epoch(0), make(arrays, "photo", 0, crop="none").epoch(0))


@pytest.mark.parametrize("options", CROPS)
def test_photos_are_the_same_with_0_1_and_3_workers(photos: Split, options: dict[str, Any]) -> None:
    alone = make(photos, "photo", 0, **options)
    wanted = [batch for epoch in range(2) for batch in alone.epoch(epoch)]
    assert [len(batch.ids) for batch in wanted[:6]] == [4, 4, 4, 4, 4, 2]
    for workers in (1, 3):
        loader = make(photos, "photo", workers, **options)
        assert same([batch for epoch in range(2) for batch in loader.epoch(epoch)], wanted)
        assert same(loader.epoch(1, start=4), wanted[-2:])


@pytest.mark.parametrize("mode", ["small", "photo"])
def test_arrays_in_both_modes(arrays: Split, mode: str) -> None:
    for options in CROPS:
        loader = make(arrays, mode, **options)
        batches = list(loader.epoch(3))
        assert same(loader.epoch(3, start=2), batches[2:])
        size = SMALL.size if mode == "small" else RULES.size
        assert batches[0].images.shape == (4, 3, size, size)
        assert batches[0].images.dtype == torch.float32
        soft = "mixup" in options or "cutmix" in options
        assert batches[0].targets.shape == ((4, 3) if soft else (4,))


@pytest.mark.parametrize(
    "changes", [*CROPS, {"crop": "translate", "colour": 0.1}], ids=lambda changes: ", ".join(changes)
)
def test_batches_are_made_on_a_gpu(changes: dict[str, Any], arrays: Split) -> None:
    """Tensors without values, which need no GPU, refuse to mix two devices as real ones do."""
    importlib.import_module("plusx.data.trivial")  # makes a table of numbers, which takes values
    rules, augment = replace(RULES, size=12, resize=12), AugmentConfig(**changes)
    colours = Colours.of(np.eye(3).tolist()) if augment.colour else None
    common: dict[str, Any] = {"n_classes": 5, "batch": 8, "seed": 0, "colours": colours, "device": "cuda"}
    for mode in ("small", "photo"):
        with FakeTensorMode(allow_non_fake_inputs=True):
            for batch in TrainLoader(arrays, rules, augment, mode=mode, **common).epoch(0):
                assert batch.images.device.type == batch.targets.device.type == "cuda"
                assert batch.images.shape[1:] == (3, 12, 12)
                assert batch.ids.device.type == "cpu"


def test_an_example_that_comes_again_is_augmented_anew(arrays: Split) -> None:
    plain = make(arrays, "small", crop="none", repeats=2)
    batches = list(plain.epoch(0))
    ids = torch.cat([batch.ids for batch in batches]).tolist()
    assert len(ids) == plain.n == N
    assert sorted(ids) == sorted(2 * order(N, 1, 0, 0, N // 2).tolist())
    for batch in batches:
        assert torch.equal(batch.targets, batch.ids % 3)
    moved = list(make(arrays, "photo", crop="translate", pad=8, repeats=2).epoch(0))
    same_example = moved[0].ids[:2].tolist() == moved[0].ids[2:].tolist()
    assert same_example
    assert not torch.equal(moved[0].images[0], moved[0].images[2])


def with_and_without(split: Split, mode: str, **options: Any) -> Iterator[tuple[Batch, Batch]]:
    """Batches of epoch 3 without some changes and with them."""
    plain, changed = make(split, mode, crop="none"), make(split, mode, crop="none", **options)
    return zip(plain.epoch(3), changed.epoch(3), strict=True)


@pytest.mark.parametrize("mode", ["small", "photo"])
@pytest.mark.parametrize(("name", "amount", "change"), [("cutout", 6, cut_out), ("erase", 0.6, erase)])
def test_parts_of_training_images_are_hidden(name: str, amount: float, change: Any, mode: str, arrays: Split) -> None:
    for plain, hidden in with_and_without(arrays, mode, **{name: amount}):
        assert not torch.equal(hidden.images, plain.images)
        assert torch.equal(hidden.images, change(plain.images, amount, 1, 3, plain.ids.numpy()))


@pytest.mark.parametrize("mode", ["small", "photo"])
def test_a_policy_changes_pixels_before_they_are_normalised(mode: str, arrays: Split) -> None:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (RULES.mean, RULES.std))
    for plain, varying in with_and_without(arrays, mode, policy="trivial"):
        pixels = ((plain.images * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        wanted = varied(pixels, 1, 3, plain.ids.numpy(), [False] * len(pixels))
        assert not torch.equal(varying.images, plain.images)
        assert torch.equal(varying.images, normalize(wanted, RULES.mean, RULES.std))


@pytest.mark.parametrize("mode", ["small", "photo"])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 0.7), (0.2, 1.0)])
def test_batches_are_mixed_by_both_alphas(mixup: float, cutmix: float, mode: str, arrays: Split) -> None:
    for step, (plain, mixed) in enumerate(with_and_without(arrays, mode, mixup=mixup, cutmix=cutmix)):
        images, targets = mix(plain.images, F.one_hot(plain.targets, 3).float(), mixup, cutmix, key(1, 3, step))
        assert torch.equal(mixed.images, images)
        assert torch.equal(mixed.targets, targets)


@pytest.mark.parametrize("crop", ["none", "resized", "scale"])
def test_training_decodes_by_the_rules(crop: str, tmp_path: Path) -> None:
    path = str(tmp_path / "clear.png")
    Image.new("RGBA", (40, 30)).save(path)
    split = Split("train", np.arange(2), Names([path] * 2), Names("ab"))

    def images(**rules: int) -> torch.Tensor:
        options: dict[str, Any] = {"n_classes": 2, "mode": "photo", "batch": 2, "seed": 0}
        return next(TrainLoader(split, replace(RULES, **rules), augment, **options).epoch(0)).images

    augment = AugmentConfig(crop=crop, shorter_side=(28, 60))
    for level in (0, 200, 255):
        wanted = RULES.normalize(torch.full((2, 3, 24, 24), level / 255))
        assert torch.allclose(images(background=level), wanted, atol=1e-5)
    with pytest.raises(ImageError, match="more than the 1,199 allowed"):
        images(max_pixels=1199)


def test_training_crops_of_another_size(photos: Split) -> None:
    for workers in (0, 1):
        for side in (RULES.size - 8, 2 * RULES.resize):
            with closing(make(photos, "photo", workers, crop="resized", size=side)) as loader:
                batch = next(loader.epoch(0))
            assert batch.images.shape == (4, 3, side, side)


def test_the_global_generator_is_left_alone(photos: Split) -> None:
    before = torch.get_rng_state()
    for options in CROPS[2], CROPS[-1]:
        list(make(photos, "photo", 0, **options).epoch(0))
        list(make(photos, "photo", 1, **options).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_is_the_order_of_sampling(arrays: Split) -> None:
    loader = make(arrays, "small", crop="none")
    assert (loader.n, loader.steps_per_epoch) == (N, 6)
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        ids = torch.cat([batch.ids for batch in batches]).numpy()
        assert np.array_equal(ids, order(N, 1, epoch, 0, N))
        for batch in batches:
            assert torch.equal(batch.targets, batch.ids % 3)
            for image, i in zip(batch.images, batch.ids.tolist(), strict=True):
                assert torch.allclose(image, SMALL(torch.from_numpy(arrays.images[i])), atol=1e-5)  # type: ignore[index]


def test_order_is_computed_in_slices(arrays: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [batch.ids.tolist() for batch in make(arrays, "small", crop="none").epoch(0)]
    monkeypatch.setattr(sys.modules[TrainLoader.__module__], "STEPS_AHEAD", 2)
    assert [batch.ids.tolist() for batch in make(arrays, "small", crop="none").epoch(0)] == whole


def test_translation_pads_with_the_mean(arrays: Split) -> None:
    loader = make(arrays, "small", crop="translate", pad=16)
    images = torch.cat([batch.images for batch in loader.epoch(0)])
    fill = normalize((torch.tensor(SMALL.mean) * 255).round().view(1, 1, 1, 3), SMALL.mean, SMALL.std)
    assert fill.abs().max() < 0.01
    assert (images == fill.view(1, 3, 1, 1)).all(1).float().mean() > 0.4


def test_small_files_are_read_once_and_equal_arrays(tmp_path: Path, arrays: Split) -> None:
    assert arrays.images is not None
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(N))
    for path, image in zip(paths, arrays.images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    done: list[tuple[int, int]] = []
    loader = TrainLoader(
        Split("train", arrays.targets, Names(paths), Names(paths)),
        SMALL,
        AugmentConfig(crop="translate", pad=2),
        n_classes=3,
        mode="small",
        batch=4,
        seed=1,
        progress=lambda *counts: done.append(counts),
    )
    assert done[-1] == (N, N)
    for path in paths:
        os.unlink(path)
    assert same(loader.epoch(0), make(arrays, "small", crop="translate", pad=2).epoch(0))


def test_deep_images_stay_deep_in_memory(tmp_path: Path) -> None:
    rng, paths = np.random.default_rng(0), tuple(str(tmp_path / f"{i}.png") for i in range(4))
    for path in paths[1:]:
        Image.fromarray(rng.integers(0, 65536, (16, 16)).astype(np.uint16)).save(path)
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(paths[0])
    split = Split("train", np.arange(4), Names(paths), Names(paths))
    for mode in ("small", "photo"):
        loader = TrainLoader(split, SMALL, AugmentConfig(crop="none"), n_classes=4, mode=mode, batch=4, seed=0)
        batch = next(loader.epoch(0))
        for image, i in zip(batch.images, batch.ids.tolist(), strict=True):
            assert torch.allclose(image, SMALL.load(paths[i]), atol=2e-6)


def test_a_step_of_one_more_than_a_batch_has_room(tmp_path: Path) -> None:
    paths = Names(str(tmp_path / f"{i}.png") for i in range(3))
    for i, path in enumerate(paths):
        Image.fromarray(np.full((24, 24), 9000 * i, np.uint16)).save(path)
    split, augment = Split("train", np.arange(3), paths, paths), AugmentConfig(crop="none")
    for workers in (0, 1):
        loader = TrainLoader(split, RULES, augment, n_classes=3, mode="photo", batch=2, seed=0, workers=workers)
        with closing(loader):
            (batch,) = loader.epoch(0)
        wanted = torch.stack([RULES.load(paths[i]) for i in batch.ids.tolist()])
        assert torch.allclose(batch.images, wanted, atol=2e-6)


def test_an_image_of_8_bits_is_the_same_in_any_company(photos: Split) -> None:
    augment, found = AugmentConfig(crop="translate", pad=2, policy="trivial"), []
    for batch in (2, N):  # one photo is deep
        loader = TrainLoader(photos, RULES, augment, n_classes=3, mode="photo", batch=batch, seed=1)
        found.append({i: image for b in loader.epoch(0) for i, image in zip(b.ids.tolist(), b.images, strict=True)})
    assert len(found[0]) == N
    assert all(torch.equal(image, found[1][i]) for i, image in found[0].items())


def test_several_labels_an_image(arrays: Split) -> None:
    targets = np.random.default_rng(0).integers(0, 2, (N, 3)).astype(np.float32)
    loader = make(replace(arrays, targets=targets), "small", crop="none")
    for batch in loader.epoch(0):
        assert torch.equal(batch.targets, torch.from_numpy(targets)[batch.ids])
    mixed = next(make(replace(arrays, targets=targets), "small", crop="none", mixup=1.0).epoch(0)).targets
    assert mixed.shape == (4, 3)


def test_one_example_is_refused(arrays: Split) -> None:
    with pytest.raises(DataError, match="1 training example"):
        make(arrays.take(np.arange(N) == 3), "small", crop="none")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_named(photos: Split, workers: int, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    assert photos.paths is not None
    split = replace(photos, paths=Names([*photos.paths[:-1], str(bad)]))
    others = set(multiprocessing.active_children())
    loader = make(split, "photo", workers, crop="resized")
    with pytest.raises(ImageError, match=r"bad\.jpg: not an image") as caught:
        list(loader.epoch(0))
    assert caught.value.path == str(bad)
    assert set(multiprocessing.active_children()) <= others
    Path(bad).write_bytes(Path(photos.paths[0]).read_bytes())
    assert len(list(loader.epoch(0))) == 6
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        list(EvalLoader(split, RULES, workers=workers))


def test_a_closed_epoch_ends_its_workers(photos: Split) -> None:
    others = set(multiprocessing.active_children())
    loader = make(photos, "photo", 2, crop="resized")
    epoch = loader.epoch(0)
    first = next(epoch)
    assert len(set(multiprocessing.active_children()) - others) == 2
    epoch.close()
    assert set(multiprocessing.active_children()) <= others
    assert same([next(loader.epoch(0))], [first])


def test_a_killed_worker_is_told_at_once(photos: Split) -> None:
    loader = make(photos, "photo", 2, crop="resized")
    others = set(multiprocessing.active_children())
    epoch = loader.epoch(0)
    next(epoch)
    for child in set(multiprocessing.active_children()) - others:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    start = time.perf_counter()
    with pytest.raises(TrainingError, match=r"Decoding process [12] of 2 died\."):
        list(epoch)
    assert time.perf_counter() - start < 10
    assert len(list(loader.epoch(0))) == 6  # with new ones


@pytest.mark.parametrize("batch", [4, 1024])
def test_a_worker_that_hangs_is_told_and_ended(batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = importlib.import_module("plusx.data.workers")
    monkeypatch.setattr(home, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(home, "CLOSING_SECONDS", 0.1)
    others = set(multiprocessing.active_children())
    path = tmp_path / ("long" * 60) / "x.png"  # a pipe takes some 200 kB ahead
    path.parent.mkdir()
    Image.new("RGB", (8, 8)).save(path)
    split = Split("train", np.arange(8 * batch) % 3, Names([str(path)] * 8 * batch), Names(map(str, range(8 * batch))))
    rules = replace(RULES, size=8, resize=8)
    settings: dict[str, Any] = {"n_classes": 3, "mode": "photo", "batch": batch, "seed": 1, "workers": 2}
    loader = TrainLoader(split, rules, AugmentConfig(crop="none"), **settings)
    epoch = loader.epoch(0)
    next(epoch)
    for child in set(multiprocessing.active_children()) - others:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(TrainingError, match=r"Decoding process [12] of 2 has been silent for 1 s"):
        list(epoch)
    deadline = time.perf_counter() + 10
    while set(multiprocessing.active_children()) - others:
        assert time.perf_counter() < deadline
        time.sleep(0.05)


def test_a_worker_that_is_slow_is_not_hung(photos: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    home = importlib.import_module("plusx.data.workers")
    monkeypatch.setattr(home, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(home, "CLOSING_SECONDS", 0.1)
    slow = lambda *given, **rules: time.sleep(0.5) or decode_crop(*given, **rules)  # noqa: E731
    monkeypatch.setattr(importlib.import_module("plusx.data.loader"), "decode_crop", slow)
    with closing(make(photos, "photo", 1, crop="resized")) as loader, closing(loader.epoch(0)) as epoch:
        assert len(next(epoch).ids) == 4  # two seconds


def test_a_worker_that_cannot_be_started_is_told(photos: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def refused(_: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.get_context("fork").Process, "start", refused)
    with pytest.raises(TrainingError, match=r"0 of 2 decoding processes could be started: Resource temporarily"):
        next(make(photos, "photo", 2, crop="resized").epoch(0))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def two_workers(what: str, *names: str) -> None:
    """The life of a process with two decoding processes; it prints theirs."""
    rules = Preprocess(size=24, resize=32, fit="crop", channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    paths = Names(names * 20)
    split = Split("train", np.arange(len(paths)) % 3, paths, paths)
    augment = AugmentConfig(crop="resized")
    loader = TrainLoader(split, rules, augment, n_classes=3, mode="photo", batch=4, seed=1, workers=2)
    epoch = loader.epoch(0)
    next(epoch)
    children = multiprocessing.active_children()
    os.write(1, " ".join(str(child.pid) for child in children).encode())
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "group":
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, lambda *_: None)
        for sent in (signal.SIGTERM, signal.SIGINT):
            os.system(f"kill -{sent.name[3:]} {' '.join(str(child.pid) for child in children)}")
        assert len(list(epoch)) == loader.steps_per_epoch - 1
    if what == "idle":
        list(epoch)
        assert children[0].pid is not None
        os.kill(children[0].pid, signal.SIGKILL)


def test_workers_stay_from_epoch_to_epoch_unless_one_is_left_in_its_midst(photos: Split) -> None:
    loader, seen, others = make(photos, "photo", 2, crop="none"), [], multiprocessing.active_children()
    for epoch, count in ((0, loader.steps_per_epoch), (1, loader.steps_per_epoch), (2, 1), (3, loader.steps_per_epoch)):
        with closing(loader.epoch(epoch)) as batches:
            for _ in range(count):  # as the trainer does, which does not ask for one more
                next(batches)
            seen.append({process.pid for process in multiprocessing.active_children() if process not in others})
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == len(seen[3]) == 2
    assert not seen[3] & seen[2]
    for _ in range(2):
        loader.close()
        assert not {process.pid for process in multiprocessing.active_children()} & seen[3]
    assert len(list(loader.epoch(4))) == loader.steps_per_epoch
    loader.close()


@pytest.mark.parametrize("what", ["die", "group", "idle", "leave"])
def test_workers_outlast_signals_and_not_their_parent(what: str, photos: Split, tmp_path: Path) -> None:
    assert photos.paths is not None
    process = Fork(two_workers, what, *photos.paths[:4], path=tmp_path / "told")
    assert process.wait(60) == (-signal.SIGKILL if what == "die" else 0), process.told()
    pids = process.said()[0].split()
    assert len(pids) == 2
    deadline = time.perf_counter() + 10
    while any(alive(pid) for pid in pids):
        assert time.perf_counter() < deadline
        time.sleep(0.05)


def alive(pid: str) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_evaluation_sees_each_file_once_in_order(
    photos: Split, kept: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = kept * 5 * 4 * 3 * RULES.size**2
    monkeypatch.setattr(sys.modules[EvalLoader.__module__], "KEPT_BYTES", room + room // 7)
    loader = EvalLoader(photos, RULES, keep=True, batch=5, workers=workers)
    assert loader.n == N
    for _ in range(3):  # from the second time on what is kept comes from memory
        batches = list(loader)
        assert [len(batch.ids) for batch in batches] == [5, 5, 5, 5, 2]
        assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(N))
        assert torch.equal(torch.cat([batch.targets for batch in batches]), torch.from_numpy(photos.targets))
        images = torch.cat([batch.images for batch in batches])
        assert photos.paths is not None
        assert all(torch.equal(image, RULES.load(path)) for image, path in zip(images, photos.paths, strict=True))
        assert len(loader._kept) == kept


@pytest.mark.parametrize("rules", [SMALL, RULES, replace(SMALL, resize=20)])
def test_evaluation_of_arrays_has_the_bits_of_one_image(arrays: Split, rules: Any) -> None:
    assert arrays.images is not None
    wanted = [rules(torch.from_numpy(image)) for image in arrays.images]
    for batch in (1, 5, 64):
        images = torch.cat([b.images for b in EvalLoader(arrays, rules, batch=batch)])
        assert all(map(torch.equal, images, wanted))


@pytest.mark.parametrize("rules", [SMALL, replace(SMALL, resize=20)])
@pytest.mark.parametrize("kept", [0, 1, 4, 5])
def test_evaluation_keeps_no_more_than_fits(
    arrays: Split, kept: int, rules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[EvalLoader.__module__], "KEPT_BYTES", kept * 5 * 4 * 3 * 16 * 16)
    loader, once = (EvalLoader(arrays, rules, keep=keep, batch=5) for keep in (True, False))
    for _ in range(3):
        first, second = list(loader), list(once)
        assert same(first, second)
        assert len(first) == 5
        assert len(loader._kept) == kept
        assert once._kept == []


def test_what_evaluation_keeps_is_not_read_again(photos: Split) -> None:
    loader = EvalLoader(photos, RULES, keep=True, batch=5)
    seen = list(loader)
    loader._split = Split("gone", photos.targets, Names(["/gone"] * N), photos.names)
    assert same(loader, seen)
    loader._kept = loader._kept[:4]
    with pytest.raises(ImageError, match="/gone"):
        list(loader)


def test_evaluation_left_early_starts_again(arrays: Split) -> None:
    loader = EvalLoader(arrays, SMALL, keep=True, batch=5)
    batches = iter(loader)
    first = [next(batches), next(batches)]
    for _ in range(2):
        found = list(loader)
        assert sum(len(batch.ids) for batch in found) == N
        assert same(first, found[:2])


@pytest.mark.parametrize("side", [None, 16, 40])
def test_training_and_evaluation_decode_alike(photos: Split, side: int | None) -> None:
    """Without random changes training sees evaluation's pixels, to the rounding of uint8."""
    assert photos.paths is not None
    rules = replace(RULES, size=side or RULES.size, resize=max(side or 0, RULES.resize))
    for batch in make(photos, "photo", crop="none", size=side).epoch(0):
        for image, i in zip(batch.images, batch.ids.tolist(), strict=True):
            assert (image - rules.load(photos.paths[i])).abs().max() < 0.5 / 255 / min(RULES.std) + 1e-4
    assert decode(photos.paths[5]).dtype == torch.float32


def test_a_daemonic_process_is_told_how_to_train(photos: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=r"can start no decoding processes\. Set data\.workers=0"):
        next(make(photos, "photo", 1, crop="none").epoch(0))
