"""Work on parts of a table in several processes, with the results in order."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

_MAX_PROCESSES = 16
_AHEAD = 2  # results that are held for each process


def in_processes(
    work: Callable[..., Result], parts: Sequence[Part], *arguments: Any, serial: bool = False
) -> Iterator[Result]:
    """Yield ``work(part, *arguments)`` for each part, in the order of the parts.

    The processes are forked, so ``arguments`` are not copied. Where processes cannot be forked, or only one CPU is
    available, the work is done in this process.

    Args:
        work: a function of a module; its results are pickled.
        parts: what is divided among the processes.
        arguments: the same for each part.
        serial: whether to do the work in this process in any case.

    Yields:
        The results. Only a few are held at once.

    Raises:
        BrokenProcessPool: a process was killed.
    """
    num_processes = min(_num_cpus(), len(parts), _MAX_PROCESSES)
    if serial or num_processes < 2 or not _can_fork():
        for part in parts:
            yield work(part, *arguments)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(num_processes, context, _remember, (work, arguments)) as pool:
        waiting: deque[Future[Result]] = deque()
        for part in parts:
            if len(waiting) == num_processes * _AHEAD:
                yield waiting.popleft().result()
            waiting.append(pool.submit(_run, part))
        while waiting:
            yield waiting.popleft().result()


_remembered: list[Any] = []  # work and arguments, in a forked process


def _remember(work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    _remembered[:] = [work, arguments]


def _run(part: Any) -> Any:
    work, arguments = _remembered
    return work(part, *arguments)


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_fork() -> bool:
    # A daemonic process, such as a worker of a loader, may not have children.
    return "fork" in multiprocessing.get_all_start_methods() and not multiprocessing.current_process().daemon
