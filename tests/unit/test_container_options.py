"""What the container's first process takes from flags and the environment, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from florence2_sam2.server.container.options import (
    ADMIN_KEY_FILE_VARIABLE,
    MODEL_CONFIG_VARIABLE,
    REPOSITORY_VARIABLE,
    Options,
    parse,
)
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.manifest import packaged_repository

KEY = "0123456789abcdefXYZ_-"


def with_key(path: Path, text: str) -> Options:
    path.write_text(text, encoding="utf-8")
    return parse(["--admin-key-file", str(path)], {})


def test_without_a_word_it_serves_what_is_mounted_to_everybody_in_its_network() -> None:
    options = parse([], {})
    assert options.repository == Path("/models")
    assert options.model_config == "onnxruntime"
    assert (options.addresses.grpc_host, options.addresses.grpc_port) == ("0.0.0.0", 8001)
    assert options.addresses.http == "127.0.0.1:8000"  # as this machine reaches it
    assert options.admin_key() is None
    assert options.check_hashes
    assert options.extra == ()


def test_a_flag_wins_over_a_variable() -> None:
    environ = {REPOSITORY_VARIABLE: "/mnt/a", MODEL_CONFIG_VARIABLE: "embedded"}
    assert parse([], environ).repository == Path("/mnt/a")
    assert parse([], environ).model_config == "embedded"
    assert parse(["--repository=/mnt/b"], environ).repository == Path("/mnt/b")
    assert parse([], {REPOSITORY_VARIABLE: "demo"}).repository == packaged_repository()


def test_what_stands_after_two_dashes_is_tritons() -> None:
    options = parse(["--http-port", "9000", "--", "--log-verbose=1", "--", "--x"], {})
    assert options.addresses.http_port == 9000
    assert options.extra == ("--log-verbose=1", "--", "--x")


@pytest.mark.parametrize(
    "wrong",
    [["--http-port=0"], ["--grpc-port=x"], ["--model-config=onnx"], ["--grpc-connection-seconds=-1"], ["x"]],
)
def test_wrong_flags_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong, {})
    assert ended.value.code == 2
    assert wrong[0].partition("=")[0] in capsys.readouterr().err


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(StartError, match=f"{MODEL_CONFIG_VARIABLE} is 'onnx', none of onnxruntime"):
        parse([], {MODEL_CONFIG_VARIABLE: "onnx"})


def test_the_key_is_what_the_file_holds(tmp_path: Path) -> None:
    assert with_key(tmp_path / "key", f"{KEY}\n").admin_key() == KEY
    assert parse([], {ADMIN_KEY_FILE_VARIABLE: str(tmp_path / "key")}).admin_key() == KEY


@pytest.mark.parametrize("text", ["", "short", KEY + ",x=", "two words that are long enough", "ä" * 20])
def test_what_is_no_key_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    """One with a comma or = in it would change what the flag says, and leave the administration open."""
    with pytest.raises(StartError, match="a file without a key") as refused:
        with_key(tmp_path / "key", text).admin_key()
    assert not text or text not in str(refused.value)


def test_a_key_that_cannot_be_read_is_an_error_and_not_no_key(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        parse(["--admin-key-file", str(tmp_path / "none")], {}).admin_key()
