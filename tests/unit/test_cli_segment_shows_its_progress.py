"""`florence2-sam2 segment` over many pictures: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io

import pytest

from florence2_sam2.cli.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_has_rate_and_time_left() -> None:
    now = 0.0
    stream = Terminal()
    progress = Progress(10, 2, stream, lambda: now)
    for _ in range(4):
        now += 2.0
        progress.step(3)
    assert stream.getvalue().split("\r\033[K")[-1] == "██████████████·········· 6 of 10, 0.5/s, 8 s left"
    progress.above(lambda: stream.write("text\n"))
    assert "\r\033[Ktext\n\r\033[K██" in stream.getvalue()
    progress.step(None)
    assert progress.end() == "5 pictures in 8 s (0.62/s), 12 objects, 1 failed, 2 were done before"
    assert stream.getvalue().endswith("\r\033[K")


def test_without_a_terminal_a_line_now_and_then() -> None:
    now = 0.0
    stream = io.StringIO()
    progress = Progress(None, 0, stream, lambda: now)
    for _ in range(50):
        now += 1.0
        progress.step(1)
    assert stream.getvalue() == "30, 1/s\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7 s"), (59.4, "59 s"), (185, "3:05"), (3729, "1:02:09")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
