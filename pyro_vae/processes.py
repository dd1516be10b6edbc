"""Call tasks side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

Task = TypeVar("Task", bound=Callable[[Callable[[int], None]], Any])


class ProcessFailed(Exception):
    """A process ended without a result."""


def side_by_side(
    tasks: Sequence[Task],
    jobs: int,
    threads: int,
    on_start: Callable[[Task], None],
    on_step: Callable[[int], None],
) -> list[Any]:
    """Call each task in a new process, ``jobs`` of them at the same time.

    If a process is killed, the others are not affected. If this call is interrupted, all processes
    are.

    Args:
        tasks: what is called, with a function that takes a number of images. They are pickled.
        jobs: the number of processes at the same time.
        threads: the threads of each process.
        on_start: is called with each task before its process starts.
        on_step: is called here with each number that a task gives to its function.

    Returns:
        the result of each task; a :class:`ProcessFailed` where the process ended without one.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    results: list[Any] = [None] * len(tasks)
    waiting = list(range(len(tasks)))
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number = waiting.pop(0)
                on_start(tasks[number])
                ours, theirs = spawn.Pipe(duplex=False)
                process = spawn.Process(target=work, args=(tasks[number], threads, theirs))
                running[ours] = number, process
                process.start()
                theirs.close()
            for pipe in (c for c in wait(list(running)) if isinstance(c, Connection)):
                try:
                    said = pipe.recv()
                except EOFError:
                    number, process = running.pop(pipe)
                    process.join()
                    if results[number] is None:
                        code = process.exitcode
                        results[number] = ProcessFailed(f"its process ended with the code {code}")
                    continue
                if isinstance(said, int):
                    on_step(said)
                else:
                    results[running[pipe][0]] = said
    finally:
        for _, process in running.values():
            if process.pid is not None:
                process.kill()
                process.join()
    return results


def work(task: Callable[[Callable[[int], None]], Any], threads: int, pipe: Connection) -> None:
    """What a process does: it sends the numbers of images, and then the result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    torch.set_num_threads(threads)
    pipe.send(task(pipe.send))
