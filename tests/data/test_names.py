"""Packed names are the strings they were made of, in a fraction of the memory."""

import os
import tracemalloc

import numpy as np
import pytest

from plusx.data.names import PART, Names

TEXTS = ["a/1.png", "", "ünïcode/中.jpg", os.fsdecode(b"not\xff utf-8"), "a/1.png"]


def test_names_are_the_strings_they_were_made_of() -> None:
    names = Names(TEXTS)
    assert list(names) == TEXTS
    assert [names[i] for i in range(len(names))] == TEXTS
    assert [names[i] for i in range(-len(names), 0)] == TEXTS
    assert names[np.int64(2)] == TEXTS[2]
    assert list(names[1:4]) == TEXTS[1:4]
    assert list(names[::-2]) == TEXTS[::-2]
    assert list(names.take(np.array([4, 0, 0]))) == [TEXTS[4], TEXTS[0], TEXTS[0]]
    assert list(names.below("/top/").take([0, 2])) == ["/top/a/1.png", "/top/ünïcode/中.jpg"]
    assert "" in names
    assert "top" not in names
    assert list(names.encoded()) == [os.fsencode(text) for text in TEXTS]
    assert list(names.below("/ü/").encoded())[2:4] == ["/ü/ünïcode/中.jpg".encode(), b"/\xc3\xbc/not\xff utf-8"]
    assert not Names()
    assert list(Names().take([])) == list(names.take([])) == list(Names().encoded()) == []
    assert list(Names(["", ""]).take([1, 0])) == ["", ""]
    for at in (5, -6):
        with pytest.raises(IndexError):
            names[at]
    assert repr(names[:2]) == "Names(2: a/1.png, )"


def test_many_names_are_kept_and_taken_in_any_order() -> None:
    texts = [f"{i:x}/ü{'x' * (i % 7)}" for i in range(2 * PART + 5)]
    names = Names(iter(texts))
    assert list(names) == texts
    assert names[PART] == texts[PART]
    ids = np.random.default_rng(0).permutation(len(texts))
    assert list(names.take(ids)) == [texts[i] for i in ids]
    assert list(names.take(ids[:PART]).take([5, 5])) == [texts[ids[5]]] * 2


def test_names_and_paths_taken_together_share_memory_where_they_did() -> None:
    names = Names(TEXTS)
    taken, paths = names.take_both(names.below("/top/"), [2, 0])
    assert (list(taken), list(paths)) == ([TEXTS[2], TEXTS[0]], [f"/top/{TEXTS[2]}", f"/top/{TEXTS[0]}"])
    assert paths._block is taken._block
    taken, paths = names.take_both(Names(f"/{i}" for i in range(len(TEXTS))), [3, 1])
    assert (list(taken), list(paths)) == ([TEXTS[3], TEXTS[1]], ["/3", "/1"])


def test_a_name_costs_its_bytes_and_eight_more() -> None:
    n, length = 100_000, len("n00000000/n00000000_000000.JPEG")
    tracemalloc.start()
    try:
        names = Names(f"n00000000/n00000000_{i:06d}.JPEG" for i in range(n))
        paths = names.below("/some/long/folder/")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(names), len(paths)) == (n, n)
    assert held < 1.2 * n * (length + 8)
    assert peak < 2 * held
