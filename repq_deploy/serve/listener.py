"""The socket that a server listens on, and how it ends without cutting off whoever has just connected."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys

from repq_deploy.errors import BadInput

__all__ = ["listen", "take_no_more"]

#: ``SO_ATTACH_FILTER`` of ``asm-generic/socket.h``, which Python does not name.
_SO_ATTACH_FILTER = 26
#: Classic BPF, from the TCP header on: of its flags (byte 13) take SYN and ACK; SYN alone is dropped, all else passes.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]
    (0x54, 0, 0, 0x12),  # and #SYN|ACK
    (0x15, 0, 1, 0x02),  # jeq #SYN, next, one further
    (0x06, 0, 0, 0),  # ret #0
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; 0 takes any port that is free.

    Raises:
        BadInput: it cannot listen there.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio takes the delay of small packets off connections whose protocol is named, as it is here.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address[:2])
        listener.listen()
    except OSError as error:
        said = error.strerror or error
        raise BadInput(f"port {port} of {host}: cannot listen there: {said}; give another") from error
    return listener


def take_no_more(listener: socket.socket) -> None:
    """Let no connection begin; those that have begun can still be accepted.

    A system resets what nobody has accepted when the socket closes, and between the last ``accept`` and ``close`` there
    is always time for one more. So on Linux the first packet of a handshake is dropped from here on: its sender tries
    again a second later, when nobody listens. Elsewhere the queue is made as short as it can be.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _DROP_SYN))
        where = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
        with contextlib.suppress(OSError):  # a sandbox may know no filters
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)
            return
    listener.listen(0)
