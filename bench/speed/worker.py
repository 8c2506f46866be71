"""An object that lives in a process of its own, with its own threads and environment, and is asked from here."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from florence2_sam2.server.launch.command import ALLOCATOR

# What the server gives its models' processes (server/launch/command.py): their sessions' threads are set one by one.
SERVERS_ENVIRONMENT = {
    **ALLOCATOR,
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
}


class WorkerFailed(Exception):
    """What the object raised, with its traceback, or that its process has ended."""


class Worker:
    """Makes `factory(*arguments)` in a new process and calls its methods there, one after the other.

    Args:
        factory: importable; what it is given, and what methods are given and return, must be picklable.
        environment: variables of the process on top of ours; None takes one away.

    Raises:
        WorkerFailed: it could not be made.
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments))
        with _changed(environment or {}):
            self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What the method returns.

        Raises:
            WorkerFailed: it has raised, or the process has ended.
        """
        try:
            self._connection.send((method, arguments, named))
        except OSError:
            raise WorkerFailed("the process has ended") from None
        return self._answer()

    def close(self) -> None:
        """End the process; what it is at is lost."""
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> Any:
        try:
            failed, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise WorkerFailed(f"the process has ended (exit code {self._process.exitcode})") from None
        if failed:
            raise WorkerFailed(value)
        return value


def _serve(connection: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The process: ends when the other end of the connection has gone."""
    try:
        served = factory(*arguments)
    except BaseException:
        connection.send((True, traceback.format_exc()))
        return
    connection.send((False, None))
    while True:
        try:
            method, given, named = connection.recv()
        except (EOFError, OSError):
            break
        try:
            answer = (False, getattr(served, method)(*given, **named))
        except Exception:
            answer = (True, traceback.format_exc())
        try:
            connection.send(answer)
        except OSError:
            break


@contextmanager
def _changed(environment: Mapping[str, str | None]) -> Iterator[None]:
    """Variables of this process's environment, for as long as a child is started."""
    before = {name: os.environ.get(name) for name in environment}
    _set(environment)
    try:
        yield
    finally:
        _set(before)


def _set(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
