"""Asks a path of a server so many times a second, in a process of its own; says what that cost it.

Started by `run.py` with the server's address. Each line on its standard input, `{"path": ..., "accept": ..., "rate":
..., "seconds": ...}`, is answered with a line: how often it asked, what its own processor time was, how long answers
took.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any


def whole_answer(connection: socket.socket, buffer: bytearray) -> int:
    """Read an answer that says its length, and return how long it was."""
    view = memoryview(buffer)
    got = connection.recv_into(view)
    head = bytes(view[:got])
    while (end := head.find(b"\r\n\r\n")) < 0:
        got += connection.recv_into(view[got:])
        head = bytes(view[:got])
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head[:end].decode(errors="replace"))
    start = head.lower().index(b"content-length:") + len(b"content-length:")
    length = int(head[start : head.index(b"\r", start)])
    left = end + 4 + length - got
    while left > 0:
        came = connection.recv_into(view)
        if not came:
            raise ConnectionError("the server closed the connection")
        left -= came
    return length


def ask(address: str, said: dict[str, Any]) -> dict[str, Any]:
    """Ask for a while, on one connection, each time when it is due; what is late by more than 10 ms is left out."""
    host, _, port = address.rpartition(":")
    request = f"GET {said['path']} HTTP/1.1\r\nHost: {address}\r\nAccept: {said['accept']}\r\n\r\n".encode()
    buffer, times, length = bytearray(1 << 20), [], 0
    with socket.create_connection((host, int(port)), timeout=20.0) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = began = time.perf_counter()
        spent = time.process_time()
        ends = began + said["seconds"]
        while due < ends:
            time.sleep(max(0.0, due - time.perf_counter()))
            asked = time.perf_counter()
            connection.sendall(request)
            length = whole_answer(connection, buffer)
            times.append(time.perf_counter() - asked)
            due = max(due + 1 / said["rate"], time.perf_counter() - 0.01)
        spent = time.process_time() - spent
    times.sort()
    return {
        "asked": len(times),
        "seconds": time.perf_counter() - began,
        "cpu_s": spent,
        "p50_ms": 1e3 * times[len(times) // 2],
        "p95_ms": 1e3 * times[len(times) * 95 // 100],
        "bytes": length,
    }


def main() -> None:
    """Answer lines until there are no more."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(ask(sys.argv[1], json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
