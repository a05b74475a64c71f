"""Row blocks and threads: how a pass over a large matrix is cut up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

__all__ = ["in_threads", "n_threads", "row_blocks"]

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
