"""Sync: follows a tenant's changes and makes some, over connections that come and go.

Always holds: a change is given once and in order, or an error says that some are missing; an operation is in the state
before `store`, `update` or `remove` returns and leaves it only when the service has decided it, and it is sent again with
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

from .backoff import Backoff
from .errors import QueueFull, Refused, ResyncRequired, StellarError, SyncClosed, TooLarge
from .fields import StoreFields
from .ids import Clock, uuid7
from .state import Frame, State
from .types import Memory, UpdateRequest

if TYPE_CHECKING:
    from typing_extensions import Unpack

LOG = logging.getLogger("stellar_memory")

MAX_FRAME = 256 * 1024
"""Bytes of an operation."""
MAX_RECEIVED = 4 * 1024 * 1024
HANDSHAKE_SECONDS = 15.0
"""The service itself waits 10 for its memory store, and then says so."""
STEADY_SECONDS = 10.0
"""A connection that lasted so long was not a failure."""

FOR_GOOD = {1002, 1003, 1007, 1008, 1009, 4001, 4002}
"""Close codes after which connecting again would end the same way."""
AT_ONCE = 1012
MAY_PASS = {"unavailable", "rate-limited", "too-many-sockets", "gateway-timeout", "bad-gateway", "not-served-here"}
"""Errors that another try later may not meet."""


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
class Ack:
    """The service decided an operation."""

    op_id: str
    id: str | None
    applied: bool
    """False: it changed nothing, for the reason given."""
    seq: int | None
    replayed: bool
    """It was decided before; this is the first answer once more."""
    reason: str | None
    """`newer` or `removed`."""


@dataclass(frozen=True)
class Operation:
    """An operation that is on its way."""

    op_id: str
    id: str
    """The memory's."""
    ack: asyncio.Future[Ack]
    """Await it for the answer. Raises `Refused`, or `SyncClosed`."""


