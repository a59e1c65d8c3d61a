"""An operation that cannot be read or sent is refused, and the others go on."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from stellar_memory import FileState, InvalidValue, MemoryState, Refused, State

from .fake import ID, Connection, Fake, Frame, change, take

UNNAMED: Frame = {"type": "error", "error": "invalid-request", "detail": "the frame is not valid JSON"}


def service(poison: str, ahead: int) -> Callable[[Connection], Awaitable[None]]:
    """Acknowledges what it can read, after `ahead` frames came or none comes any more; and names no other."""

    async def script(connection: Connection) -> None:
        await connection.accept()
        waiting: list[Frame] = []
        while True:
            try:
                waiting.append(await asyncio.wait_for(connection.receive(), 0.1))
                # What it cannot read is answered before what is carried out.
                if poison in waiting[-1]["content"]:
                    waiting.pop()
                    await connection.send(UNNAMED)
                if len(waiting) < ahead:
                    continue
            except asyncio.TimeoutError:
                pass
            for operation in waiting:
                await connection.ack(operation)
            waiting = []

    return script


class Unnamed(unittest.IsolatedAsyncioTestCase):
    async def test_the_one_that_cannot_be_read_is_refused_and_no_other(self) -> None:
        refused: list[Refused] = []
        state = MemoryState()
        async with Fake(service("poison", ahead=3)) as fake:
            async with fake.sync(state=state, on_refused=refused.append) as sync:
                names = ["a", "poison 1", "b", "poison 2", "c"]
                operations = [await sync.store(name) for name in names]
                acks = await asyncio.wait_for(
                    asyncio.gather(*(one.ack for one in operations), return_exceptions=True), 20
                )
                self.assertEqual([isinstance(ack, Refused) for ack in acks], [False, True, False, True, False])
                self.assertEqual([one.op_id for one in refused], [operations[1].op_id, operations[3].op_id])
                self.assertEqual([(one.operation or {})["content"] for one in refused], ["poison 1", "poison 2"])
                self.assertEqual((sync.pending, state.saved.operations), (0, {}))
                # Another one for each that could not be read, at most.
                self.assertLessEqual(len(fake.connections), 3)

    async def test_afterwards_operations_go_together_again(self) -> None:
        async def first(connection: Connection) -> None:
            await connection.accept()
            await connection.receive()
            await connection.send(UNNAMED)
            await connection.stay()

        async def second(connection: Connection) -> None:
            await connection.accept()
            await connection.receive()
            await connection.send(UNNAMED)
            for operation in [await connection.receive() for _ in range(3)]:
                await connection.ack(operation)
            await connection.stay()

        async with Fake(first, second) as fake, fake.sync() as sync:
            poison = await sync.store("poison")
            with self.assertRaises(Refused):
                await asyncio.wait_for(poison.ack, 10)
            made = [await sync.store(f"{n}") for n in range(3)]
            await asyncio.wait_for(asyncio.gather(*(one.ack for one in made)), 10)
            self.assertEqual(len(fake.connections), 2)

    async def test_one_is_alone_also_over_connections_that_break(self) -> None:
        async def first(connection: Connection) -> None:
            await connection.accept()
            await connection.receive()
            await connection.receive()
            await connection.send(UNNAMED)
            await connection.stay()

        async def second(connection: Connection) -> None:
            await connection.accept()
            self.assertEqual((await connection.receive())["content"], "a")
            await connection.close(1013)

        async def third(connection: Connection) -> None:
            await connection.accept()
            a = await connection.receive()
            # If the other had been sent too, the refusal could be meant for it.
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(connection.receive(), 0.1)
            await connection.ack(a)
            self.assertEqual((await connection.receive())["content"], "b")
            await connection.send(UNNAMED)
            await connection.stay()

        async with Fake(first, second, third) as fake, fake.sync() as sync:
            await sync.connected(10)
            a, b = await sync.store("a"), await sync.store("b")
            self.assertTrue((await asyncio.wait_for(a.ack, 10)).applied)
            with self.assertRaises(Refused) as caught:
                await asyncio.wait_for(b.ack, 10)
            self.assertEqual((caught.exception.op_id, caught.exception.type), (b.op_id, "invalid-request"))

    async def test_one_that_concerns_nothing_changes_nothing(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept()
            for seq in (1, 2):
                await connection.send(UNNAMED, change(seq))
                await connection.ack(await connection.receive())
            await connection.stay()

        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)
        async with Fake(script) as fake, fake.sync(since=0) as sync:
            for seq in (1, 2):
                # It came before this change, so it was read when the change is.
                self.assertEqual(await take(sync, 1), [seq])
                self.assertTrue((await (await sync.store("innocent")).ack).applied)
            self.assertEqual(len(fake.connections), 1)


class Calls(unittest.IsolatedAsyncioTestCase):
    async def test_what_cannot_be_sent_is_not_queued(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept()
            while True:
                await connection.ack(await connection.receive())

        calls: list[tuple[str, Callable[[Any], Awaitable[object]]]] = [
            ("metadata.score", lambda sync: sync.store("x", metadata={"score": float("nan")})),
            ("importance", lambda sync: sync.update(ID, importance=float("inf"))),
            ("content", lambda sync: sync.store("title \ud83d")),
            ("metadata.n", lambda sync: sync.update(ID, metadata={"n": 10**400})),
            ("id", lambda sync: sync.update("m1", content="x")),
            ("id", lambda sync: sync.remove("../stats")),
            ("at", lambda sync: sync.remove(ID, at="\ud83d")),
        ]
        state = MemoryState()
        async with Fake(script) as fake, fake.sync(state=state) as sync:
            for field, call in calls:
                with self.assertRaises(InvalidValue) as caught:
                    await call(sync)
                self.assertEqual(caught.exception.field, field)
                self.assertEqual((sync.pending, state.saved.operations), (0, {}))
            self.assertTrue((await (await sync.store("good")).ack).applied)

    async def test_what_is_queued_stays_as_it_was(self) -> None:
        metadata = {"n": 1}
        state = MemoryState()
        async with Fake(lambda connection: connection.close(1013)) as fake, fake.sync(state=state, drain=0) as sync:
            operation = await sync.store("x", metadata=metadata)
            metadata["n"] = 2
            self.assertEqual(state.saved.operations[operation.op_id]["metadata"], {"n": 1})
            self.assertEqual(list(state.saved.operations[operation.op_id])[0], "op_id")


class Earlier(unittest.IsolatedAsyncioTestCase):
    """Queues of an earlier version, which took what cannot be sent."""

    def setUp(self) -> None:
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "state"

    def journal(self) -> list[str]:
        """Writes operations of which two can be sent, and returns the `op_id`s."""
        deep: Any = {}
        for _ in range(130):
            deep = {"a": deep}
        frames: list[Frame] = [
            {"op": "store", "id": ID, "content": "first"},
            {"op": "store", "id": ID, "content": "cut \ud83d"},
            {"op": "store", "id": ID, "content": "x", "metadata": {"score": float("nan")}},
            {"op": "store", "id": ID, "content": "x", "metadata": {"n": 10**400}},
            {"op": "store", "id": ID, "content": "x", "metadata": deep},
            {"op": "store", "id": ID, "content": "x" * 300_000},
            {"op": "remove", "id": "../stats"},
            {"op": "store", "id": ID, "content": "last", "at": "2026-02-30T00:00:00Z"},
            {"op": "store", "id": ID, "content": "without a time", "at": None},
        ]
        named = [{**frame, "op_id": f"op-{n}"} for n, frame in enumerate(frames)]
        others = ["5", "null", '{"add": 7}', '{"add": {"op": "store"}}', '{"done": 1}', '{"seen": "x"}', "[" * 100_000]
        self.path.write_text("\n".join([*others, *(json.dumps({"add": frame}) for frame in named), ""]))
        return [str(frame["op_id"]) for frame in named]

    async def check(self, state: State, names: list[str]) -> None:
        received: list[Frame] = []
        refused: list[Refused] = []

        async def script(connection: Connection) -> None:
            await connection.accept()
            while True:
                received.append(await connection.receive())
                await connection.ack(received[-1])

        async with Fake(script) as fake, fake.sync(state=state, on_refused=refused.append) as sync:
            self.assertEqual(sync.pending, 3)
            await sync.flush(10)
            self.assertEqual(len(fake.connections), 1)
        self.assertEqual([frame["content"] for frame in received], ["first", "last", "without a time"])
        self.assertEqual([one.op_id for one in refused], names[1:7])
        self.assertEqual({one.type for one in refused}, {"invalid-request"})
        self.assertEqual((refused[0].operation or {})["content"], "cut \ud83d")
        self.assertEqual(state.load().operations, {})

    async def test_poison_in_a_file_is_refused_and_the_others_go_on(self) -> None:
        names = self.journal()
        await self.check(FileState(self.path), names)
        self.assertEqual(FileState(self.path).load().operations, {})

    async def test_poison_in_memory_is_refused_and_the_others_go_on(self) -> None:
        names = self.journal()
        state = MemoryState()
        state.saved = FileState(self.path).load()
        await self.check(state, names)

    async def test_a_hook_that_fails_stops_nothing(self) -> None:
        logging.disable(logging.ERROR)
        self.journal()

        def hook(_: Refused) -> None:
            raise KeyError("a fault of the hook")

        async def script(connection: Connection) -> None:
            await connection.accept()
            while True:
                await connection.ack(await connection.receive())

        async with Fake(script) as fake, fake.sync(state=FileState(self.path), on_refused=hook) as sync:
            await sync.flush(10)
            self.assertEqual(sync.pending, 0)


if __name__ == "__main__":
    unittest.main()
