"""Work in several processes, its results in order.

Processes are started anew rather than forked, so they share no state with this one. They leave Ctrl-C to it, and end
when it does, even if it is killed.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar, cast

from lit_avg.utils.errors import UserError

_AHEAD = 3
"""Items that are under way for each process, so that none waits for the next."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`work` of each item, in the items' order, with a bounded number of them in memory.

    Args:
        work: is sent to each process once.
        items: read as they are needed.
        workers: processes; 1 for this one alone.

    Raises:
        UserError: a process was killed.
    """
    if workers == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (work,))
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_do, item))
            if len(waiting) > workers * _AHEAD:
                yield cast(Result, waiting.popleft().result())
        while waiting:
            yield cast(Result, waiting.popleft().result())
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, perhaps for want of memory; try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_work: list[Callable[[Any], Any]] = []  # of this worker process


def _begin(work: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    _work.append(work)


def end_with_parent() -> None:
    """Have this worker process end when the one that started it does, even if that is killed.

    However it was started: the parent in the system's sense may be a fork server, which lives on.
    """
    threading.Thread(target=_await_end_of_parent, daemon=True).start()


def _await_end_of_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _do(item: Any) -> Any:
    return _work[0](item)
