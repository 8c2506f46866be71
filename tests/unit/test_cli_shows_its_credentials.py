"""`segment`, `bulk` and `playground` give a proxy what it asks for; a wrong flag is named before anything is sent."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from florence2_sam2.bulk.begin import Options
from florence2_sam2.cli.address import KEY_VARIABLE, add_credentials, credentials, require_usable
from florence2_sam2.cli.main import main

KEY = "s3cret-key"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def given(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_credentials(parser)
    return credentials(parser.parse_args(arguments))


def test_nothing_is_shown_unasked() -> None:
    assert given() == {}


def test_the_key_is_the_environments_or_a_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv(KEY_VARIABLE, "another")
    assert given() == {"api_key": "another"}
    assert given("--api-key-file", str(tmp_path / "key")) == {"api_key": KEY}


def test_headers_as_curl_writes_them() -> None:
    found = given("--header", "X-Team: robots", "--header", "x-florence2-sam2-models:canary:2")
    assert found == {"headers": {"X-Team": "robots", "x-florence2-sam2-models": "canary:2"}}


WRONG = {
    "no file": (["--api-key-file", "{}/none"], "--api-key-file: {}/none: No such file or directory"),
    "empty": (["--api-key-file", "{}/empty"], "--api-key-file: {}/empty is empty"),
    "no text": (["--api-key-file", "{}/bytes"], "--api-key-file: {}/bytes: is no text"),
    "key of two lines": (
        ["--api-key-file", "{}/lines"],
        "$FLORENCE2_SAM2_API_KEY or --api-key-file: the value of 'authorization' has characters other than printable"
        " ASCII",
    ),
    "header's name": (["--header", "x y: 1"], "--header: 'x y' is no name of a header"),
    "header's value": (
        ["--header", "x: ü"],
        "--header: the value of 'x' has characters other than printable ASCII",
    ),
    "no TLS": (
        ["--root-certificates", "{}/empty"],
        "--root-certificates: the address is not for TLS, write grpcs://localhost:1",
    ),
    "half a pair": (
        ["--url", "grpcs://localhost:1", "--private-key", "{}/empty"],
        "--private-key and --certificate-chain go together",
    ),
    "no certificates": (
        ["--url", "grpcs://localhost:1", "--root-certificates", "{}/none"],
        "--root-certificates: {}/none: No such file or directory",
    ),
    "address": (["--url", "ftp://x"], "--url: 'ftp://x'"),
}


@pytest.mark.parametrize("command", ["segment", "bulk"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(
    command: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "lines").write_text(f"{KEY}\n{KEY}")
    flags, message = WRONG[case]
    first = ["--url", "grpc://localhost:1"] if "--url" not in flags else []
    things = ["picture.jpg"] if command == "segment" else [str(tmp_path), str(tmp_path / "out")]
    assert main([command, *things, *first, *(flag.format(tmp_path) for flag in flags)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"florence2-sam2 {command}: {message.format(tmp_path)}")
    assert said.count("\n") == 1
    assert KEY not in said


def test_a_header_needs_a_colon(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["segment", "picture.jpg", "--header", "robots"])
    assert "argument --header: 'robots' is not NAME:VALUE" in capsys.readouterr().err


def test_what_is_right_passes(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificates")
    require_usable("grpcs://localhost:1", {"api_key": KEY, "root_certificates": tmp_path / "ca.pem"})
    require_usable(["localhost:1", "localhost:2"], {"headers": {"x-team": "robots"}})


def test_a_runs_options_do_not_show_them() -> None:
    assert KEY not in repr(Options("in", "out", ("localhost:1",), credentials={"api_key": KEY}))
