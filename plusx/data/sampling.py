"""Which example comes when, and which random numbers it gets: pure functions without state.

Everything random in the data pipeline is a hash of (seed, epoch, example id, stream), so worker count, world size and
interruption cannot change it and no generator state is saved. Vectorised over ids; memory grows with the slice asked
for, never with the size of the data set.
"""

from dataclasses import dataclass
from enum import IntEnum
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from plusx.errors import DataError

Ids = NDArray[np.int64]
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, the increment of splitmix64
_MASK = (1 << 64) - 1
_ROUNDS = 10  # of the Feistel network; tests count all permutations of small sets
_UINT = np.uint64


class Stream(IntEnum):
    """What a random number is for: numbers of different streams are independent."""

    ORDER = 0
    FLIP = 1
    SHIFT = 2  # 2: y, x
    CUTOUT = 4  # 2: y, x
    CROP = 8  # 22: ten tries of (area, aspect), then y, x
    COLOUR = 32  # 3: along each colour direction
    ERASE = 64  # 23: whether, ten tries of (area, aspect), then y, x
    POLICY = 96  # 3: operation, strength, sign


def _mix_int(x: int) -> int:
    """splitmix64's finaliser of one Python integer."""
    x &= _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser, elementwise; overwrites x."""
    x ^= x >> _UINT(30)
    x *= _UINT(0xBF58476D1CE4E5B9)
    x ^= x >> _UINT(27)
    x *= _UINT(0x94D049BB133111EB)
    x ^= x >> _UINT(31)
    return x


def key(*parts: int) -> int:
    """A 64-bit key that depends on every part and on their order."""
    state = 0
    for part in parts:
        state = _mix_int(state + _GOLDEN + part)
    return state


def uniform(seed: int, epoch: int, ids: Ids, stream: int, count: int = 1) -> NDArray[np.float64]:
    """Random numbers in [0, 1), each a function of (seed, epoch, id, stream) alone.

    Arguments:
        seed: of the run.
        epoch: counted from 0.
        ids: (N,) example ids.
        stream: first stream, one of `Stream`.
        count: how many consecutive streams.

    Returns:
        (N,) for one stream, (N, count) for more.
    """
    keys = np.array([key(seed, epoch, stream + i) for i in range(count)], dtype=_UINT)
    bits = _mix(ids.astype(_UINT)[:, None] * _UINT(_GOLDEN) + keys)
    values: NDArray[np.float64] = (bits >> _UINT(11)).astype(np.float64) * 2.0**-53
    return values[:, 0] if count == 1 else values


def order(n: int, seed: int, epoch: int, start: int, stop: int) -> Ids:
    """Positions start..stop-1 of this epoch's random order of n examples; see `order_at`."""
    assert 0 <= start <= stop <= n, (n, start, stop)
    return order_at(n, seed, epoch, np.arange(start, stop))


