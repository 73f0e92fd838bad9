"""A folder that becomes another in one step, and what killed processes left of such folders."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = ".rt-avsac-"  # in the names of folders to build in, so that no one else's is swept away
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of renameat2(2)
TRIES = 100  # against other processes that put their folder at the same place


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, gone when the block ends; locked while this process lives, see `sweep`."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}{MARK}", dir=out.parent))
        try:
            with _locked(work, fcntl.LOCK_EX):
                if not work.exists():
                    continue  # swept before it was locked
                work.chmod(0o755)
                yield work
                return
        finally:
            shutil.rmtree(work, ignore_errors=True)


def sweep(out: Path, is_whole: Callable[[Path], bool]) -> None:
    """Removes the workplaces for `out` of processes that are gone; a whole one becomes `out` where there is none."""
    for left in map(Path, glob.glob(f"{glob.escape(f'{out.parent}/.{out.name}{MARK}')}*")):
        with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB, must=True):
            if not out.exists() and is_whole(left):
                os.rename(left, out)
            else:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path, how: int, must: bool = False) -> Iterator[None]:
    """The system ends the lock with the process, however that ends. Some network file systems have none."""
    handle = -1
    try:
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(handle, how)
        except OSError:
            if must:
                raise
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def replace(work: Path, out: Path) -> None:
    """`work` becomes `out`; of what was there nothing stays. Readers find the one or the other."""
    for attempt in range(TRIES):
        try:
            if not out.exists():
                os.rename(work, out)
            elif not exchange(work, out):
                _rename_twice(work, out)
            return
        except OSError as error:  # another process was there in between
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or attempt == TRIES - 1:
                raise


def exchange(one: Path, other: Path) -> bool:
    """Two folders take each other's name in one step; False where the system or the file system has no such thing."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _rename_twice(work: Path, out: Path) -> None:
    """What is there is moved aside first, and back when that fails; who is killed in between leaves it to `sweep`."""
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}{MARK}", dir=out.parent))
    try:
        os.rename(out, aside)
        try:
            os.rename(work, out)
        except OSError:
            with suppress(OSError):  # unless another process has filled the gap
                os.rename(aside, out)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
