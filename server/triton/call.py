"""One request in flight in an `AsyncModel`: who asked, whether they are still there, and the ways to answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from florence2_sam2.server import request_id, tracing
from florence2_sam2.server.errors import Cancelled, InvalidRequest
from florence2_sam2.server.records import Record
from florence2_sam2.server.triton import bls, failures, lines

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor, TritonError

# How often at most Triton is asked for it: each answer takes 0.05 to 0.15 ms, a sixth of a small decoder's step.
ASK_SECONDS = 0.01


class Call:
    """One request in flight. `request` and the arrays read from it are valid until the answer is sent.

    Args:
        model: this one's name.
        keeps: whether it is to be noted what happens to the call.

    Attributes:
        parameters: the request's.
        record: what is noted of the call.
        parent: the span of which the call is a part: Triton's own, where it makes traces too, else the caller's.
    """

    def __init__(self, request: InferenceRequest, model: str = "", keeps: bool = False) -> None:
        self.request = request
        self._mistake: InvalidRequest | None = None
        chosen = None
        self.parameters: dict[str, Any] = {}
        named: dict[str, Any] = {}
        # Whatever the caller has sent, this must not raise: it would fail all requests of a batch.
        try:
            self.parameters = failures.parameters(request)
            named = {name.lower(): value for name, value in self.parameters.items()}
            chosen = request_id.chosen(request.request_id(), named)
        except UnicodeDecodeError:
            self._mistake = InvalidRequest("parameters", "these, headers and the id must be UTF-8 text")
        except InvalidRequest as mistake:
            self._mistake = mistake
        self.parent = tracing.parent_of(named)
        if keeps:
            self.parent = tracing.nearest(self.parent, request.trace().get_context())
        self.record = Record(model, chosen or request_id.made(), keeps)
        self._sender = request.get_response_sender()
        self._line: lines.Line | None = None
        self._gone = False
        self._next_ask = 0.0
        self.answered = False

    def check_marks(self) -> None:
        """Whether the id, and what else goes with the inputs, can be read.

        Raises:
            InvalidRequest: it cannot.
        """
        if self._mistake is not None:
            raise self._mistake

    async def connect(self) -> None:
        """Take up the line of a caller that has opened one."""
        address = self.parameters.get(lines.PARAMETER)
        if isinstance(address, str):
            self._line = await lines.Line.connect(address)
        if self._line is not None and self.parameters.get(lines.LISTENS) is True:
            self._line.listened = True

    @property
    def has_line(self) -> bool:
        """Whether another model has called, which can be told something."""
        return self._line is not None

    @property
    def listened(self) -> bool:
        """Whether it wants to hear how far the work is; from any thread. It may begin to while the work goes on."""
        return self._line is not None and self._line.listened

    def say(self, event: lines.Event) -> None:
        """Tell the model that has called, if one has; on the event loop."""
        if self._line is not None and not self.answered:
            self._line.say(event)

    def tell_record(self) -> None:
        """Tell the model that has called what was noted; before the answer."""
        if self.has_line and self.record.keeps:
            self.say({bls.RECORD: self.record.told()})

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
