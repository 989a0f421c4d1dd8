"""Millions of file names in little memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

PART = 4096  # names that are in memory one by one, besides the block
_CODE = ("utf-8", "surrogateescape")  # file names are bytes, not always text


class Names(Sequence[str]):
    """An unchanging sequence of strings, kept as one block of bytes: a name and 8 bytes each, not 100 more.

    Arguments:
        names: the strings.
    """

    __slots__ = ("_block", "_edges", "_prefix")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._block, self._edges, self._prefix = bytearray(), array("q", [0]), ""
        rest = iter(names)
        while part := list(islice(rest, PART)):
            text = "".join(part)
            pieces = part if text.isascii() else [name.encode(*_CODE) for name in part]
            self._edges.extend(islice(accumulate(map(len, pieces), initial=len(self._block)), 1, None))
            self._block += text.encode(*_CODE)

    def __len__(self) -> int:
        return len(self._edges) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> "Names": ...
    def __getitem__(self, at: int | slice) -> "str | Names":
        if isinstance(at, slice):
            return self.take(range(*at.indices(len(self))))
        at = range(len(self))[at]
        return self._text(self._edges[at], self._edges[at + 1])

    def __iter__(self) -> Iterator[str]:
        return (self._text(first, last) for first, last in pairwise(self._edges))

    def __repr__(self) -> str:
        return f"Names({len(self):,}: {', '.join(self[:3])}{', …' if len(self) > 3 else ''})"

    def take(self, ids: ArrayLike) -> "Names":
        """Those at some positions (M,), in that order."""
        other = Names().below(self._prefix)
        block, edges = np.frombuffer(self._block, np.uint8), np.frombuffer(self._edges, np.int64)
        wanted = np.asarray(ids, np.int64)
        for part in (wanted[i : i + PART] for i in range(0, len(wanted), PART)):
            firsts, lengths = edges[part], edges[part + 1] - edges[part]
            ends = lengths.cumsum()
            places = np.repeat(firsts - (ends - lengths), lengths) + np.arange(ends[-1])  # of each byte in our block
            other._edges.frombytes((len(other._block) + ends).tobytes())
            other._block += block[places].tobytes()
        return other

    def take_both(self, paths: "Names", ids: ArrayLike) -> tuple["Names", "Names"]:
        """Those of these names and of their `paths`, which go on sharing their memory where they do."""
        taken = self.take(ids)
        return taken, taken.below(paths._prefix) if paths.share(self) else paths.take(ids)

    def share(self, other: "Names") -> bool:
        """Whether both are one list of names below different folders, as a folder's paths and names are."""
        return self._block is other._block

    def below(self, folder: str) -> "Names":
        """The same with `folder` before each, at no memory."""
        other = Names.__new__(Names)
        other._block, other._edges, other._prefix = self._block, self._edges, folder
        return other

    def encoded(self) -> Iterator[bytes]:
        """Each as the bytes that the file system has."""
        prefix = self._prefix.encode(*_CODE)
        return (prefix + self._block[first:last] for first, last in pairwise(self._edges))

    def _text(self, first: int, last: int) -> str:
        return self._prefix + self._block[first:last].decode(*_CODE)
