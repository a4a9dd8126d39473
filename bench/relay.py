"""A relay that delays: a link with jitter, where the kernel cannot make one.

It passes TCP on, and datagrams to the port of the same number. Everything keeps its order, as in
one queue: what is delayed less than its predecessor waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import random
import socket
from multiprocessing.connection import Connection
from typing import Any

from continuer.demo.cluster import HOST

READ_BYTES = 1 << 16


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_ms: tuple[float, float]
) -> None:
    """One direction of a connection, until it ends."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, chunk = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not chunk:
                writer.close()
                return
            writer.write(chunk)

    delivery = asyncio.create_task(deliver())
    try:
        while chunk := await reader.read(READ_BYTES):
            delay_s = random.uniform(*delay_ms) / 1e3  # noqa: S311  # no secret
            waiting.put_nowait((loop.time() + delay_s, chunk))
    except OSError:
        pass  # a reset ends it like any other end
    waiting.put_nowait((loop.time(), b""))
    await delivery


class _Datagrams(asyncio.DatagramProtocol):
    """Those of all senders, onward; nothing comes back."""

    def __init__(self, target_port: int, delay_ms: tuple[float, float]) -> None:
        self._delay_ms = delay_ms
        self._due: dict[Any, float] = {}
        self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._out.connect((HOST, target_port))
        self._out.setblocking(False)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        loop = asyncio.get_running_loop()
        delay_s = random.uniform(*self._delay_ms) / 1e3  # noqa: S311  # no secret
        due = max(self._due.get(addr, 0.0), loop.time() + delay_s)
        self._due[addr] = due
        loop.call_at(due, self._pass_on, data)

    def _pass_on(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody listens there yet
            self._out.send(data)


async def _serve(target_port: int, delay_ms: tuple[float, float], ready: Connection) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward, back = await asyncio.open_connection(HOST, target_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, back, delay_ms), _pass_on(onward, writer, delay_ms))

    server = await asyncio.start_server(accept, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Datagrams(target_port, delay_ms), (HOST, port)
    )
    ready.send(port)
    await server.serve_forever()


def _run(target_port: int, delay_ms: tuple[float, float], ready: Connection) -> None:
    asyncio.run(_serve(target_port, delay_ms, ready))


def start(target_port: int, delay_ms: tuple[float, float]) -> tuple[multiprocessing.Process, int]:
    """A relay to a port of this machine; its process, and the port that it listens on.

    ``delay_ms``: each piece of data is held for a time drawn evenly from this range.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_run, args=(target_port, delay_ms, theirs))
    process.start()
    return process, ours.recv()
