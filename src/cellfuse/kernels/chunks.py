"""Row blocks and threads: how a pass over a large matrix is cut up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

__all__ = ["in_threads", "n_threads", "over_pieces", "pieces", "row_blocks"]

Job = TypeVar("Job")
Result = TypeVar("Result")

#: More threads than this gain nothing on passes bound by memory.
MAX_THREADS = 8


def n_threads() -> int:
    """Threads worth starting: the cores this process may use, at most eight."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))
    return max(1, min(MAX_THREADS, os.cpu_count() or 1))


def row_blocks(n_rows: int, n_columns: int, *, block_bytes: int = 1 << 20) -> Iterator[slice]:
    """Cut `n_rows` into slices of about `block_bytes` of float32 each (at least 16 rows)."""
    step = max(16, block_bytes // (4 * max(1, n_columns)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def pieces(values: Any, rows: Any = None, *, block_bytes: int = 1 << 20) -> list[Any]:
    """What to index `values` with to go through (some of) its rows piece by piece.

    A matrix that is not in memory (:class:`cellfuse.data.lazy.LazyMatrix`) cuts itself, so that
    each of its blocks is read once; its pieces are row numbers, in no order.
    """
    if hasattr(values, "pieces"):
        return values.pieces(rows)
    n = values.shape[0] if rows is None else len(rows)
    blocks = row_blocks(n, values.shape[1], block_bytes=block_bytes)
    return list(blocks) if rows is None else [rows[block] for block in blocks]


def over_pieces(
    values: Any,
    function: Callable[[Job], Result],
    jobs: list[Job],
    *,
    linear_algebra: bool = False,
) -> Iterator[Result]:
    """Results of `function`, which reads `values`, over jobs in their order.

    In threads; or, where the matrix is not in memory, as it runs them (threads or a cluster), of
    which a few results at a time are there.
    """
    if hasattr(values, "run"):
        yield from values.run(function, jobs)
    else:
        yield from in_threads(function, jobs, linear_algebra=linear_algebra)


def in_threads(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, linear_algebra: bool = False
) -> list[Result]:
    """Map `function` over `jobs` in threads; results in the order of the jobs.

    Sorting and arithmetic on arrays release the interpreter lock. The result does not depend on
    the number of threads, because no job reads what another writes.

    Parameters
    ----------
    linear_algebra
        The jobs are products and decompositions of matrices: each then gets one thread of the
        linear algebra library, whose own threads would only wait for one another.
    """
    todo = list(jobs)
    workers = min(n_threads(), len(todo))
    if workers < 2:
        return [function(job) for job in todo]
    from threadpoolctl import threadpool_limits

    limit = threadpool_limits(1, user_api="blas") if linear_algebra else nullcontext()
    with limit, ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, todo))
