"""Millions of file names in little memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

_CODE = ("utf-8", "surrogateescape")  # file names are bytes, not always text


class Names(Sequence[str]):
    """An unchanging sequence of strings, kept as one block of bytes: a name and 8 bytes each, not 100 more.

    Arguments:
        names: the strings.
    """

    __slots__ = ("_block", "_edges", "_prefix")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._fill((name.encode(*_CODE) for name in names), "")

    def _fill(self, pieces: Iterable[bytes | bytearray], prefix: str) -> "Names":
        self._block, self._edges, self._prefix = bytearray(), array("q", [0]), prefix
        for piece in pieces:
            self._block += piece
            self._edges.append(len(self._block))
        return self

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

    def take(self, ids: Iterable[int]) -> "Names":
        """Those at some positions, in that order."""
        edges = self._edges
        return Names.__new__(Names)._fill((self._block[edges[i] : edges[i + 1]] for i in ids), self._prefix)

    def below(self, folder: str) -> "Names":
        """The same with `folder` before each, at no memory."""
        other = Names.__new__(Names)
        other._block, other._edges, other._prefix = self._block, self._edges, folder
        return other

    def _text(self, first: int, last: int) -> str:
        return self._prefix + self._block[first:last].decode(*_CODE)
