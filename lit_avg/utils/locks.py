"""Who is at work on a run: a lock that the system lets go of when its owner ends, however it ends.

The lock lies beside the run's folder (`.<run>.lock`), so that the folder can be moved while it is held, and says who
holds it. It is a `flock`, which Linux carries over NFS as well; where a file system has none, that is said.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from lit_avg.utils.errors import UserError

_held = dict[Path, TextIO]()
"""Lock files that this process holds: a run that it was told to do may hold its own folder again."""


def _let_go() -> None:
    """Leave the locks to the process they are of: a loader's worker lives on for seconds after a kill of its run."""
    for file in _held.values():
        file.close()
    _held.clear()


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
        UserError: the file system has no locks.
    """
    path = lock_of(directory).absolute()
    if path in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if wait:
            _lock(file, fcntl.LOCK_EX)
        else:
            _lock_at_once(file)
        job = os.environ.get("SLURM_JOB_ID")
        file.truncate(0)
        file.write(json.dumps(asdict(Owner(socket.gethostname(), os.getpid(), job, time.time()))))
        file.flush()
        _held[path] = file
        try:
            yield
        finally:
            _held.pop(path, None)


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


def _lock_at_once(file: TextIO) -> None:
    for _ in range(_TRIES - 1):
        with suppress(BusyError):
            return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_BETWEEN)
    return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(file: TextIO, kind: int) -> None:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError as error:
        raise BusyError(file.name) from error
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}); put `out` on a file system that can"
        ) from error


def _read(file: TextIO) -> Owner:
    """What the lock says; its owner may be about to write it."""
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return Owner("?", 0, None, time.time())
