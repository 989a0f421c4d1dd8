"""The held-out split: stratified, seeded, and the contract's rules."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from plusx.config import DataConfig
from plusx.data import Dataset, Split, open_dataset
from plusx.data.manifest import held_out, leaks
from plusx.data.names import Names
from plusx.data.split import choose, hold_out
from plusx.errors import DataError
from tests.data.making import CONFIG, class_folders

RECORDED = [0, 1, 2, 13, 18]  # first ids held out of two classes of 50


def split_of(counts: list[int], name: str = "all") -> Split:
    targets = np.repeat(np.arange(len(counts)), counts)
    return Split(
        name, targets, None, Names(f"x/{i}" for i in range(len(targets))), np.zeros((len(targets), 1, 2, 2), np.uint8)
    )


def dataset_of(**splits: list[int]) -> Dataset:
    k = max(map(len, splits.values()))
    return Dataset("x", "x", tuple(map(str, range(k))), "single", {n: split_of(c, n) for n, c in splits.items()})


def test_balanced_classes_count_the_same() -> None:
    split = split_of([60, 30, 10])
    weights = split.balance(3)
    assert weights == pytest.approx([100 / 180, 100 / 90, 100 / 30])
    assert weights[split.targets].mean() == pytest.approx(1)
    labels = np.array([[1, 1], [0, 1], [0, 1], [0, 1]], np.float32)
    several = dataclasses.replace(split_of([4]), targets=labels)
    assert several.balance(2).tolist() == [3, 1]  # a label that is nearly always there keeps its weight


def test_each_class_gives_its_share_and_keeps_one() -> None:
    split = split_of([100, 10, 8, 3, 2, 1])
    held = choose(split, 6, 0.2, 0)
    assert np.bincount(split.targets[held], minlength=6).tolist() == [20, 2, 2, 1, 1, 0]


def test_choice_depends_on_seed_and_names_alone() -> None:
    split = split_of([50, 50])
    held = choose(split, 2, 0.2, 0)
    assert (held == choose(split, 2, 0.2, 0)).all()
    assert (held != choose(split, 2, 0.2, 1)).any()
    order = np.random.default_rng(0).permutation(100)
    shuffled = Split("all", split.targets[order], None, split.names.take(order))
    assert {n for n, h in zip(split.names, held, strict=True) if h} == {
        n for n, h in zip(shuffled.names, choose(shuffled, 2, 0.2, 0), strict=True) if h
    }
    # recorded: a change here changes every user's split
    assert np.flatnonzero(held)[:5].tolist() == RECORDED


@pytest.mark.parametrize("multi", [False, True])
def test_examples_of_one_file_stay_together(multi: bool) -> None:
    names = [f"{i}" for i in range(40)]
    spelt = Names([*names, *(f"x/../{name}" for name in names)])
    targets = np.repeat([0, 1, 1, 0], 20)  # every file under both classes
    whole = Split("all", np.eye(2, dtype=np.float32)[targets] if multi else targets, Names([*names, *names]), spelt)
    held = choose(whole, 2, 0.2, 0)
    assert held.sum() == 16
    assert (held[:40] == held[40:]).all()
    dataset = Dataset("x", "x", ("a", "b"), "multi" if multi else "single", {"all": whole})
    before = {name: bool(i % 2) for i, name in enumerate(names)}
    assert list(hold_out(dataset, CONFIG, before).splits["val"].names) == [*spelt[1:40:2], *spelt[41::2]]
    twice = Split("all", np.array([0, 0, 1]), Names("aab"), Names("aab"))
    assert not choose(twice, 2, 0.2, 0).any()


def test_data_with_nothing_left_to_validate_is_refused() -> None:
    dataset = dataset_of(all=[10, 10])
    split, held = dataset.splits["all"], np.arange(20) % 5 == 0
    before = dict(zip(split.names, held.tolist(), strict=True))
    assert len(hold_out(dataset, CONFIG, before).splits["val"]) == 4
    with pytest.raises(DataError, match="none of the images that the run held out is left"):
        hold_out(dataset.changed(splits={"all": split.take(~held)}), CONFIG, before)


def test_a_file_that_was_trained_on_never_moves() -> None:
    rows = {"train": {"examples": [["a"], ["b"]]}, "val": {"examples": [["b"], ["c"]]}}
    assert held_out({"splits": rows}) == {"a": False, "b": False, "c": True}


def test_adding_an_example_moves_few_others() -> None:
    before, after = split_of([200]), split_of([201])
    a, b = choose(before, 1, 0.2, 0), choose(after, 1, 0.2, 0)
    assert (a != b[:200]).sum() <= 1


def test_several_labels_an_image() -> None:
    targets = (np.random.default_rng(0).random((300, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).astype(np.float32)
    targets[targets.sum(1) == 0, 0] = 1
    split = Split("all", targets, None, Names(map(str, range(300))))
    held = choose(split, 6, 0.2, 0)
    share = targets[held].sum(0) / targets.sum(0)
    assert (share > 0.1).all()
    assert (share < 0.35).all()
    one_each = Split("all", np.array([[1, 1], [1, 0], [0, 1]], np.float32), None, Names("abc"))
    kept = one_each.targets[~choose(one_each, 2, 0.9, 0)]
    assert (kept.sum(0) >= 1).all()


def test_the_rarest_label_chooses_first() -> None:
    targets = np.array([[1, 1]] * 5 + [[1, 0]] * 5, np.float32)
    split = Split("all", targets, None, Names("abcdefghij"))
    for seed in range(20):
        assert targets[choose(split, 2, 0.2, seed)].sum(0).tolist() == [2, 1]


def test_what_is_held_out_is_said() -> None:
    found = hold_out(dataset_of(all=[10, 5]), DataConfig(split_seed=7))
    assert found.notes == ("val: 3 images of 15 held out of train, 20% of each class, rounded, at least one, seed 7",)


@pytest.mark.parametrize(
    ("splits", "fraction", "expected"),
    [
        ({"all": [50, 50]}, None, {"train": 80, "val": 20}),
        ({"train": [50, 50], "test": [5, 5]}, None, {"train": 90, "val": 10, "test": 10}),
        ({"train": [50, 50], "val": [5, 5]}, 0.5, {"train": 100, "val": 10}),
        ({"all": [50, 50]}, 0.0, {"train": 100}),
        ({"all": [50, 50]}, 0.5, {"train": 50, "val": 50}),
    ],
)
def test_rules(splits: dict[str, list[int]], fraction: float | None, expected: dict[str, int]) -> None:
    found = hold_out(dataset_of(**splits), DataConfig(val_fraction=fraction))
    assert {name: len(s) for name, s in found.splits.items()} == expected
    assert {s.name for s in found.splits.values()} == set(expected)
    assert ("val" in splits) == any("val_fraction is not used" in n for n in found.notes)


def test_named_sets_keep_their_splits_unless_asked() -> None:
    dataset = dataclasses.replace(dataset_of(train=[50, 50], test=[5, 5]), benchmark=True)
    assert list(hold_out(dataset, CONFIG).splits) == ["train", "test"]
    asked = hold_out(dataset, DataConfig(val_fraction=0.1))
    assert {n: len(s) for n, s in asked.splits.items()} == {"train": 90, "val": 10, "test": 10}


def test_class_with_one_image_stays_in_train_and_is_said(tmp_path: Path) -> None:
    dataset = open_dataset(str(class_folders(tmp_path, {"a": 10, "b": 10, "rare": 1})), CONFIG)
    assert dataset.splits["train"].counts(3).tolist() == [8, 8, 1]
    assert dataset.splits["val"].counts(3).tolist() == [2, 2, 0]
    assert "1 class with one training image: rare" in dataset.notes
    assert "val has no image of 1 class: rare" in dataset.notes


def test_nothing_to_hold_out() -> None:
    with pytest.raises(DataError, match="a single image of each class"):
        hold_out(dataset_of(all=[1, 1]), CONFIG)


def test_what_other_splits_have_of_train_is_noted() -> None:
    rows = {"train": [["a.png", "a", 9, "0a"], ["b.png", "b", 9, "0b"]], "val": [["c.png", "a", 9, "0a"]]}
    splits = {name: {"examples": examples} for name, examples in rows.items()} | {"test": {"sha256": "0b"}}
    assert leaks({"splits": splits}) == [
        "1 of 1 image of val also in train, byte for byte: its result is too good; `plusx check` lists them"
    ]
    assert leaks({"splits": {"val": {"examples": rows["val"]}}}) == []
