"""Order and random numbers: permutations, uniformity, independence, constant memory, batch plans."""

import itertools
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from plusx.data.augment import CROP_DRAWS, ERASE_DRAWS
from plusx.data.sampling import BatchPlan, Stream, batch_bounds, order, order_at, repeated, share, uniform
from plusx.data.trivial import DRAWS
from plusx.errors import DataError


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 16, 17, 100, 1000, 10_007])
def test_order_is_a_permutation_and_slices_agree(n: int) -> None:
    whole = order(n, 3, 5, 0, n)
    assert np.array_equal(np.sort(whole), np.arange(n))
    cuts = [0, n // 3, n // 2, n]
    assert np.array_equal(np.concatenate([order(n, 3, 5, a, b) for a, b in itertools.pairwise(cuts)]), whole)


def test_order_depends_on_seed_and_epoch_and_is_recorded() -> None:
    assert order(10, 0, 0, 0, 10).tolist() == RECORDED
    assert not np.array_equal(order(100, 0, 0, 0, 100), order(100, 0, 1, 0, 100))
    assert not np.array_equal(order(100, 0, 0, 0, 100), order(100, 1, 0, 0, 100))


def test_every_small_permutation_is_equally_likely() -> None:
    for n, possible in ((2, 2), (3, 6), (4, 24), (5, 120)):
        draws = 40 * possible
        seen = Counter(tuple(order(n, 0, epoch, 0, n).tolist()) for epoch in range(draws))
        chi2 = sum((seen[p] - 40) ** 2 / 40 for p in itertools.permutations(range(n)))
        assert chi2 < possible + 5 * (2 * possible) ** 0.5  # mean + 5 sigma of chi-squared


def test_neighbours_in_the_order_are_unrelated() -> None:
    ids = order(50_000, 1, 2, 0, 50_000).astype(float)
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(ids, np.arange(50_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(ids, order(50_000, 1, 3, 0, 50_000))[0, 1]) < 0.02


def test_any_positions_in_any_order() -> None:
    positions = np.random.default_rng(0).permutation(1000)[:300]
    assert np.array_equal(order_at(1000, 3, 5, positions), order(1000, 3, 5, 0, 1000)[positions])


@pytest.mark.parametrize(("n", "batch", "size"), [(1003, 64, 1), (1003, 64, 2), (1003, 64, 7), (5000, 512, 100)])
def test_ranks_share_an_epoch_without_gap_or_overlap(n: int, batch: int, size: int) -> None:
    plan, whole = batch_bounds(n, batch, size), order(n, 0, 1, 0, n)
    for step in range(plan.steps):
        parts = [order_at(n, 0, 1, np.arange(*share(*plan.bounds(step), rank, size))) for rank in range(size)]
        assert np.array_equal(np.concatenate(parts), whole[slice(*plan.bounds(step))])


def test_pairs_stay_together_and_ranks_are_nearly_equal() -> None:
    assert [share(3, 17, rank, 4) for rank in range(4)] == [(3, 5), (5, 9), (9, 13), (13, 17)]
    assert [share(0, 9, rank, 2) for rank in range(2)] == [(0, 4), (4, 9)]


def test_each_process_gets_two_examples_of_every_step() -> None:
    assert batch_bounds(12, 4, 2).smallest == 4
    for n, batch in ((12, 3), (13, 4)):
        with pytest.raises(DataError, match="too small for 2 processes"):
            batch_bounds(n, batch, 2)


@pytest.mark.parametrize(("n", "batch", "times"), [(1003, 64, 4), (1000, 64, 3), (1003, 16, 4), (50, 100, 2)])
def test_repeated_examples_come_in_one_step_as_often_as_asked(n: int, batch: int, times: int) -> None:
    plan, seen = BatchPlan(n, batch), []
    for step in range(plan.steps):
        first, last = plan.bounds(step)
        places, visits = repeated(first, last, np.arange(first, last), times)
        assert len(set(zip(places.tolist(), visits.tolist(), strict=True))) == last - first
        assert (places[1:] != places[:-1]).all()  # neighbours may be mixed
        often = Counter(places.tolist())
        assert all(times - 1 <= count <= times + 2 for count in often.values())
        assert not set(seen) & set(often)
        seen += often
    assert sorted(seen) == list(range(len(seen)))
    assert len(seen) == pytest.approx(n / times, abs=1)


def test_each_visit_of_an_example_is_mixed_with_another() -> None:
    places, _ = repeated(0, 1024, np.arange(1024), 4)
    partners = places[np.arange(1024) ^ 1]
    assert all(len(set(partners[places == place].tolist())) == 4 for place in range(256))


def test_what_is_not_repeated_comes_in_order() -> None:
    places, visits = repeated(128, 192, np.arange(140, 150), 1)
    assert places.tolist() == list(range(140, 150))
    assert not visits.any()


def test_the_plan_of_4096_ranks_costs_what_one_rank_needs() -> None:
    plan = batch_bounds(10**9, 32 * 4096, 4096)
    tracemalloc.start()
    for step in range(0, plan.steps, 500):
        for rank in (0, 4095):
            positions = np.arange(*share(*plan.bounds(step), rank, 4096))
            assert len(order_at(10**9, 0, 0, positions)) in (30, 32, 34) or step == plan.steps - 1
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_a_billion_examples_cost_what_the_slice_costs() -> None:
    start = time.perf_counter()
    ids = order(10**9, 0, 0, 10**9 - 4096, 10**9)
    assert time.perf_counter() - start < 0.25  # about 2 ms on an idle core
    assert len(set(ids.tolist())) == 4096
    assert 0 <= ids.min() < ids.max() < 10**9


def test_uniform_is_uniform_and_streams_are_independent() -> None:
    ids = np.arange(100_000)
    a, b = uniform(0, 0, ids, Stream.SHIFT, 2).T
    assert np.array_equal(b, uniform(0, 0, ids, Stream.SHIFT + 1))
    for values in (a, b):
        counts, _ = np.histogram(values, 100, (0, 1))
        assert ((counts - 1000) ** 2 / 1000).sum() < 100 + 5 * 200**0.5
    others = (b, uniform(1, 0, ids, Stream.SHIFT), uniform(0, 1, ids, Stream.SHIFT), np.roll(a, 1))
    assert all(abs(np.corrcoef(a, other)[0, 1]) < 0.02 for other in others)
    assert 0 <= a.min() < a.max() < 1


def test_no_two_changes_draw_from_one_stream() -> None:
    counts = {"SHIFT": 2, "CUTOUT": 2, "CROP": CROP_DRAWS, "COLOUR": 3, "ERASE": ERASE_DRAWS, "POLICY": DRAWS}
    used = [stream + i for stream in Stream for i in range(counts.get(stream.name, 1))]
    assert len(set(used)) == len(used)


def test_uniform_depends_on_the_id_alone() -> None:
    ids = np.array([5, 17, 99])
    assert np.array_equal(uniform(2, 3, ids, Stream.FLIP), uniform(2, 3, np.arange(100), Stream.FLIP)[ids])


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7, 8, 128])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9, 127, 128, 129, 191, 192, 193, 1000])
def test_batch_plan_loses_nothing_and_leaves_no_single_image(n: int, batch: int) -> None:
    plan = batch_bounds(n, batch)
    bounds = [plan.bounds(step) for step in range(plan.steps)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) <= batch or (batch == 2 and sizes[-1] == 3)
    assert batch == 1 or min(sizes) > 1
    assert all(size == batch for size in sizes[:-2])
    assert 2 * sizes[-1] >= min(batch, n)


def test_batch_plan_of_a_billion_and_of_one() -> None:
    plan = BatchPlan(10**9, 4096)
    assert plan.steps == 244_141
    assert plan.bounds(plan.steps - 1)[1] == 10**9
    with pytest.raises(DataError, match="1 training example"):
        batch_bounds(1, 8)


RECORDED = [4, 2, 1, 0, 3, 6, 9, 5, 7, 8]
