"""A python model with many requests in flight in one instance.

In the default (not decoupled) mode a model may return None from `execute` and answer each request later
through its response sender. Here each request becomes a coroutine on an event loop that runs in a thread of
the model. The price: Triton's own queue of such a model is always empty, so `max_queue_size`, priorities
and queue timeouts never act, and admission is the model's own business.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from florence2_sam2.server import records
from florence2_sam2.server.errors import CODES, Cancelled, ServiceError
from florence2_sam2.server.metrics import Metrics
from florence2_sam2.server.reports import Reports
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.triton import bls, failures, health
from florence2_sam2.server.triton.call import Call
from florence2_sam2.server.triton.health import State
from florence2_sam2.server.triton.memory import check_room
from florence2_sam2.server.triton.metrics import SECONDS, Published
from florence2_sam2.server.triton.outstanding import CALL_THREADS
from florence2_sam2.server.triton.tensors import bytes_output

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, Tensor

P = ParamSpec("P")
T = TypeVar("T")

# How often a call that takes longer looks whether its caller is still there. A question is a message to Triton and
# back, so many calls, most of which wait, ask less often: all together a hundred times a second.
WATCH_SECONDS = 0.1
WATCHES_A_SECOND = 100
# So much time of the processor is progress too: one step of one large request may take minutes. (What a process spends
# on nothing is a hundredth of that in `hung_seconds`.)
BUSY_SECONDS = 5.0
# How long `finalize` waits for requests in flight: below Triton's own limit for unloading, see
# `--exit-timeout-secs`.
DRAIN_SECONDS = 25.0


class AsyncModel:
    """Base of a `TritonPythonModel` that answers in coroutines. A subclass writes `answer`, `start` and `stop`
    where it has something to load or to end, and `health` where it knows more of that than its loop does.

    Attributes:
        name: the model's name.
        folder: its version folder, where its files lie.
        repository: the model repository.
        config: `config.pbtxt` as a dict.
        loop: the event loop that `start`, `answer` and `stop` run on.
        metrics: its numbers, which Triton is told about every second.
    """

    # Whether an error's message names its code: for callers over HTTP, where Triton answers 400 whatever it is.
    names_code = False
    # The output, BYTES [1], that a health request is answered in.
    health_output = "result"

    def initialize(self, args: dict[str, str]) -> None:
        self.name = args["model_name"]
        self.repository = Path(args["model_repository"]).parent
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.config: dict[str, Any] = json.loads(args["model_config"])
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, f"{self.name}-work")
        self._tasks: set[asyncio.Task[None]] = set()
        self._health_tasks: set[asyncio.Task[None]] = set()
        self._answered = self._worked = 0
        self.metrics = Metrics()
        self._published = Published(self.metrics)
        self._reports = Reports(Settings.from_environment(), _complain)
        for code in CODES:
            self.metrics.add("requests_total", 0, model=self.name, code=code)
        self._began = time.monotonic()
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(
            concurrent.futures.ThreadPoolExecutor(CALL_THREADS, f"{self.name}-calls")
        )
        self._thread = threading.Thread(target=self.loop.run_forever, name=f"{self.name}-loop", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self.loop).result()
        self._publishing = asyncio.run_coroutine_threadsafe(self._publish(), self.loop)
        self._publishing.add_done_callback(self._report)

    def execute(self, requests: list[InferenceRequest]) -> None:
        for request in requests:
            call = Call(request, self.name, self._reports.enabled)
            self.loop.call_soon_threadsafe(self._admit, call)

    def finalize(self) -> None:
        asyncio.run_coroutine_threadsafe(self._drain(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self._pool.shutdown()
        self._published.close()
        self._reports.close()
        # What is left may hold shared memory, which is gone when the interpreter ends: it would crash there (24.10).
        gc.collect()

    async def start(self) -> None:
        """Load what the model needs. Nothing else runs on the loop yet, so this may block."""

    async def answer(self, call: Call) -> list[Tensor]:
        """Answer one request: the outputs, or a ServiceError raised. Any other exception is a bug."""
        raise NotImplementedError

    async def health(self) -> State:
        """What a health request is answered with.

        Raises:
            ServiceError: it is not well.
        """
        return {
            "healthy": True,
            "in_flight": len(self._tasks),
            "waiting": 0,
            "answered": self._answered,
            "progress": self._answered
            + self._worked
            + bls.calls.answers
            + int(time.process_time() / BUSY_SECONDS),
            "waits_for": bls.calls.waits_for(),
            "decoder_still": 0.0,
        }

    def measure(self) -> None:
        """Set the numbers that are states, not counts: called on the loop before Triton is told."""

    async def stop(self) -> None:
        """End what `start` began. Everything that was in flight has been answered."""

    def is_alone(self) -> bool:
        """Whether this model has one request only."""
        return len(self._tasks) <= 1

    async def in_pool(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run CPU work in a thread, off the loop. It is not interrupted when the caller goes."""
        result = await self.loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))
        self._worked += 1
        return result

    def _admit(self, call: Call) -> None:
        asks = health.PARAMETER in call.parameters
        tasks = self._health_tasks if asks else self._tasks
        task = self.loop.create_task(self._tell_health(call) if asks else self._serve(call))
        tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(tasks.discard)

    async def _serve(self, call: Call) -> None:
        records.enter(call.record)
        refused: ServiceError | None = None
        try:
            await call.connect()
            call.check_marks()
            tensors = await self._while_wanted(call)
            check_room(tensors)
            call.tell_record()
            await call.heard()
            call.send(tensors)
        except asyncio.CancelledError:
            refused = self._refuse(call, Cancelled("the server is stopping"))
        except Exception as error:  # whatever it is, this request gets an answer and the others go on
            refused = self._refuse(call, error)
        self._count("OK" if refused is None else refused.code)
        if not call.has_line:  # whoever has called through another model, that one tells of it
            self._reports.put(call.record, call.parent, refused)

    async def _tell_health(self, call: Call) -> None:
        """Beside all other requests, and not counted among them."""
        try:
            health.check(call.parameters, call.request)
            told = json.dumps(await self.health()).encode()
            call.send([bytes_output(self.health_output, told)])
        except asyncio.CancelledError:
            self._refuse(call, Cancelled("the server is stopping"))
        except Exception as error:
            self._refuse(call, error)

    async def _while_wanted(self, call: Call) -> list[Tensor]:
        """The answer, given up soon after the caller has gone.

        Raises:
            Cancelled: the caller has gone.
        """
        answering = asyncio.ensure_future(self.answer(call))
        try:
            while not (await asyncio.wait({answering}, timeout=self._watch_seconds()))[0]:
                call.check()
            return answering.result()
        finally:
            answering.cancel()
            await asyncio.wait({answering}, timeout=WATCH_SECONDS)

    def _watch_seconds(self) -> float:
        return max(WATCH_SECONDS, len(self._tasks) / WATCHES_A_SECOND)

    def _count(self, code: str) -> None:
        self._answered += 1
        self.metrics.add("requests_total", model=self.name, code=code)

    def _refuse(self, call: Call, error: Exception) -> ServiceError:
        """Answer with an error: which one."""
        refusal = failures.refusal(error, self.name)
        if call.answered:
            # Sending has failed, Triton takes no other answer, and the caller would wait for ever: end this
            # process, so that the launcher's supervisor starts the server again.
            os._exit(1)
        between_models = failures.BETWEEN_MODELS in call.parameters
        call.tell_record()
        call.refuse(failures.to_triton(refusal, between_models, self.names_code))
        # Its frames hold the request, with the picture in shared memory, and they hold each other: all of it would stay
        # until Python happens to look for garbage.
        error.__traceback__ = None
        return refusal

    async def _publish(self) -> None:
        while True:
            self.metrics.set("requests_in_flight", len(self._tasks), model=self.name)
            self.metrics.set("uptime_seconds", round(time.monotonic() - self._began, 1), model=self.name)
            self.measure()
            await self.loop.run_in_executor(None, self._published.update)
            await asyncio.sleep(SECONDS)

    def _report(self, ended: concurrent.futures.Future[None]) -> None:
        """A bug must not end the metrics without a word."""
        if not ended.cancelled() and (error := ended.exception()):
            failures.refusal(error, self.name)

    async def _drain(self) -> None:
        if left := self._tasks | self._health_tasks:
            _, late = await asyncio.wait(left, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
        self._publishing.cancel()
        await self.stop()


def _complain(text: str) -> None:
    import triton_python_backend_utils as pb_utils

    pb_utils.Logger.log_warn(text)
