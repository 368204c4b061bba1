"""Work in several processes, its results in order; or the same work in several at once.

Processes are started anew rather than forked, so they share no state with this one. They leave Ctrl-C to it, and end
when it does, even if it is killed.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from lit_avg.utils.errors import UserError

_AHEAD = 3
"""Items that are under way for each process, so that none waits for the next."""

_PATIENCE_SECONDS = 10
"""What a process that is told to end has to do so."""

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


def at_once(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` of every item, each in a process of its own; the first that fails ends the others.

    Raises:
        UserError: `work` raised it, or a process was killed.
        OSError: `work` raised it.
        RuntimeError: a process failed otherwise; its own traceback comes last.
    """
    context = multiprocessing.get_context("spawn")
    processes, places = list[BaseProcess](), dict[connection.Connection, int]()
    results = dict[int, Result]()
    try:
        for place, item in enumerate(items):
            receiver, sender = context.Pipe(duplex=False)
            processes.append(context.Process(target=_send_back, args=(work, item, sender)))
            processes[-1].start()
            sender.close()  # so that the process' own end is the last, and its death is heard
            places[receiver] = place
        while places:
            for receiver in cast(list[connection.Connection], connection.wait(list(places))):
                place = places.pop(receiver)
                results[place] = _received(receiver, processes[place], f"process {place + 1} of {len(items)}")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_PATIENCE_SECONDS)
            process.kill()
    return [results[place] for place in range(len(items))]


def _send_back(work: Callable[[Any], Any], item: Any, sender: connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        sender.send((True, work(item)))
    except (UserError, OSError) as error:  # whoever called `at_once` may be able to tell of it
        sender.send((False, error))
    except BaseException:
        sender.send((False, traceback.format_exc()))


def _received(receiver: connection.Connection, process: BaseProcess, name: str) -> Any:
    try:
        whole, result = receiver.recv()
    except EOFError:
        process.join()
        status = process.exitcode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        for_want = ", perhaps for want of memory" if status == -signal.SIGKILL else ""
        raise UserError(f"{name} {how}{for_want}; the others were ended, and what was done stays") from None
    if whole:
        return result
    raise result if isinstance(result, Exception) else RuntimeError(f"{name} failed:\n{result}")


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
