"""Work done ahead on threads, one for each core of this process.

Threads are enough: decoders, resizes and hashes let go of the interpreter lock.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

SLICE = 512  # items between two calls of progress
T = TypeVar("T")
R = TypeVar("R")


def own_cores() -> int:
    """CPU cores that this process may use; all of them where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(function: Callable[[T], R], items: Iterable[T], threads: int, count: int) -> Iterator[R]:
    """`map` on threads, in order, with at most `count` items worked on beyond the one waited for."""
    pool = ThreadPoolExecutor(threads, "plusx-decode")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_parallel(
    function: Callable[[T], R],
    items: Sequence[T],
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> Iterator[R]:
    """`map` on threads, in order; None or 0 of them is one a core. `progress` is called with (done, all)."""
    threads = threads or own_cores()
    for done, result in enumerate(ahead(function, items, threads, 4 * threads), 1):
        yield result
        if progress and (done % SLICE == 0 or done == len(items)):
            progress(done, len(items))
