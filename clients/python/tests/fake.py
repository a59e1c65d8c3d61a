"""A service that follows a script: one function for each connection, and what came over all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from stellar_memory import Backoff, Client, Sync
from websockets.asyncio.server import Server, ServerConnection, serve

Frame = dict[str, Any]
ID = "01980e4c-7a5e-7cc3-98c4-dc0c0c07398f"
"""Of a memory or a key."""
QUICK = Backoff(first=0.01, most=0.02)


class Connection:
    """The service's end of a connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.hello: Frame = {}

    async def accept(self, seq: int = 0) -> None:
        self.hello = await self.receive()
        await self.send({"authenticated": True, "seq": seq, "agent": "main"})

    async def refuse(self, error: str, code: int) -> None:
        self.hello = await self.receive()
        await self.send({"authenticated": False, "error": error, "detail": "as the script says"})
        await self.socket.close(code)

    async def receive(self) -> Frame:
        frame: Frame = json.loads(await self.socket.recv())
        return frame

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self.socket.send(json.dumps(frame))

    async def change(self, *seqs: int) -> None:
        for seq in seqs:
            await self.send(change(seq))

    async def ack(self, operation: Frame, **fields: Any) -> None:
        answer = {"type": "ack", "op_id": operation["op_id"], "id": operation["id"], "applied": True, "seq": 1}
        await self.send({**answer, **fields})

    async def close(self, code: int) -> None:
        await self.socket.close(code)

    async def stay(self) -> None:
        await self.socket.wait_closed()


class Fake:
    """Serves one connection after the other; the last function of the script also those after it."""

    def __init__(self, *script: Callable[[Connection], Awaitable[None]]) -> None:
        self._script = script
        self.connections: list[Connection] = []
        self.failures: list[BaseException] = []
        self.port = 0
        self._server: Server | None = None

    async def __aenter__(self) -> Fake:
        await self.start()
        return self

    async def start(self) -> None:
        self._server = await serve(self._serve, "127.0.0.1", self.port, compression=None)
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if kind is None and self.failures:
            raise self.failures[0]

    async def _serve(self, socket: ServerConnection) -> None:
        connection = Connection(socket)
        number = len(self.connections)
        self.connections.append(connection)
        try:
            await self._script[min(number, len(self._script) - 1)](connection)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # A client that goes is no failure of the script; a wrong frame is.
            if isinstance(error, AssertionError | KeyError):
                self.failures.append(error)

    def sync(self, **options: Any) -> Sync:
        client = Client(f"http://127.0.0.1:{self.port}", "sk-stellar-test")
        return client.sync(**{"backoff": QUICK, "drain": 2.0, **options})


def change(seq: int, op: str = "store", **fields: Any) -> Frame:
    memory = {"id": f"m{seq}", "content": f"content {seq}"}
    frame = {"type": "change", "seq": seq, "op": op, "id": f"m{seq}", "agent": "main", "at": "2026-03-01T09:30:00Z"}
    return {**frame, "memory": memory, **fields}


async def take(sync: Sync, count: int) -> list[int]:
    """The numbers of the next changes."""
    return [(await asyncio.wait_for(sync.__anext__(), 10)).seq for _ in range(count)]


async def until(what: str, reached: Callable[[], bool], seconds: float = 10) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not reached():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"this did not become true: {what}")
        await asyncio.sleep(0.01)
