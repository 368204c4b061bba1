"""Locks that the system lets go of when their owner ends, however it ends.

A lock is a `flock` on a file of its own, which Linux carries over NFS as well; where a file system has none, that is
said. The lock of a run lies beside the run's folder (`.<run>.lock`), so that the folder can be moved while it is held,
and says who holds it.

The package filelock does not do here. It looks at a lock by taking it, which whoever may only read a study cannot, and
where two who look would each tell that the other is at work; some of its versions empty the file that says who is.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TextIO

from lit_avg.utils.atomic_io import READ_ONLY
from lit_avg.utils.errors import UserError

_open = set[TextIO]()
"""Lock files that this process holds or waits for."""

_runs = set[Path]()
"""Lock files of runs that it holds: a run that it was told to do may hold its own folder again."""


def _let_go() -> None:
    """Leave the locks to the process they are of: a loader's worker lives on for seconds after a kill of its run."""
    for file in _open:
        file.close()
    _open.clear()
    _runs.clear()


os.register_at_fork(after_in_child=_let_go)

_TRIES, _BETWEEN = 5, 0.05
"""How often, and after how many seconds, a lock is tried: whoever looks whether it is held, holds it for an instant."""


class BusyError(Exception):
    """Somebody else holds the lock."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Args:
        host: where it runs.
        pid: its number there.
        job: that of its SLURM job, if it is one.
        since: when it took the lock, in seconds since 1970.
    """

    host: str
    pid: int
    job: str | None
    since: float


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Generator[TextIO]:
    """Hold a lock file, which is made if it is not there, against all other processes and threads.

    Another user's is held as well where it may only be read.

    Args:
        path: of the lock file.
        wait: until the others let go.

    Raises:
        BusyError: somebody else holds it, and `wait` is off.
        UserError: the file system has no locks, or this user may not make the file.
    """
    with _opened(path) as file:
        _open.add(file)
        try:
            lock_until_closed(file, wait)
            yield file
        finally:
            _open.discard(file)


def lock_until_closed(file: IO[Any], wait: bool = True) -> None:
    """Hold an open file; other arguments and errors as in `file_lock`."""
    _lock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def lock_of(directory: Path) -> Path:
    """The lock file of a run's folder."""
    return directory.parent / f".{directory.name}.lock"


@contextmanager
def locked(directory: Path, wait: bool = False) -> Generator[None]:
    """Hold a run's folder, be it there or not, against all other processes.

    Args:
        directory: what is held; nothing in it is touched.
        wait: until the others let go.

    Raises:
        BusyError: another process holds it, and `wait` is off.
        UserError: the file system has no locks, or the folder is another user's.
    """
    path = lock_of(directory).absolute()
    if path in _runs:
        yield
        return
    with ExitStack() as held:
        file = _take(path, wait, held)
        if not file.writable():
            raise UserError(f"{directory} is another user's: you may not write to {path}; name a folder of your own")
        _write_owner(file)
        _runs.add(path)
        try:
            yield
        finally:
            _runs.discard(path)


def owner_of(directory: Path) -> Owner | None:
    """Who is at work on a run; None if nobody is."""
    try:
        file = lock_of(directory).open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        try:
            _lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BusyError:
            return _read(file)
    return None


def _take(path: Path, wait: bool, held: ExitStack) -> TextIO:
    for _ in range(0 if wait else _TRIES - 1):
        with suppress(BusyError):
            return held.enter_context(file_lock(path, wait=False))
        time.sleep(_BETWEEN)
    return held.enter_context(file_lock(path, wait))


def _write_owner(file: TextIO) -> None:
    """Say in a lock who holds it, unbuffered: what a full disk refuses must not be written again as it closes."""
    owner = Owner(socket.gethostname(), os.getpid(), os.environ.get("SLURM_JOB_ID"), time.time())
    try:
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), json.dumps(asdict(owner)).encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        with suppress(OSError):
            return path.open(encoding="utf-8")
        raise UserError(
            f"{path} cannot be opened ({error.strerror}); have whom {path.parent} belongs to let you write there, "
            "or name a folder of your own"
        ) from error


def _lock(file: IO[Any], kind: int) -> None:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError as error:
        raise BusyError(file.name) from error
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}); name a folder on a file system that has locks"
        ) from error


def _read(file: TextIO) -> Owner:
    """What the lock says; its owner may be about to write it."""
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return Owner("?", 0, None, time.time())
