"""One real Triton server on the packaged repository, for all tests of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bad_input import Caller
from bystanders import GROWN_MB, Watch

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.log import error_of


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The server, ready. Whatever the tests do to it, it must log no bug of ours."""
    started = EmbeddedServer()
    try:
        started.start()
        started.wait_ready()
    except StartError as error:
        started.kill()
        pytest.fail(f"the server of this session does not start: {error}", pytrace=False)
    yield started
    errors = [error_of(line) for line in started.log_path.read_text("utf-8", "replace").splitlines()]
    bugs = [message for message in errors if message and message.startswith("internal error")]
    started.stop()
    assert not bugs, "\n".join(bugs)


@pytest.fixture(scope="session")
def caller(server: EmbeddedServer) -> Iterator[Caller]:
    """Asks the server in whatever way a test wants, and judges every message."""
    opened = Caller(server)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def watch(server: EmbeddedServer) -> Iterator[Watch]:
    """The ordinary client, who knows what the server answers when nothing else is going on."""
    opened = Watch(server)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def watched(watch: Watch, request: pytest.FixtureRequest) -> Iterator[Watch]:
    """That client calls for as long as a module's tests run, which must not matter to it; nor may the server grow, but
    for the module's GROWN_MB if it has one.
    """
    with watch:
        yield watch
    watch.check(getattr(request.module, "GROWN_MB", GROWN_MB))