def order_at(n: int, seed: int, epoch: int, positions: Ids) -> Ids:
    """What stands at some positions of this epoch's random order of n examples.

    A format-preserving permutation: a Feistel network on a grid of just over n cells, applied again where it leaves
    0..n-1, so that positions cost time and memory of their own number.

    Arguments:
        n: examples.
        seed: of the run.
        epoch: counted from 0.
        positions: (P,), each 0..n-1.

    Returns:
        (P,) example ids; over all positions each of 0..n-1 exactly once.
    """
    rows = isqrt(max(n - 1, 0)) + 1
    columns = -(-n // rows)
    keys = [key(seed, epoch, Stream.ORDER, turn) for turn in range(_ROUNDS)]
    cells = _shuffle(positions.astype(_UINT), rows, columns, keys)
    while (outside := np.flatnonzero(cells >= _UINT(n))).size:
        cells[outside] = _shuffle(cells[outside], rows, columns, keys)
    return cells.astype(np.int64)


def _shuffle(cells: NDArray[np.uint64], rows: int, columns: int, keys: list[int]) -> NDArray[np.uint64]:
    """One pass of the network: each turn shifts one coordinate by a hash of the other, which can be undone."""
    y, x = np.divmod(cells, _UINT(columns))
    for turn, turn_key in enumerate(keys):
        if turn % 2:
            x = _shift(x, y, columns, turn_key)
        else:
            y = _shift(y, x, rows, turn_key)
    return y * _UINT(columns) + x


def _shift(a: NDArray[np.uint64], b: NDArray[np.uint64], size: int, turn_key: int) -> NDArray[np.uint64]:
    """(a + hash(b)) mod size, the hash scaled to 0..size-1 by a multiplication instead of a division."""
    a = a + ((_mix(b * _UINT(_GOLDEN) + _UINT(turn_key)) >> _UINT(32)) * _UINT(size) >> _UINT(32))
    return np.where(a >= _UINT(size), a - _UINT(size), a)


@dataclass(frozen=True)
class BatchPlan:
    """How the positions of an epoch are cut into batches; constant memory for any n.

    Every example once, ceil(n / batch) steps. When the last batch would be smaller than half of one, it shares evenly
    with the one before, so no example is lost and batch norm never sees a single image. (An odd n in pairs ends in
    one step of three.)
    """

    n: int
    batch: int

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        pairs_and_one = self.batch == 2 and self.n % 2 == 1
        return self.n // 2 if pairs_and_one else -(-self.n // self.batch)

    def bounds(self, step: int) -> tuple[int, int]:
        """First and one past the last position of a step of the epoch."""
        assert 0 <= step < self.steps, (step, self.steps)
        return self._edge(step), self._edge(step + 1)

    @property
    def smallest(self) -> int:
        """Examples of the smallest step."""
        first, last = self.bounds(self.steps - 1)
        return min(self.batch, self.n, last - first)

    def _edge(self, step: int) -> int:
        if step == self.steps:
            return self.n
        rest = self.n % self.batch
        if step == self.steps - 1 and 0 < 2 * rest < self.batch and step > 0:
            return self.n - (self.batch + rest) // 2
        return step * self.batch


def batch_bounds(n: int, batch: int, processes: int = 1) -> BatchPlan:
    """The plan of an epoch of n examples.

    Raises:
        DataError: fewer than two examples, or, in some step, fewer than two for each process.
    """
    if n < 2:
        raise DataError(f"{n} training example(s): expected at least 2.", "Add images, or hold out fewer of them.")
    plan = BatchPlan(n, batch)
    if processes > 1 and plan.smallest < 2 * processes:
        message = f"a step of {plan.smallest} examples is too small for {processes} processes, which need two each."
        raise DataError(message, "Set a larger engine.batch, or start fewer processes.")
    return plan


def repeated(first: int, last: int, positions: Ids, times: int) -> tuple[Ids, Ids]:
    """Where the positions of a step look into the epoch's order, when a step has each of its examples several times.

    Arguments:
        first: position of the step.
        last: one after its last position.
        positions: (P,) of them.
        times: that an example comes, in one step, each time beside another that it may be mixed with, where a step
            has an even number of examples, at least twice as many; an epoch has fewer examples then.

    Returns:
        (P,) positions in the order; (P,) how often that one came before in this step.
    """
    start, end = -(-first // times), -(-last // times)
    visit, place = np.divmod(positions - first, max(end - start, 1))
    pairs = max((end - start) // 2, 1)
    moved = (place // 2 + visit) % pairs * 2 + 1  # of each pair the second goes on by a pair a visit
    return start + np.where(place % 2, moved, place), visit


def share(first: int, last: int, rank: int, size: int) -> tuple[int, int]:
    """The positions of a step, `first` to one before `last`, that are a rank's, in order and as equal as pairs allow.

    Pairs stay together, since neighbours in a batch may be mixed.
    """
    edges = [first + 2 * ((last - first) * r // (2 * size)) if r < size else last for r in (rank, rank + 1)]
    return edges[0], edges[1]
