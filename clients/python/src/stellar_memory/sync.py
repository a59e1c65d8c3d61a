"""Sync: follows a tenant's changes and makes some, over connections that come and go.

Always holds: a change is given once and in order, or an error says that some are missing; an operation is in the state
before `store`, `update` or `remove` returns and leaves it only when it is decided (see `outbox`), and it is sent again with
the same `op_id`, which the service carries out once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from . import outgoing
from .backoff import Backoff
from .errors import Refused, ResyncRequired, StellarError, SyncClosed
from .fields import Id, StoreFields, Time, UpdateFields
from .ids import Clock, uuid7
from .outbox import Operation, Outbox
from .state import Frame, State
from .types import Memory

if TYPE_CHECKING:
    from typing_extensions import Unpack

LOG = logging.getLogger("stellar_memory")

MAX_RECEIVED = 4 * 1024 * 1024
HANDSHAKE_SECONDS = 15.0
"""The service itself waits 10 for its memory store, and then says so."""
STEADY_SECONDS = 10.0
"""A connection that lasted so long was not a failure."""

FOR_GOOD = {1002, 1003, 1007, 1009, 4001, 4002}
"""Close codes after which connecting again would end the same way."""
NO_HANDSHAKE = 1008
REFUSED_FOR_GOOD = {"invalid-api-key", "missing-api-key", "invalid-request"}
"""Why a handshake is refused with 1008, where the next one would be too."""
AT_ONCE = 1012
MAY_PASS = {
    "unavailable",
    "rate-limited",
    "too-many-sockets",
    "request-timeout",
    "gateway-timeout",
    "bad-gateway",
    "not-served-here",
}
"""Errors of an operation that another try later may not meet."""


@dataclass(frozen=True)
class Change:
    """One entry of the tenant's log."""

    seq: int
    op: str
    """`store`, `update`, `move` or `remove`."""
    id: str
    agent: str | None
    at: str
    memory: Memory | None
    """As it is now, which may be newer than the change; None when it is gone."""


@dataclass(frozen=True)
class _Resync:
    seq: int


class _Lost(Exception):
    """This connection is of no more use; another may be."""


