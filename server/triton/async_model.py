"""A python model with many requests in flight in one instance.

In the default (not decoupled) mode a model may return None from `execute` and answer each request later
through its response sender. Here each request becomes a coroutine on an event loop that runs in a thread of
the model. The price: Triton's own queue of such a model is always empty, so `max_queue_size`, priorities
and queue timeouts never act, and admission is the model's own business.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from florence2_sam2.server.errors import CODES, Cancelled
from florence2_sam2.server.metrics import Metrics
from florence2_sam2.server.triton import bls, failures, health, lines
from florence2_sam2.server.triton.health import State
from florence2_sam2.server.triton.memory import check_room
from florence2_sam2.server.triton.metrics import SECONDS, Published
from florence2_sam2.server.triton.outstanding import CALL_THREADS
from florence2_sam2.server.triton.tensors import bytes_output

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonError

P = ParamSpec("P")
T = TypeVar("T")

# How often a call that takes longer looks whether its caller is still there.
WATCH_SECONDS = 0.1
# How often at most Triton is asked for it: each answer takes 0.05 to 0.15 ms, a sixth of a small decoder's step.
ASK_SECONDS = 0.01
# So much time of the processor is progress too: one step of one large request may take minutes. (What a process spends
# on nothing is a hundredth of that in `hung_seconds`.)
BUSY_SECONDS = 5.0
# How long `finalize` waits for requests in flight: below Triton's own limit for unloading, see
# `--exit-timeout-secs`.
DRAIN_SECONDS = 25.0


class Call:
    """One request in flight. `request` and the arrays read from it are valid until the answer is sent; `parameters` are
    the request's.
    """

    def __init__(self, request: InferenceRequest) -> None:
        self.request = request
        self.parameters = failures.parameters(request)
        self._sender = request.get_response_sender()
        self._line: lines.Line | None = None
        self._gone = False
        self._next_ask = 0.0
        self.answered = False

    async def connect(self) -> None:
        """Take up the line of a caller that has opened one."""
        address = self.parameters.get(lines.PARAMETER)
        if isinstance(address, str):
            self._line = await lines.Line.connect(address)

    @property
    def has_line(self) -> bool:
        """Whether the model that has called listens."""
        return self._line is not None

    def say(self, event: lines.Event) -> None:
        """Tell the model that has called, if it listens; on the event loop."""
        if self._line is not None and not self.answered:
            self._line.say(event)

    def cancelled(self) -> bool:
        """Whether the caller has cancelled, gone, or passed its own deadline; once true, it stays so.

        Cheap enough for each token. Of a call from another model it is known only when that has opened a line.
        """
        if not (self._gone or self.answered):
            self._gone = self._ask() if self._line is None else self._line.hung_up
        return self._gone

    async def heard(self) -> None:
        """Until the model that has called listens to what it was told."""
        if self._line is not None:
            await self._line.taken()

    def check(self) -> None:
        """Stop here when nobody waits for the answer.

        Raises:
            Cancelled: the caller has gone.
        """
        if self.cancelled():
            raise Cancelled("the caller has gone")

    def send_part(self, tensors: list[Tensor]) -> None:
        """Send a response before the answer. Only for a model whose config says `decoupled`."""
        import triton_python_backend_utils as pb_utils

        self._sender.send(pb_utils.InferenceResponse(output_tensors=tensors))

    def send(self, tensors: list[Tensor]) -> None:
        """Answer, once."""
        import triton_python_backend_utils as pb_utils

        self._send(pb_utils.InferenceResponse(output_tensors=tensors))

    def refuse(self, error: TritonError) -> None:
        """Answer with an error, once."""
        import triton_python_backend_utils as pb_utils

        self._send(pb_utils.InferenceResponse(output_tensors=[], error=error))

    def _ask(self) -> bool:
        now = time.monotonic()
        if now < self._next_ask:
            return False
        self._next_ask = now + ASK_SECONDS
        return bool(self._sender.is_cancelled())

    def _send(self, response: InferenceResponse) -> None:
        import triton_python_backend_utils as pb_utils

        self.answered = True
        if self._line is not None:
            self._line.end()  # before the answer: whoever has that has heard everything
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


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
            self.loop.call_soon_threadsafe(self._admit, Call(request))

    def finalize(self) -> None:
        asyncio.run_coroutine_threadsafe(self._drain(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self._pool.shutdown()

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
        try:
            await call.connect()
            tensors = await self._while_wanted(call)
            check_room(tensors)
            await call.heard()
            call.send(tensors)
            self._count("OK")
        except asyncio.CancelledError:
            self._count(self._refuse(call, Cancelled("the server is stopping")))
        except Exception as error:  # whatever it is, this request gets an answer and the others go on
            self._count(self._refuse(call, error))

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
            while not (await asyncio.wait({answering}, timeout=WATCH_SECONDS))[0]:
                call.check()
            return answering.result()
        finally:
            answering.cancel()
            await asyncio.wait({answering}, timeout=WATCH_SECONDS)

    def _count(self, code: str) -> None:
        self._answered += 1
        self.metrics.add("requests_total", model=self.name, code=code)

    def _refuse(self, call: Call, error: Exception) -> str:
        """Answer with an error; its code."""
        refusal = failures.refusal(error, self.name)
        if call.answered:
            # Sending has failed, Triton takes no other answer, and the caller would wait for ever: end this
            # process, so that the launcher's supervisor starts the server again.
            os._exit(1)
        between_models = failures.is_between_models(call.request)
        call.refuse(failures.to_triton(refusal, between_models, self.names_code))
        # Its frames hold the request, with the picture in shared memory, and they hold each other: all of it would stay
        # until Python happens to look for garbage.
        error.__traceback__ = None
        return refusal.code

    async def _publish(self) -> None:
        published = Published(self.metrics)
        while True:
            self.metrics.set("requests_in_flight", len(self._tasks), model=self.name)
            self.metrics.set("uptime_seconds", round(time.monotonic() - self._began, 1), model=self.name)
            self.measure()
            await self.loop.run_in_executor(None, published.update)
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
