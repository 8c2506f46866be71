"""Run where /etc/hosts is its own: python named_peers.py CONNECTION_MS. Two servers that one name stands for, and a
third one that it stands for later. Says after how many seconds of calls, none of which may fail, the third one had a
call.

CONNECTION_MS: how long the servers let a connection live, 0 for ever; then one of them ends in place of that.
"""

from __future__ import annotations

import sys
import time
from concurrent import futures
from pathlib import Path

import grpc
from kserve_peer import Peer, answer
from tritonclient.grpc import service_pb2_grpc

from florence2_sam2.client import Segmenter

HOSTS, NAME = Path("/etc/hosts"), "segment.test"
LONGEST_SECONDS = 75.0


def serve(address: str, port: int, connection_ms: int) -> tuple[Peer, grpc.Server, int]:
    options = [("grpc.so_reuseport", 0)]
    options += [("grpc.max_connection_age_ms", connection_ms)] if connection_ms else []
    peer, server = Peer(answer), grpc.server(futures.ThreadPoolExecutor(4), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(peer, server)
    bound = server.add_insecure_port(f"{address}:{port}")
    server.start()
    return peer, server, bound


def main(connection_ms: int) -> None:
    before = HOSTS.read_text()

    def stands_for(*addresses: str) -> None:
        HOSTS.write_text(before + "".join(f"{address} {NAME}\n" for address in addresses))

    first, kept, port = serve("127.0.0.1", 0, connection_ms)
    second, ending, _ = serve("127.0.0.2", port, connection_ms)
    stands_for("127.0.0.1", "127.0.0.2")
    with Segmenter(f"{NAME}:{port}", retries=1) as client:
        began = time.monotonic()
        while min(len(first.received), len(second.received)) < 5:
            assert time.monotonic() - began < LONGEST_SECONDS, "calls do not go to both"
            client.segment(b"picture")
        third, also_kept, _ = serve("127.0.0.3", port, connection_ms)
        stands_for("127.0.0.1", "127.0.0.2", "127.0.0.3")
        if not connection_ms:
            ending.stop(None)
        began = time.monotonic()
        while not third.received:
            assert time.monotonic() - began < LONGEST_SECONDS, "the third server was not found"
            client.segment(b"picture")
            time.sleep(0.1)
        for server in (kept, also_kept):  # one that nobody holds is ended
            server.stop(None)
        print(f"{time.monotonic() - began:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
