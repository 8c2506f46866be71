"""The container's first process: `python3 -m florence2_sam2.server.container [flags] [-- flags of tritonserver]`.

It checks what can be checked, starts Triton, looks after it as `serve` does, and finishes what is in flight when it
gets a SIGTERM. What has died or hangs is not started again here: the process ends with 1, and a restart policy makes a
new container of it. Exit code 0 after a clean stop.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from florence2_sam2.server.container.command import command, environment
from florence2_sam2.server.container.options import ADMIN_KEY_FILE_VARIABLE, Options, parse
from florence2_sam2.server.container.plans import check_plans
from florence2_sam2.server.container.server import ContainerServer
from florence2_sam2.server.container.shared_memory import SharedMemoryNames
from florence2_sam2.server.launch import checks
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.signals import StopRequested, stop_signals
from florence2_sam2.server.launch.supervisor import supervise
from florence2_sam2.server.launch.watch import Timing
from florence2_sam2.server.settings import Settings

GPU = Path("/dev/nvidiactl")  # where the driver's container toolkit has put one in


def main(arguments: Sequence[str]) -> int:
    try:
        with stop_signals():
            return _run(parse(arguments))
    except StopRequested:  # before Triton was started, or a second one while stopping
        return 130
    except (StartError, ValueError) as error:
        print(f"florence2-sam2: error: {error}", file=sys.stderr, flush=True)
        return 1


def _run(options: Options) -> int:
    settings = Settings.from_environment()
    key = options.admin_key() or secrets.token_hex(16)
    providers = checks.check_providers()
    checks.check_features(settings, options.model_config == "embedded", providers)
    checks.check_shared_memory()
    checks.check_telemetry(settings)
    checks.check_repository(options.repository, options.check_hashes)
    if options.model_config == "tensorrt":
        check_plans(options.repository)
    environ = {name: value for name, value in os.environ.items() if name != ADMIN_KEY_FILE_VARIABLE}
    began = time.monotonic()
    with SharedMemoryNames() as names:
        server = ContainerServer(
            command(options, settings, names.prefix, key, GPU.exists()),
            environment(settings, checks.check_python3(), environ),
            options.addresses.http,
            key,
        )
        try:
            server.wait_ready()
            _say(f"ready after {time.monotonic() - began:.1f} s")
            supervise(server, Timing.of(settings), on_failure=_end, on_ready=lambda: None)
        except StopRequested:
            _say("stopping: finishing the requests in flight (again to stop at once)")
            server.stop()
            _say("stopped")
            return 0
        finally:
            server.kill()


def _end(reason: str, pause: float) -> None:
    raise StartError(reason)


def _say(text: str) -> None:
    print(f"florence2-sam2: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
