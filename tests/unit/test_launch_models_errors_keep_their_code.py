"""Errors between models come out as the exceptions that went in, and Triton's own as the nearest of ours."""

from __future__ import annotations

import pytest

from florence2_sam2.client import ServerOverloaded
from florence2_sam2.client.errors import from_status
from florence2_sam2.server import errors
from florence2_sam2.server.triton.failures import ModelFailed, from_triton, told

ALL = [
    errors.InvalidRequest("caption", "is longer than 4096 bytes: it has 5000"),
    errors.Overloaded("the queue is full: try again"),
    errors.DeadlinePassed("10 s are over"),
    errors.Cancelled("the caller has gone"),
    errors.ServiceError("internal error in florence2, reference 0123456789ab"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_there_and_back(error: errors.ServiceError) -> None:
    back = from_triton(f"{error.code}: {error.message}", "florence2")
    assert type(back) is type(error)
    assert back.args == error.args
    assert getattr(back, "field", None) == getattr(error, "field", None)


def test_over_http_the_message_says_which_kind() -> None:
    """There Triton answers 400, whatever it is; a wrong request's message begins with its field."""
    assert [told(error, False, names_code=True).partition(": ")[0] for error in ALL] == [
        "caption",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "CANCELLED",
        "INTERNAL",
    ]
    assert [told(error, True) for error in ALL] == [f"{error.code}: {error.message}" for error in ALL]
    assert told(ALL[1], False) == ALL[1].message


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[request id: <id_unknown>] Exceeds maximum queue size", errors.Overloaded),
        ("Request timeout expired", errors.DeadlinePassed),
        ("Stub process 'florence2_0_0' is not healthy.", errors.Overloaded),
        ("Failed to obtain the health mutex.", errors.Overloaded),
        ("Failed to increase the shared memory pool size for key 'florence2_0_0'", errors.Overloaded),
        ("Request for unknown model: 'florence2' has no available versions", errors.Overloaded),
        ("Failed to process the request(s): something else", ModelFailed),
        ("", ModelFailed),
    ],
)
def test_what_triton_says_itself(message: str, kind: type[Exception]) -> None:
    error = from_triton(message, "florence2")
    assert type(error) is kind
    assert "florence2_0_0" not in str(error)


def test_clients_know_the_words_for_a_dead_process() -> None:
    """And wait long enough for the restart (see `client/attempts.py`)."""
    error = from_triton("Stub process 'florence2_0_0' is not healthy.", "florence2")
    assert isinstance(error, errors.Overloaded)
    seen = from_status(error.code, error.message, "grpc://a:1")
    assert isinstance(seen, ServerOverloaded)
    assert seen.restarting


def test_an_unknown_failure_is_no_answer_for_a_caller() -> None:
    assert not isinstance(from_triton("boom", "sam2_mask_decoder"), errors.ServiceError)
