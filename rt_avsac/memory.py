"""What a lack of memory looks like: every library says it in another way, and in one line here."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from rt_avsac.errors import ModelError

SIGNS = (
    "out of memory",
    "allocate memory",
    "can't alloc",
    "cannot alloc",
    "not enough memory",
    "bad_alloc",
    "failed to map segment",  # of a shared library
    "can't start new thread",
    "resource temporarily unavailable",
)
WAY_OUT = "out of memory; free some, or use a larger machine"


def is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)):
        return True
    return any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """In the block a lack of memory becomes a ModelError that begins with `what`."""
    try:
        yield
    except Exception as error:
        if is_lack_of_memory(error):
            raise ModelError(f"{what}: {WAY_OUT}") from error
        raise
