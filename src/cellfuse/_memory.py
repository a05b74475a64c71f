"""Memory that one step gives back is there for the next one."""

from __future__ import annotations

import numpy as np

__all__ = ["keep_freed"]

#: The largest block of which glibc still learns is 32 MB.
LEARNT_BYTES = 31 << 20


def keep_freed() -> None:
    """Let the C library keep what is freed, up to some 60 MB, for what is made next.

    glibc hands freed memory back to the system beyond a limit, and the system clears every page of
    it before it is used again: up to a tenth of a step of training. The limit follows the largest
    block that was freed so far, of up to 32 MB, so that one block that is made and freed, and never
    touched, raises it. On other C libraries this does nothing.
    """
    np.empty(LEARNT_BYTES, np.uint8)