@dataclass(frozen=True)
class _Queued:
    text: str
    ack: asyncio.Future[Ack]


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
        max_queue: int = 10_000,
        max_buffer: int = 10_000,
        backoff: Backoff | None = None,
        drain: float = 5.0,
    ) -> None:
        """`max_queue`: operations that may wait; `max_buffer`: changes that are kept for a slow reader."""
        self._url = url
        self._api_key = api_key
        self._agent = agent
        self._state = state
        self._last = since
        self._on_resync = on_resync
        self._max_queue = max_queue
        self._max_buffer = max_buffer
        self._backoff = backoff or Backoff()
        self._drain = drain
        self._clock = Clock()
        self._queue: dict[str, _Queued] = {}
        self._unsent: deque[str] = deque()
        self._buffer: deque[Change | _Resync] = deque()
        self._given: int | None = None
        self._passed_over = False
        self._reattach = False
        self._socket: ClientConnection | None = None
        self._online = False
        self._to_send = asyncio.Event()
        self._moved = asyncio.Event()
        self._progress = False
        self._ended: SyncClosed | None = None
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Sync:
        saved = self._state.load()
        if self._last is None:
            self._last = saved.seq
        for op_id, frame in saved.operations.items():
            self._clock.show(frame.get("at", ""))
            self._queue[op_id] = _Queued(encode(frame), self._future())
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._queue and self._ended is None and not self._closed:
            try:
                await self.flush(self._drain)
            except (asyncio.TimeoutError, StellarError):
                LOG.warning("sync ends with %d operations that were not acknowledged", len(self._queue))
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
        return len(self._queue)

    async def connected(self, timeout: float | None = None) -> None:
        """Waits until `online`; at most `timeout` seconds."""
        await self._wait(lambda: self._online, timeout)

    async def flush(self, timeout: float | None = None) -> None:
        """Waits until nothing is `pending`; at most `timeout` seconds."""
        await self._wait(lambda: not self._queue, timeout)

    async def store(self, content: str, **fields: Unpack[StoreFields]) -> Operation:
        """Stores a memory."""
        return self._make({"op": "store", "id": uuid7(), "content": content, **fields})

    async def update(self, id: str, **fields: Unpack[UpdateRequest]) -> Operation:
        """Changes the fields that are named."""
        return self._make({"op": "update", "id": id, **fields})

    async def remove(self, id: str, *, at: str | None = None) -> Operation:
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
        if len(self._queue) >= self._max_queue:
            raise QueueFull(f"{len(self._queue)} operations wait already")
        frame["op_id"] = uuid7()
        if not self.online:
            # Written offline: the service is told when, so that it does not win over what was written later.
            frame.setdefault("at", self._clock.now())
        text = encode(frame)
        if len(text.encode()) > MAX_FRAME:
            raise TooLarge(f"the operation has {len(text.encode())} bytes; a frame takes {MAX_FRAME}")
        self._state.add(frame)
        queued = _Queued(text, self._future())
        self._queue[frame["op_id"]] = queued
        self._unsent.append(frame["op_id"])
        self._to_send.set()
        return Operation(frame["op_id"], frame["id"], queued.ack)

    def _future(self) -> asyncio.Future[Ack]:
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        # Nobody has to ask for it; asyncio would complain of an error that nobody saw.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    async def _wait(self, reached: Callable[[], bool], timeout: float | None) -> None:
        async def until() -> None:
            while not reached():
                if self._ended is not None or self._closed:
                    raise self._ended or SyncClosed(1000, "closed by this client")
                self._moved.clear()
                await self._moved.wait()

        await asyncio.wait_for(until(), timeout)

    async def _run(self) -> None:
        """Connects, again and again, until the service says that it is of no use."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            self._progress = False
            code, reason = None, ""
            try:
                await self._connection()
            except SyncClosed as ended:
                code, reason = ended.code, ended.reason
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else None
                reason = str(closed)
            except (OSError, WebSocketException, asyncio.TimeoutError, _Lost) as error:
                reason = f"{type(error).__name__}: {error}"
            except Exception as error:
                LOG.exception("sync failed")
                code, reason = 1002, f"{type(error).__name__}: {error}"
            was_online, self._online, self._socket = self._online, False, None
            if code is not None and code in FOR_GOOD:
                self._ended = SyncClosed(code, reason)
                self._give_up(self._ended)
                return
            if self._progress or asyncio.get_running_loop().time() - began > STEADY_SECONDS:
                failures = 0
            failures += 1
            at_once = self._reattach or (code == AT_ONCE and was_online and failures == 1)
            self._reattach = False
            delay = 0.0 if at_once else self._backoff.delay(failures)
            LOG.info("sync was disconnected (%s); connecting again in %.1f s", reason, delay)
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
            hello = {"api_key": self._api_key, "since": self._last, "agent": self._agent}
            await socket.send(encode({name: value for name, value in hello.items() if value is not None}))
            answer = json.loads(await asyncio.wait_for(socket.recv(), HANDSHAKE_SECONDS))
            if not answer.get("authenticated"):
                raise await self._refusal(socket, answer)
            if self._last is None:
                self._last = answer["seq"]
            self._unsent = deque(self._queue)
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
        error, code = answer.get("error", ""), 1008
        try:
            await asyncio.wait_for(socket.recv(), HANDSHAKE_SECONDS)
        except asyncio.TimeoutError:
            pass
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else code
        reason = f"{error}: {answer.get('detail', '')}"
        return SyncClosed(code, reason) if code in FOR_GOOD and error not in MAY_PASS else _Lost(reason)

    async def _send(self, socket: ClientConnection) -> None:
        while True:
            while self._unsent:
                if (queued := self._queue.get(self._unsent[0])) is not None:
                    await socket.send(queued.text)
                self._unsent.popleft()
            self._to_send.clear()
            await self._to_send.wait()

    def _receive(self, frame: Mapping[str, Any]) -> None:
        match frame.get("type"):
            case "change":
                self._receive_change(frame)
            case "ack":
                id, seq, reason = frame.get("id"), frame.get("seq"), frame.get("reason")
                applied, replayed = bool(frame.get("applied")), bool(frame.get("replayed"))
                self._settle(frame["op_id"], Ack(frame["op_id"], id, applied, seq, replayed, reason))
            case "error" if frame.get("error") in MAY_PASS:
                raise _Lost(f"{frame['error']}: {frame.get('detail', '')}")
            case "error" if "op_id" in frame:
                self._settle(frame["op_id"], Refused(frame))
            case "error":
                LOG.error("sync: %s", Refused(frame))
            case "resync":
                self._last = frame["seq"]
                self._passed_over = False
                self._give(_Resync(frame["seq"]))
            # Other types are of a newer service, which speaks so that older clients may pass over it.

    def _receive_change(self, frame: Mapping[str, Any]) -> None:
        seq, last = frame["seq"], cast(int, self._last)
        self._clock.show(frame.get("at", ""))
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

    def _settle(self, op_id: str, answer: Ack | Refused) -> None:
        if op_id not in self._queue:
            return
        self._progress = True
        self._state.done(op_id)
        queued = self._queue.pop(op_id)
        if not queued.ack.done():
            if isinstance(answer, Ack):
                queued.ack.set_result(answer)
            else:
                queued.ack.set_exception(answer)
        self._moved.set()

    def _give_up(self, why: SyncClosed) -> None:
        """Tells everybody who waits that nothing will come."""
        for queued in self._queue.values():
            if not queued.ack.done():
                queued.ack.set_exception(why)
        self._moved.set()


def encode(frame: Mapping[str, Any]) -> str:
    """A frame's text. Other scripts than Latin stay as they are: escaped they would be up to three times as long."""
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
