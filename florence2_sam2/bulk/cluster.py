"""Ray: a pool of workers that take the shards, one each at a time. The only module that imports it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.guard import Guard
from florence2_sam2.bulk.shard import Told
from florence2_sam2.bulk.worker import Job, Outcome, Worker

TEMPORARY = "f2s-bulk-"
# Ray's sockets lie below its folder, with names of up to 62 characters; the system allows 107 for a path.
_LONGEST_FOLDER = 44
_OBJECT_STORE_BYTES = 128 * 2**20  # next to nothing goes through it
_REACH_SECONDS = 10.0
_TICK_SECONDS, _BOARD_SECONDS = 0.5, 2.0


def _temporary_folder() -> Path:
    """A new folder for Ray's own files and sockets."""
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
    if len(str(folder)) > _LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir="/tmp"))
    return folder


@contextlib.contextmanager
def connected(address: str | None, workers: int) -> Iterator[None]:
    """Ray, of a cluster or started here, for as long as the context lasts. Its own output is kept quiet.

    For the main thread. SIGTERM raises KeyboardInterrupt meanwhile.

    Args:
        address: of a cluster; None: one is started on this machine, for this run only.
        workers: that will be wanted of it.

    Raises:
        BulkError: it does not start, or cannot be reached.
    """
    if address is not None:
        _require_reachable(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address is None:
        # Ray listens on every interface, and runs what it is sent: nobody else may send it anything.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray
    import ray.data  # its logging is set up by the import

    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            handler.setLevel(logging.CRITICAL)
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with contextlib.ExitStack() as opened:
        # Some of Ray's messages are printed, whatever its settings; nothing of ours goes to standard output meanwhile.
        opened.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if address is None:
            folder = _temporary_folder()
            opened.enter_context(Guard(folder))
            arguments |= {
                "num_cpus": workers,
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(folder),
                "_node_ip_address": "127.0.0.1",
            }
        opened.callback(ray.shutdown)
        opened.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        try:
            with _without_stderr():
                ray.init(address or "local", **arguments)
        except Exception as error:
            where = f"at {address} cannot be reached" if address else "does not start"
            why = str(error).splitlines()[0] if str(error) else repr(error)
            raise BulkError(f"Ray {where}: {why}") from None
        signal.signal(signal.SIGTERM, _interrupt)  # Ray's own ends the process with a stack trace
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _require_reachable(address: str) -> None:
    """Raises BulkError where nobody listens at `host:port`, or `ray://host:port`. Ray tries that for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise BulkError(f"Ray at {address} cannot be reached: {why}") from None


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's native code says there that it has read its variables."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


class Board:
    """An actor that knows how far each worker is with its shard."""

    def __init__(self) -> None:
        self._shards: dict[int, Told] = {}

    def tell(self, told: Told) -> None:
        self._shards[told.shard] = told

    def read(self) -> dict[int, Told]:
        return self._shards


class RayWorker:
    """A `Worker` as Ray Data's actor."""

    def __init__(self, job: Job, board: Any) -> None:
        self._worker = Worker(job, board.tell.remote)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        outcome = self._worker.shard(int(batch["shard"][0]))
        return {name: [value] for name, value in asdict(outcome).items()}


def outcomes(
    shards: Sequence[int], job: Job, workers: int, tick: Callable[[Mapping[int, Told]], None]
) -> Generator[Outcome, None, None]:
    """What becomes of each shard, as they come. A worker that dies is replaced, and its shard given to another.

    For the main thread: Ray Data can be stopped there only.

    Args:
        tick: is called now and then, in another thread, with how far the shards are that are under way; what it raises
            ends the run.

    Raises:
        BulkError: Ray gives up.
    """
    import ray

    board = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
    with _Ticks(board, tick) as ticks:
        try:
            for row in _dataset(shards, job, workers, board).iter_rows():
                yield Outcome(**row)
        except KeyboardInterrupt:
            raise ticks.error or KeyboardInterrupt from None
        except Exception as error:
            raise BulkError(f"Ray has given up: {_reason(error)}") from None


class _Ticks:
    """Reads the board every now and then, and hands on what is there. An error of who is told interrupts the run."""

    def __init__(self, board: Any, tick: Callable[[Mapping[int, Told]], None]) -> None:
        self._board, self._tick = board, tick
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="bulk-ticks", daemon=True)
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        import ray

        while not self._ended.wait(_TICK_SECONDS):
            told: Mapping[int, Told] = {}
            with contextlib.suppress(ray.exceptions.RayError):  # the board may be on its way to another node
                told = ray.get(self._board.read.remote(), timeout=_BOARD_SECONDS)
            try:
                self._tick(told)
            except Exception as error:
                self.error = error
                os.kill(os.getpid(), signal.SIGTERM)  # not SIGINT, which a shell's background jobs ignore
                return


def _dataset(shards: Sequence[int], job: Job, workers: int, board: Any) -> Any:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if hasattr(context, "execution_no_progress_timeout_s"):
        context.execution_no_progress_timeout_s = -1  # a shard takes what it takes
    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    size = min(workers, len(shards))
    return rows.map_batches(
        RayWorker,
        fn_constructor_args=(job, board),
        batch_size=1,
        num_cpus=1,
        # One shard each: none waits behind another one's, and no more pictures are held than are under way.
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
    )


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(error)
