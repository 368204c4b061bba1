"""A second user of the machine, who may do what the permissions of files and folders let everybody do."""

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import pytest

Found = TypeVar("Found")

NOBODY = 65534


def become_nobody(umask: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.umask(umask)
    os.environ["HOME"] = "/nonexistent"


def as_second_user(
    function: Callable[..., Found], *arguments: object, umask: int = 0o022, groups: Sequence[int] = ()
) -> Found:
    """What a function says that another user calls; the test is skipped where this one may not become another."""
    if os.getuid() != 0:
        pytest.skip("only root may become another user")
    settings = (umask, list(groups))
    with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=become_nobody, initargs=settings) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def under_umask(umask: int) -> Generator[None]:
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, set[str]]:
    """The permissions of the folders and of the files below a folder."""
    found = {True: set[str](), False: set[str]()}
    for path in folder.rglob("*"):
        found[path.is_dir()].add(oct(path.stat().st_mode & 0o777))
    return {"folders": found[True], "files": found[False]}