class Sync:
    """Made by `Client.sync`. An async context manager, and an async iterator of changes.

    A change counts as seen when the next one is asked for. Leaving the context waits up to `drain` seconds for what is
    queued; what is not acknowledged then stays in the state.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        since: int | None,
        state: State,
        agent: str | None,
        on_resync: Callable[[int], Awaitable[None]] | None,
        on_refused: Callable[[Refused], None] | None,
        max_queue: int = 10_000,
        max_buffer: int = 10_000,
        backoff: Backoff | None = None,
        drain: float = 5.0,
    ) -> None:
        """`max_queue`: operations that may wait; `max_buffer`: changes that are kept for a slow reader.

        `on_refused` is told of each operation that is refused, also of one that an earlier process queued.
        """
        self._url = url
        self._hello = outgoing.fields({"api_key": api_key, "agent": agent})
        self._state = state
        self._last: int | None = outgoing.plain("since", since)
        self._on_resync = on_resync
        self._max_buffer = max_buffer
        self._backoff = backoff or Backoff()
        self._drain = drain
        self._clock = Clock()
        self._outbox = Outbox(state, self._clock, max_queue, on_refused)
        self._buffer: deque[Change | _Resync] = deque()
        self._given: int | None = None
        self._passed_over = False
        self._reattach = False
        self._socket: ClientConnection | None = None
        self._online = False
        self._moved = asyncio.Event()
        self._trouble = "none yet"
        self._progress = False
        self._ended: SyncClosed | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Sync:
        saved = self._state.load()
        if self._last is None:
            self._last = saved.seq
        self._outbox.load(saved.operations)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.pending and self._ended is None and not self._closed:
            try:
                await self.flush(self._drain)
            except (asyncio.TimeoutError, StellarError):
                LOG.warning("sync ends with %d operations that were not acknowledged", self.pending)
        await self.close()

    async def close(self) -> None:
        """Ends the connection. What is queued stays in the state."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._online = False
        self._give_up(SyncClosed(1000, "closed by this client"))
        self._state.close()

    @property
    def online(self) -> bool:
        """Whether the service has accepted the connection."""
        return self._online

    @property
    def pending(self) -> int:
        """Operations that the service has not decided."""
        return len(self._outbox)

    async def connected(self, timeout: float | None = None) -> None:
        """Waits until `online`; at most `timeout` seconds."""
        await self._wait(lambda: self._online, timeout)

    async def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is `pending`; at most `timeout` seconds."""
        await self._wait(lambda: not self.pending, timeout)

    async def store(self, content: str, **fields: Unpack[StoreFields]) -> Operation:
        """Stores a memory."""
        return self._make({"op": "store", "content": content, **fields, "id": fields.get("id") or uuid7()})

    async def update(self, id: Id, **fields: Unpack[UpdateFields]) -> Operation:
        """Changes the fields that are named."""
        return self._make({"op": "update", **fields, "id": id})

    async def remove(self, id: Id, *, at: Time | None = None) -> Operation:
        """Removes a memory."""
        return self._make({"op": "remove", "id": id, **({} if at is None else {"at": at})})

    def __aiter__(self) -> Sync:
        return self

    async def __anext__(self) -> Change:
        if self._given is not None:
            self._state.seen(self._given)
            self._given = None
        while True:
            if self._buffer:
                item = self._buffer[0]
                if isinstance(item, Change):
                    self._given = self._buffer.popleft().seq
                    return item
                # It stays in front until the hook has done its work.
                if self._on_resync is not None:
                    await self._on_resync(item.seq)
                self._buffer.popleft()
                if self._on_resync is None:
                    self._given = item.seq
                    raise ResyncRequired(item.seq)
                self._state.seen(item.seq)
                continue
            if self._ended is not None:
                raise self._ended
            if self._closed:
                raise StopAsyncIteration
            if self._passed_over:
                await self._fetch_passed_over()
            self._moved.clear()
            await self._moved.wait()

    async def _fetch_passed_over(self) -> None:
        """There is room again: a new connection brings what there was no room for."""
        self._passed_over = False
        if self._socket is not None:
            self._reattach = True
            await self._socket.close()

    def _make(self, frame: Frame) -> Operation:
        if self._ended is not None:
            raise self._ended
        if self._closed or self._task is None:
            raise RuntimeError("sync is not running: use it inside of `async with`")
        return self._outbox.add(frame, self.online)

    async def _wait(self, reached: Callable[[], bool], timeout: float | None) -> None:
        async def until() -> None:
            while not reached():
                if self._ended is not None or self._closed:
                    raise self._ended or SyncClosed(1000, "closed by this client")
                self._moved.clear()
                await self._moved.wait()

        try:
            await asyncio.wait_for(until(), timeout)
        except asyncio.TimeoutError:
            raise asyncio.TimeoutError(f"it took longer than {timeout} s; the last disconnection: {self._trouble}") from None

    async def _run(self) -> None:
        """Connects, again and again, until the service says that it is of no use."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            self._progress = False
            code, final = None, None
            try:
                await self._connection()
            except SyncClosed as ended:
                final, self._trouble = ended, ended.reason
            except ConnectionClosed as closed:
                code, self._trouble = closed.rcvd.code if closed.rcvd else None, str(closed)
                final = SyncClosed(code, str(closed)) if code in FOR_GOOD else None
            except _Lost as lost:
                self._trouble = str(lost)
            except (OSError, WebSocketException, asyncio.TimeoutError) as error:
                self._trouble = f"{type(error).__name__}: {error}"
            except Exception as error:
                LOG.exception("sync failed and ends; what is queued stays in the state")
                final = SyncClosed(1002, f"{type(error).__name__}: {error}")
            was_online, self._online, self._socket = self._online, False, None
            if final is not None:
                self._ended = final
                self._give_up(final)
                return
            if self._progress or asyncio.get_running_loop().time() - began > STEADY_SECONDS:
                failures = 0
            failures += 1
            at_once = self._reattach or (code == AT_ONCE and was_online and failures == 1)
            self._reattach = False
            delay = 0.0 if at_once else self._backoff.delay(failures)
            LOG.info("sync was disconnected (%s); connecting again in %.1f s", self._trouble, delay)
            await asyncio.sleep(delay)

    async def _connection(self) -> None:
        """One connection, until it ends, always with an exception."""
        async with connect(
            self._url,
            compression=None,
            max_size=MAX_RECEIVED,
            open_timeout=HANDSHAKE_SECONDS,
            close_timeout=2,
            ping_interval=20,
            ping_timeout=20,
        ) as socket:
            hello = {**self._hello, "since": self._last}
            await socket.send(json.dumps({name: value for name, value in hello.items() if value is not None}))
            answer = json.loads(await asyncio.wait_for(socket.recv(), HANDSHAKE_SECONDS))
            if not answer.get("authenticated"):
                raise await self._refusal(socket, answer)
            if self._last is None:
                self._last = answer["seq"]
            self._outbox.reconnected()
            self._socket = socket
            self._online = True
            self._moved.set()
            sender = asyncio.create_task(self._send(socket))
            try:
                while True:
                    self._receive(json.loads(await socket.recv()))
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _refusal(self, socket: ClientConnection, answer: Mapping[str, Any]) -> Exception:
        """Why the handshake was refused: for good or for now, as the close code says that follows."""
        error, code = answer.get("error", ""), NO_HANDSHAKE
        try:
            await asyncio.wait_for(socket.recv(), HANDSHAKE_SECONDS)
        except asyncio.TimeoutError:
            pass
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else code
        reason = f"{error}: {answer.get('detail', '')}"
        final = code in FOR_GOOD or (code == NO_HANDSHAKE and error in REFUSED_FOR_GOOD)
        return SyncClosed(code, reason) if final else _Lost(reason)

    async def _send(self, socket: ClientConnection) -> None:
        while True:
            await socket.send(await self._outbox.next())

    def _receive(self, frame: Mapping[str, Any]) -> None:
        match frame.get("type"):
            case "change":
                self._receive_change(frame)
            case "ack" | "error":
                pending = self.pending
                self._receive_answer(frame)
                if self.pending < pending:
                    self._progress = True
                    self._moved.set()
            case "resync":
                self._last = frame["seq"]
                self._passed_over = False
                self._give(_Resync(frame["seq"]))
            # Other types are of a newer service, which speaks so that older clients may pass over it.

    def _receive_answer(self, frame: Mapping[str, Any]) -> None:
        if frame["type"] == "ack":
            self._outbox.acknowledge(frame)
        elif frame.get("error") in MAY_PASS:
            raise _Lost(f"{frame['error']}: {frame.get('detail', '')}")
        elif isinstance(op_id := frame.get("op_id"), str):
            self._outbox.refuse(op_id, frame)
        elif not self._outbox.refuse_unnamed(frame):
            raise _Lost(f"the service could not read one of several operations: {frame.get('detail', '')}")

    def _receive_change(self, frame: Mapping[str, Any]) -> None:
        seq, last = frame["seq"], cast(int, self._last)
        self._clock.show(frame.get("at"))
        if seq <= last:
            return
        if len(self._buffer) >= self._max_buffer:
            self._passed_over = True
        if self._passed_over:
            return
        if seq > last + 1:
            raise _Lost(f"change {seq} came after {last}")
        self._last = seq
        self._progress = True
        at, memory = frame.get("at", ""), frame.get("memory")
        self._give(Change(seq, frame["op"], frame["id"], frame.get("agent"), at, memory))

    def _give(self, item: Change | _Resync) -> None:
        self._buffer.append(item)
        self._moved.set()

    def _give_up(self, why: SyncClosed) -> None:
        """Tells everybody who waits that nothing will come."""
        self._outbox.give_up(why)
        self._moved.set()
