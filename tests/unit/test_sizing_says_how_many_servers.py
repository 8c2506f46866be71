"""`scripts/sizing`: how many servers a load needs, what it says of wrong numbers, the documentation's table of it."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pages
import pytest

from bench.sizing import report, servers
from bench.sizing.__main__ import main
from bench.sizing.curve import Curve
from bench.sizing.model import Server
from bench.speed.report import markers

GIVEN = ("--service-seconds", "0.12", "--parallel", "2", "--rate", "20", "--p95", "0.5")


def block(name: str) -> str:
    """What stands between the markers in the documentation."""
    text = (pages.DOCS / "deployment.md").read_text(encoding="utf-8")
    begin, end = markers(name, report.KIND)
    assert text.count(begin) == text.count(end) == 1
    return text[text.index(begin) + len(begin) : text.index(end)].strip()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def count(text: str) -> int:
    found = re.match(r"(\d+) servers?, each", text)
    assert found, text
    return int(found[1])


def test_it_says_how_many_and_how_fast_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *GIVEN)
    assert count(text) == 2
    found = re.search(
        r"used to (\d+) % of its capacity of ([\d.]+) calls/s.* takes ([\d.]+) s .* at most ([\d.]+) s", text
    )
    assert found, text
    used, capacity, mean, p95 = map(float, found.groups())
    assert capacity == pytest.approx(2 / 0.12, rel=0.01)
    assert used == pytest.approx(100 * 10 / capacity, abs=1)
    assert 0.12 < mean < p95 <= 0.5


def test_more_load_and_tighter_limits_need_more_servers(capsys: pytest.CaptureFixture[str]) -> None:
    base = count(said(capsys, *GIVEN))
    assert count(said(capsys, *GIVEN, "--rate", "200")) > 8 * base
    assert count(said(capsys, *GIVEN, "--rate", "200", "--p95", "0.2")) > count(
        said(capsys, *GIVEN, "--rate", "200")
    )
    assert count(said(capsys, *GIVEN, "--parallel", "1")) > base
    assert count(said(capsys, *GIVEN, "--rate", "100", "--sharpness", "1")) > count(
        said(capsys, *GIVEN, "--rate", "100")
    )
    assert count(said(capsys, *GIVEN, "--rate", "0.1")) == 1


def test_the_number_keeps_the_limit_and_one_server_less_does_not() -> None:
    server = Server(Curve(0.12, 2.0))
    answer = servers.needed(server, 50.0, 0.4)
    assert answer.p95 <= 0.4
    assert servers.p95(server, 50.0 / (answer.servers - 1)) > 0.4
    assert servers.highest_rate(server, 0.4) == answer.highest
    assert servers.p95(server, 1.05 * answer.highest) > 0.4
    # A queue that overflows keeps no limit, however fast what it answers is.
    assert servers.p95(Server(Curve(0.12), 1, 0), 5.0) == math.inf


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--service-seconds", "0", "--service-seconds: 0 is out of range, more than 0"),
        ("--service-seconds", "nan", "--service-seconds: nan is out of range"),
        ("--rate", "-3", "--rate: -3 is out of range, more than 0"),
        ("--rate", "inf", "--rate: inf is out of range"),
        ("--rate", "1e9", "--rate: 1e+09 calls a second need more than 100000 servers"),
        ("--p95", "0", "--p95: 0 is out of range"),
        ("--parallel", "0.5", "--parallel: 0.5 is out of range, at least 1"),
        ("--parallel", "20", "--parallel: 20 is out of range, it is at most --places, 8"),
        ("--sharpness", "0", "--sharpness: 0 is out of range, at least 1"),
        ("--variation", "-1", "--variation: -1 is out of range, at least 0"),
        ("--places", "0", "--places: 0 is out of range, at least 1"),
        ("--queue", "-1", "--queue: -1 is out of range, at least 0"),
        ("--rate", "many", "--rate: invalid float value: 'many'"),
    ],
)
def test_wrong_numbers_are_named(
    option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([*GIVEN, option, value])
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rate", "3"])
    assert "--service-seconds, --p95" in capsys.readouterr().err


IMPORTED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None  # importing it raises ImportError from here on
from bench.sizing.__main__ import main
{then}
"""


@pytest.mark.parametrize(
    ("blocked", "then"),
    [
        (("florence2_sam2", "onnxruntime", "grpc", "matplotlib", "PIL"), f"sys.exit(main({list(GIVEN)!r}))"),
        (("onnxruntime", "onnx", "cv2", "pytriton", "tokenizers", "torch"), "import bench.sizing.report"),
    ],
    ids=["number of servers: numpy alone", "the documentation's tables: no server"],
)
def test_it_needs_little(blocked: tuple[str, ...], then: str) -> None:
    code = IMPORTED.format(blocked=blocked, then=then)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=pages.ROOT
    )
    assert done.returncode == 0, done.stderr


def test_a_limit_below_a_call_alone_is_out_of_reach(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GIVEN, "--p95", "0.05"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(r"scripts/sizing: error: --p95: .* 95 of 100 take 0\.\d+ s already, .*\n", told.err)


def test_the_documentations_table_is_what_the_model_gives() -> None:
    assert block("servers") == report.servers_block()


def test_the_documentations_example_says_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (pages.DOCS / "deployment.md").read_text(encoding="utf-8")
    found = re.search(r"^\$ scripts/sizing (--service-seconds .*)\n([^`]*)^```$", text, re.MULTILINE)
    assert found
    assert said(capsys, *found[1].split()) == found[2]
