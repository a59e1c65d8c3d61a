"""Operations on their way to the service.

Always holds: an operation is in the state before `add` returns and leaves it only when it is decided: acknowledged, or
refused. Each is decided at some time, whatever the others hold: an error that names none of several leads to another
connection, on which one operation at a time is under way, until all that may be meant are decided.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import outgoing
from .errors import InvalidValue, QueueFull, Refused, SyncClosed, TooLarge
from .ids import Clock, uuid7
from .state import Frame, State

LOG = logging.getLogger("stellar_memory")

MAX_FRAME = 256 * 1024
"""Bytes of an operation."""


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


class Outbox:
    """What the service has not decided, in the order in which it was made."""

    def __init__(
        self, state: State, clock: Clock, max_queue: int, on_refused: Callable[[Refused], None] | None
    ) -> None:
        self._state = state
        self._clock = clock
        self._max_queue = max_queue
        self._on_refused = on_refused
        self._queue: dict[str, _Queued] = {}
        self._unsent: deque[str] = deque()
        self._under_way: set[str] = set()
        """Sent over this connection, and not answered."""
        self._suspects: set[str] = set()
        """One of them may be what the service cannot read. While there are any, one operation at a time is sent."""
        self._to_send = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def load(self, operations: Mapping[str, Frame]) -> None:
        """Takes what an earlier process left. What can never be sent is refused, and stops nothing else."""
        for op_id, frame in operations.items():
            try:
                outgoing.fields(frame)
                text = encode(frame)
            except (InvalidValue, TooLarge) as fault:
                LOG.warning("an operation of an earlier process cannot be sent; it is refused: %s", fault)
                self._tell(Refused({"op_id": op_id, "error": "invalid-request", "detail": str(fault)}, frame))
                self._state.done(op_id)
                continue
            self._clock.show(frame.get("at"))
            self._queue[op_id] = _Queued(text, self._future())

    def add(self, frame: Frame, online: bool) -> Operation:
        """Queues an operation."""
        if len(self._queue) >= self._max_queue:
            raise QueueFull(f"{len(self._queue)} operations wait already")
        op_id = uuid7()
        # The name comes early: the service finds it in a frame that it cannot read to the end.
        frame = {"op_id": op_id, **outgoing.fields(frame)}
        if not online and frame.get("at") is None:
            # Written offline: the service is told when, so that it does not win over what was written later.
            frame["at"] = self._clock.now()
        queued = _Queued(encode(frame), self._future())
        self._state.add(frame)
        self._queue[op_id] = queued
        self._unsent.append(op_id)
        self._to_send.set()
        return Operation(op_id, frame["id"], queued.ack)

    def reconnected(self) -> None:
        """There is another connection: all of it is sent again."""
        self._unsent = deque(self._queue)
        self._under_way.clear()
        self._to_send.set()

    async def next(self) -> str:
        """The text of the operation that is to be sent now; waits until there is one."""
        while True:
            while self._unsent and not (self._suspects and self._under_way):
                op_id = self._unsent.popleft()
                if (queued := self._queue.get(op_id)) is not None:
                    self._under_way.add(op_id)
                    return queued.text
            self._to_send.clear()
            await self._to_send.wait()

    def acknowledge(self, frame: Mapping[str, Any]) -> None:
        """The service decided one."""
        id, seq, reason = frame.get("id"), frame.get("seq"), frame.get("reason")
        ack = Ack(frame["op_id"], id, bool(frame.get("applied")), seq, bool(frame.get("replayed")), reason)
        if (queued := self._decided(ack.op_id)) is not None and not queued.ack.done():
            queued.ack.set_result(ack)

    def refuse(self, op_id: str, frame: Mapping[str, Any]) -> None:
        """The service refused one."""
        if (queued := self._queue.get(op_id)) is None:
            return
        refused = Refused({**frame, "op_id": op_id}, json.loads(queued.text))
        self._tell(refused)
        self._decided(op_id)
        if not queued.ack.done():
            queued.ack.set_exception(refused)

    def refuse_unnamed(self, frame: Mapping[str, Any]) -> bool:
        """The service could not read one, and so does not name it. False: it may be any of several that are under way.

        After False another connection is needed: an answer that comes over this one may be another's.
        """
        if not self._under_way:
            LOG.warning("sync was told an error that concerns no operation; it goes on: %s", Refused(frame))
        elif self._suspects:
            (op_id,) = self._under_way
            self.refuse(op_id, frame)
        else:
            self._suspects = set(self._under_way)
            return False
        return True

    def give_up(self, why: SyncClosed) -> None:
        """Tells everybody who waits that nothing will come."""
        for queued in self._queue.values():
            if not queued.ack.done():
                queued.ack.set_exception(why)

    def _decided(self, op_id: str) -> _Queued | None:
        if op_id not in self._queue:
            return None
        # First: when this fails the operation is sent again, and answered as before.
        self._state.done(op_id)
        queued = self._queue.pop(op_id)
        self._under_way.discard(op_id)
        self._suspects.discard(op_id)
        self._to_send.set()
        return queued

    def _tell(self, refused: Refused) -> None:
        if self._on_refused is not None:
            try:
                self._on_refused(refused)
            except Exception:
                LOG.exception("the hook on_refused failed; sync goes on")

    @staticmethod
    def _future() -> asyncio.Future[Ack]:
        future: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        # Nobody has to ask for it; asyncio would complain of an error that nobody saw.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future


def encode(frame: Mapping[str, Any]) -> str:
    """A frame's text. Other scripts than Latin stay as they are: escaped they would be up to three times as long."""
    text = json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if (size := len(text.encode())) > MAX_FRAME:
        raise TooLarge(f"the operation has {size} bytes; a frame takes {MAX_FRAME}")
    return text
