"""Each thing that keeps the server from starting is one line that says what is wrong and what to do."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import socket
from pathlib import Path

import pytest

from florence2_sam2.server import manifest
from florence2_sam2.server.launch import checks
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.wheel import find_wheel
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.settings import Settings


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    copy = tmp_path / "repository"
    shutil.copytree(packaged_repository(), copy)
    return copy


@pytest.mark.parametrize("version", [(3, 10), (3, 13), (4, 0)])
def test_python(version: tuple[int, int]) -> None:
    with pytest.raises(StartError, match=r"^the embedded server needs Python 3.11 or 3.12, this is \d\.\d+$"):
        checks.check_python(version)


@pytest.mark.parametrize("version", [(3, 11), (3, 12)])
def test_a_python_that_will_do(version: tuple[int, int]) -> None:
    checks.check_python(version)


def test_numpy_2() -> None:
    with pytest.raises(StartError, match=r"numpy 1 only, this is 2\.1\.0: pip install 'numpy<2'$"):
        checks.check_numpy("2.1.0")
    checks.check_numpy("1.26.4")


def test_libpython_is_found_here() -> None:
    folder = checks.find_libpython()
    assert folder is None or folder.is_dir()


def test_no_libpython() -> None:
    def load(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(
        StartError, match=r"^libpython3\.12\.so\.1\.0 is missing.*apt-get install libpython3\.12$"
    ):
        checks.find_libpython((3, 12), load)


def test_no_wheel() -> None:
    with pytest.raises(StartError, match=r"not installed: pip install 'florence2-sam2\[server\]'$"):
        find_wheel("no_such_package_as_this")


def test_a_wheel_without_a_stub_for_this_python() -> None:
    with pytest.raises(StartError, match="incomplete"):
        find_wheel(python=(3, 99))


def test_a_provider_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE2_SAM2_PROVIDERS", "NoSuchExecutionProvider")
    with pytest.raises(
        StartError, match=r"onnxruntime has no NoSuchExecutionProvider, only .*CPUExecutionProvider"
    ):
        checks.check_providers()


@pytest.mark.parametrize(
    ("embedded", "providers", "message"),
    [
        (True, ["CUDAExecutionProvider"], "embedded models hand their answers over in host memory"),
        (False, ["CPUExecutionProvider"], "Florence-2 decodes on the CPU, see FLORENCE2_SAM2_PROVIDERS"),
    ],
)
def test_features_that_cannot_stay_on_a_gpu(embedded: bool, providers: list[str], message: str) -> None:
    wanted = Settings(features_on_gpu=True)
    with pytest.raises(StartError, match=f"^features_on_gpu: {message}"):
        checks.check_features(wanted, embedded, providers)
    checks.check_features(Settings(), embedded, providers)
    checks.check_features(wanted, False, ["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_an_environment_without_python3(tmp_path: Path) -> None:
    (tmp_path / "python").touch()
    with pytest.raises(StartError, match="has no python3"):
        checks.check_python3(str(tmp_path / "python"))


def test_too_little_shared_memory() -> None:
    with pytest.raises(StartError, match=r"/dev/shm has \d+ MB free, at least .* docker run --shm-size=1g"):
        checks.check_shared_memory(needed=2**60)


def held(host: str, port: int = 0) -> tuple[str, int]:
    """What is taken for `host` and `port`."""
    with checks.hold_endpoint("grpc", host, port) as sock:
        address, number, *_ = sock.getsockname()
        return address, number


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            StartError, match=rf"^127\.0\.0\.1:{port} cannot be used .* choose another --grpc-port, 0 is any"
        ):
            held("127.0.0.1", port)
    assert held("127.0.0.1", port) == ("127.0.0.1", port)


def test_any_free_port() -> None:
    host, port = held("127.0.0.1")
    assert host == "127.0.0.1"
    assert port > 1023


def test_a_port_that_is_held_is_free_for_whoever_names_it_alone() -> None:
    with checks.hold_endpoint("grpc", "127.0.0.1", 0) as sock, socket.socket() as server:
        port = sock.getsockname()[1]
        assert port not in {held("127.0.0.1")[1] for _ in range(200)}
        with socket.socket() as caller:
            assert caller.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Triton does
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port), 5):
            pass


def test_an_address_is_in_numbers() -> None:
    """Triton's HTTP server listens nowhere under a name, and says nothing of it."""
    for host in ("localhost", "127.0.0.1"):
        assert held(host)[0] == "127.0.0.1"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6() -> None:
    for host in ("::1", "[::1]"):
        assert held(host)[0] == "::1"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.name.invalid"])
@pytest.mark.parametrize("port", [0, 8001])
def test_an_address_that_is_none_of_this_machine(host: str, port: int) -> None:
    with pytest.raises(StartError, match=rf"^{host}:{port} cannot be used .*: choose another --http-host$"):
        checks.hold_endpoint("http", host, port)


def test_the_packaged_repository_is_whole() -> None:
    manifests = checks.check_repository(packaged_repository())
    assert set(manifests) == {"florence2", "sam2"}


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="there is no model repository"):
        checks.check_repository(tmp_path / "none")


@pytest.mark.parametrize("half", ["florence2", "sam2"])
def test_half_a_repository(repository: Path, half: str) -> None:
    shutil.rmtree(repository / half)
    with pytest.raises(StartError, match=f"^the {half} half of the model repository is missing") as caught:
        checks.check_repository(repository)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("half", ["florence2", "sam2"])
def test_a_file_is_missing(repository: Path, half: str) -> None:
    name = next(iter(checks.HALVES[half](repository).files))
    (repository / name).unlink()
    with pytest.raises(StartError, match=rf"{name} is missing, {half}'s manifest names it: export again"):
        checks.check_repository(repository)


def test_a_file_has_changed(repository: Path) -> None:
    name = next(iter(manifest.read_sam2(repository).files))
    data = bytearray((repository / name).read_bytes())
    data[len(data) // 2] ^= 1
    (repository / name).write_bytes(data)
    with pytest.raises(StartError, match=rf"{name} has changed since the export"):
        checks.check_repository(repository)
    checks.check_repository(repository, hashes=False)


def test_a_damaged_manifest(repository: Path) -> None:
    (repository / "sam2" / "1" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(StartError, match="cannot be read") as caught:
        checks.check_repository(repository)
    assert "\n" not in str(caught.value)


def test_a_manifest_may_name_no_file_outside(repository: Path) -> None:
    found = manifest.read_sam2(repository)
    outside = dataclasses.replace(found, files={"../outside.onnx": "0" * 64})
    outside.write(repository / "sam2" / "1")
    with pytest.raises(StartError, match="outside the repository"):
        checks.check_repository(repository)
