"""Calls from one model of the repository to another (Triton's business logic scripting)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.server import records
from florence2_sam2.server.errors import DeadlinePassed
from florence2_sam2.server.triton import failures, lines
from florence2_sam2.server.triton.outstanding import Outstanding
from florence2_sam2.server.triton.tensors import owned

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceResponse, Tensor

# A request's parameter: no other one is under way, so that the model may take the whole machine.
ALONE = "alone"

# A line's event: what has been noted of the call, see `server/records.py`.
RECORD = "record"

# Calls of this process, which has one event loop.
calls = Outstanding()


# By name. A tensor of another model's answer is handed on where it lies, an array is copied to shared memory.
Inputs = Mapping[str, "NDArray[Any] | Tensor"]

Heard = Callable[[lines.Event], None]


async def call_with_line(
    model: str,
    inputs: Inputs,
    outputs: Sequence[str],
    heard: Heard | None = None,
    when_heard: Callable[[Callable[[], None]], None] = lambda begin: begin(),
    hands_on: bool = False,
    alone: bool = False,
    parameters: Mapping[str, str | bool] | None = None,
) -> dict[str, NDArray[Any]]:
    """`call` of an `AsyncModel`, which hears when this call is given up, and may say something before it answers.

    Args:
        heard: gets what it says, in order, before this returns. None: it need not say anything.
        when_heard: gets a function to be called, on the event loop, once somebody wants to hear it; until then the
            other model may keep to itself how far it is, which takes both processes most of a millisecond each time.
        hands_on: whether this is the call that is being answered in another form: what is noted of the one is then
            said of the other.
        alone: whether nothing else is under way, as far as is known.
        parameters: more of the request's.
    """
    record = records.current()
    with records.span(model) as span:

        def listen(event: lines.Event) -> None:
            if RECORD not in event:
                if heard is not None:
                    heard(event)
            elif record is not None:
                record.adopt(event[RECORD], span, hands_on)

        async with lines.exchange().line(listen) as line:
            if heard is not None:
                when_heard(line.listen)
            own = {lines.PARAMETER: line.address, lines.LISTENS: line.listens, **_marks(alone)}
            try:
                answer = await _call(
                    model, inputs, outputs, None, {**(parameters or {}), **own}, watched=False
                )
            except Exception:  # not what gives the call up
                await _at_its_end(line.ended)
                raise
            await _at_its_end(line.ended)
            return _arrays(answer)


async def _at_its_end(ended: asyncio.Event) -> None:
    """Everything has been heard."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), lines.END_SECONDS)


async def call(
    model: str,
    inputs: Inputs,
    outputs: Sequence[str],
    timeout: float | None = None,
    alone: bool = False,
) -> dict[str, NDArray[Any]]:
    """Ask another model, on the event loop of an `AsyncModel`.

    Args:
        inputs: arrays by tensor name; BYTES as object arrays (see `tensors.bytes_array`). Lengths of 0 are
            fine. Or tensors of `call_for_tensors`, of that name.
        outputs: the names wanted; others are not computed where the backend can leave them out.
        timeout: seconds to wait for the answer. The other model is not interrupted: Triton cannot do that.
        alone: whether nothing else is under way, as far as is known.

    Returns:
        Arrays of our own memory, by name.

    Raises:
        InvalidRequest, Overloaded, DeadlinePassed, Cancelled, ServiceError: as the other model raised it.
        DeadlinePassed: `timeout` is over.
        ModelFailed: the other model failed otherwise.
    """
    return _arrays(await call_for_tensors(model, inputs, outputs, timeout, alone))


async def call_for_tensors(
    model: str,
    inputs: Inputs,
    outputs: Sequence[str],
    timeout: float | None = None,
    alone: bool = False,
    on_gpu: bool = False,
) -> dict[str, Tensor]:
    """`call`, but the answer's tensors, which can be inputs of another call and then are not copied.

    They hold shared memory for as long as they live, which must not be longer than the model does.
    `tensors.owned(tensor.as_numpy())` is what they say. With `on_gpu` they are in the first GPU's memory where Triton
    has one, whatever the other model runs on; then `as_numpy` cannot read them, and another call copies them within
    the GPU, as often as they are handed on.
    """
    with records.span(model):
        return await _call(model, inputs, outputs, timeout, _marks(alone), watched=True, on_gpu=on_gpu)


def _marks(alone: bool) -> dict[str, str | bool]:
    return {ALONE: True} if alone else {}


async def call_ahead(model: str, parameters: Mapping[str, str | bool], output: str) -> NDArray[Any]:
    """A call without inputs that the model answers at once, past all calls that wait for a place.

    Raises:
        As `call`.
    """
    answer = await _answer(_begin(model, {}, [output], parameters), model, None)
    return _arrays(answer)[output]


async def _call(
    model: str,
    inputs: Inputs,
    outputs: Sequence[str],
    timeout: float | None,
    parameters: Mapping[str, str | bool],
    watched: bool,
    on_gpu: bool = False,
) -> dict[str, Tensor]:
    """`watched`: whether it is noticed when the model stands still. Those of ours that answer much later tell of
    themselves, see health.py."""
    await calls.begin(model, watched)

    def ended(_: asyncio.Future[InferenceResponse]) -> None:
        calls.end(model, watched)

    try:
        running = _begin(model, inputs, outputs, parameters, on_gpu)
    except BaseException:
        calls.end(model, watched)
        raise
    running.add_done_callback(ended)
    return await _answer(running, model, timeout)


def _begin(
    model: str,
    inputs: Inputs,
    outputs: Sequence[str],
    parameters: Mapping[str, str | bool],
    on_gpu: bool = False,
) -> asyncio.Future[InferenceResponse]:
    import triton_python_backend_utils as pb_utils

    # Where a GPU has computed the answer, Triton would leave it there, which `as_numpy` cannot read.
    memory = pb_utils.TRITONSERVER_MEMORY_GPU if on_gpu else pb_utils.TRITONSERVER_MEMORY_CPU
    request = pb_utils.InferenceRequest(
        model_name=model,
        request_id=records.request_id() or "",
        requested_output_names=list(outputs),
        inputs=[
            pb_utils.Tensor(name, np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
            for name, value in inputs.items()
        ],
        parameters={failures.BETWEEN_MODELS: True, **parameters},
        preferred_memory=pb_utils.PreferredMemory(memory, 0),
    )
    running: asyncio.Future[InferenceResponse] = asyncio.ensure_future(request.async_exec())
    return running


async def _answer(
    running: asyncio.Future[InferenceResponse], model: str, timeout: float | None
) -> dict[str, Tensor]:
    import triton_python_backend_utils as pb_utils

    try:
        # Shielded, since it goes on and holds its threads whether or not somebody waits for it.
        response = await asyncio.wait_for(asyncio.shield(running), timeout)
    except TimeoutError:
        raise DeadlinePassed(f"{model} did not answer within {timeout:g} s") from None
    except pb_utils.TritonModelException as error:  # refused before it reached the model
        raise failures.from_triton(str(error), model) from None
    if response.has_error():
        raise failures.from_triton(response.error().message(), model)
    return {tensor.name(): tensor for tensor in response.output_tensors()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: owned(tensor.as_numpy()) for name, tensor in tensors.items()}
