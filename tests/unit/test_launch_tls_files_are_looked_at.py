"""What is wrong with the files of TLS is said before the start, in one line that names the flag."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from florence2_sam2.cli import endpoints
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.tls import Tls, check_tls

FILES = Path(__file__).resolve().parents[1] / "data" / "tls"
GOOD = Tls(FILES / "server.pem", FILES / "server.key", FILES / "ca.pem")


def refusal(**changed: Any) -> str:
    with pytest.raises(StartError) as refused:
        check_tls(dataclasses.replace(GOOD, **changed))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_files_that_will_do() -> None:
    check_tls(GOOD)
    check_tls(dataclasses.replace(GOOD, client_ca=None))


@pytest.mark.parametrize(
    ("field", "flag"), [("certificate", "--tls-cert"), ("key", "--tls-key"), ("client_ca", "--tls-client-ca")]
)
def test_a_missing_file(tmp_path: Path, field: str, flag: str) -> None:
    missing = tmp_path / "none"
    assert refusal(**{field: missing}) == f"{flag}: {missing} cannot be read (No such file or directory)"
    assert refusal(**{field: tmp_path}) == f"{flag}: {tmp_path} cannot be read (Is a directory)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(GOOD.key.read_bytes())
    key.chmod(0)
    assert refusal(key=key) == f"--tls-key: {key} cannot be read (Permission denied)"


def test_a_key_of_another_certificate() -> None:
    said = refusal(key=FILES / "client.key")
    assert said.startswith("--tls-cert and --tls-key: no certificate and its key in PEM that belong together")
    assert "mismatch" in said


def test_files_that_are_something_else(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no certificate")
    for field in ("certificate", "key"):
        assert refusal(**{field: text}).startswith(
            "--tls-cert and --tls-key: no certificate and its key in PEM"
        )
    assert refusal(client_ca=text).startswith("--tls-client-ca: no certificates in PEM")


def test_a_key_with_a_password_is_not_asked_for_it(tmp_path: Path) -> None:
    key = tmp_path / "key"
    command = ["openssl", "pkey", "-in", str(GOOD.key), "-aes128", "-passout", "pass:word", "-out", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    assert refusal(key=key).startswith("--tls-key: the key is encrypted")


@pytest.mark.parametrize(
    "flags",
    [
        ["--tls-cert", "F"],
        ["--tls-key", "F"],
        ["--tls-client-ca", "F"],
        ["--tls-cert", "F", "--tls-client-ca", "G"],
    ],
)
def test_half_of_what_is_needed(flags: list[str]) -> None:
    parser = argparse.ArgumentParser()
    endpoints.add_arguments(parser.add_argument_group("place"))
    with pytest.raises(StartError, match=r"^gRPC with TLS needs both --tls-cert and --tls-key$"):
        endpoints.of(parser.parse_args(flags))
    assert endpoints.of(parser.parse_args([]))["tls"] is None
