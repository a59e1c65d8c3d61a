"""Sync against a service that follows a script."""

from __future__ import annotations

import asyncio
import os
import tempfile
import unittest
from collections.abc import Awaitable, Callable
from pathlib import Path

from stellar_memory import (
    FileState,
    MemoryState,
    Operation,
    QueueFull,
    Refused,
    ResyncRequired,
    SyncClosed,
    TooLarge,
)

from .fake import ID, Connection, Fake, Frame, change, take, until


async def echo(connection: Connection) -> None:
    """Accepts and acknowledges everything."""
    await connection.accept()
    while True:
        await connection.ack(await connection.receive())


def recording(received: list[Frame]) -> Callable[[Connection], Awaitable[None]]:
    """The same, and keeps what came."""

    async def script(connection: Connection) -> None:
        await connection.accept()
        while True:
            received.append(await connection.receive())
            await connection.ack(received[-1])

    return script


class Changes(unittest.IsolatedAsyncioTestCase):
    async def test_a_broken_connection_is_resumed_after_the_last_change(self) -> None:
        async def first(connection: Connection) -> None:
            await connection.accept(seq=7)
            await connection.change(6, 7)
            await connection.close(1013)

        async def second(connection: Connection) -> None:
            await connection.accept(seq=8)
            await connection.change(8)
            await connection.stay()

        async with Fake(first, second) as fake, fake.sync(since=5) as sync:
            self.assertEqual(await take(sync, 3), [6, 7, 8])
            self.assertEqual([one.hello.get("since") for one in fake.connections], [5, 7])
            self.assertEqual(fake.connections[0].hello["api_key"], "sk-stellar-test")

    async def test_without_since_the_stream_begins_now_and_goes_on_from_there(self) -> None:
        async def first(connection: Connection) -> None:
            await connection.accept(seq=41)
            await connection.close(4009)

        async def second(connection: Connection) -> None:
            await connection.accept(seq=42)
            await connection.change(42)
            await connection.stay()

        async with Fake(first, second) as fake, fake.sync() as sync:
            self.assertEqual(await take(sync, 1), [42])
            self.assertNotIn("since", fake.connections[0].hello)
            self.assertEqual(fake.connections[1].hello["since"], 41)

    async def test_what_comes_twice_is_given_once(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept(seq=3)
            await connection.change(1, 2, 2, 1, 3)
            await connection.stay()

        async with Fake(script) as fake, fake.sync(since=0) as sync:
            self.assertEqual(await take(sync, 3), [1, 2, 3])

    async def test_a_gap_is_never_given_but_fetched(self) -> None:
        async def first(connection: Connection) -> None:
            await connection.accept(seq=3)
            await connection.change(1, 3)
            await connection.stay()

        async def second(connection: Connection) -> None:
            await connection.accept(seq=3)
            await connection.change(2, 3)
            await connection.stay()

        async with Fake(first, second) as fake, fake.sync(since=0) as sync:
            self.assertEqual(await take(sync, 3), [1, 2, 3])
            self.assertEqual(fake.connections[1].hello["since"], 1)

    async def test_a_slow_reader_gets_all_and_acks_come_meanwhile(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept(seq=6)
            await connection.change(*range(connection.hello["since"] + 1, 7))
            while True:
                await connection.ack(await connection.receive())

        async with Fake(script) as fake, fake.sync(since=0, max_buffer=2) as sync:
            await (await sync.store("while the buffer is full")).ack
            self.assertEqual(await take(sync, 6), [1, 2, 3, 4, 5, 6])
            self.assertEqual([one.hello["since"] for one in fake.connections], [0, 2, 4])

    async def test_a_change_counts_as_seen_when_the_next_is_asked_for(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept(seq=2)
            await connection.change(*range(connection.hello["since"] + 1, 3))
            await connection.stay()

        state = MemoryState()
        async with Fake(script) as fake:
            async with fake.sync(since=0, state=state) as sync:
                self.assertEqual(await take(sync, 2), [1, 2])
            self.assertEqual(state.saved.seq, 1)
            async with fake.sync(state=state) as sync:
                self.assertEqual(await take(sync, 1), [2])

    async def test_a_resync_calls_the_hook_in_its_place(self) -> None:
        told: list[int] = []

        async def script(connection: Connection) -> None:
            await connection.accept(seq=90)
            await connection.send({"type": "resync", "seq": 90})
            await connection.change(91)
            await connection.stay()

        async def reload(seq: int) -> None:
            told.append(seq)

        state = MemoryState()
        async with Fake(script) as fake, fake.sync(since=1, state=state, on_resync=reload) as sync:
            self.assertEqual(await take(sync, 1), [91])
            self.assertEqual((told, state.saved.seq), ([90], 90))

    async def test_a_hook_that_fails_is_called_again(self) -> None:
        calls: list[int] = []

        async def script(connection: Connection) -> None:
            await connection.accept(seq=5)
            await connection.send({"type": "resync", "seq": 5}, change(6))
            await connection.stay()

        async def reload(seq: int) -> None:
            calls.append(seq)
            if len(calls) == 1:
                raise OSError("the export broke off")

        async with Fake(script) as fake, fake.sync(since=1, on_resync=reload) as sync:
            with self.assertRaises(OSError):
                await take(sync, 1)
            self.assertEqual(await take(sync, 1), [6])
            self.assertEqual(calls, [5, 5])

    async def test_a_resync_without_a_hook_is_an_error_after_which_it_goes_on(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept(seq=90)
            await connection.send({"type": "resync", "seq": 90}, {"type": "of a newer service"}, change(91))
            await connection.stay()

        async with Fake(script) as fake, fake.sync(since=1) as sync:
            with self.assertRaises(ResyncRequired) as caught:
                await take(sync, 1)
            self.assertEqual(caught.exception.seq, 90)
            self.assertEqual(await take(sync, 1), [91])


class CloseCodes(unittest.IsolatedAsyncioTestCase):
    async def test_after_1012_it_connects_at_once(self) -> None:
        async def first(connection: Connection) -> None:
            await connection.accept()
            await connection.close(1012)

        class Never:
            """A back-off that would take for ever."""

            def delay(self, failures: int) -> float:
                return 3600.0

        async with Fake(first, echo) as fake, fake.sync(backoff=Never()) as sync:
            await until("it is connected again", lambda: len(fake.connections) == 2 and sync.online)

    async def test_a_service_that_only_shuts_down_is_not_asked_without_end(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept()
            await connection.close(1012)

        waits: list[int] = []

        class Noted:
            def delay(self, failures: int) -> float:
                waits.append(failures)
                return 0.0

        async with Fake(script) as fake, fake.sync(backoff=Noted()):
            await until("it waits longer and longer", lambda: waits[:3] == [2, 3, 4])

    async def test_after_some_codes_it_never_connects_again(self) -> None:
        for code in (4001, 4002):
            with self.subTest(code=code):

                async def script(connection: Connection, code: int = code) -> None:
                    await connection.accept(seq=1)
                    await connection.change(1)
                    await connection.receive()
                    await connection.close(code)

                state = MemoryState()
                async with Fake(script) as fake, fake.sync(since=0, state=state) as sync:
                    self.assertEqual(await take(sync, 1), [1])
                    operation = await sync.store("never acknowledged")
                    for waiting in (operation.ack, take(sync, 1), sync.flush(), sync.store("too late")):
                        with self.assertRaises(SyncClosed) as caught:
                            await waiting
                        self.assertEqual(caught.exception.code, code)
                    self.assertEqual(len(fake.connections), 1)
                    self.assertEqual(list(state.saved.operations), [operation.op_id])

    async def test_a_handshake_that_would_be_refused_again_ends_it(self) -> None:
        for error, code in (
            ("invalid-api-key", 1008),
            ("missing-api-key", 1008),
            ("invalid-request", 1008),
            ("tenant-suspended", 4002),
        ):
            with self.subTest(error=error):

                async def refused(connection: Connection, error: str = error, code: int = code) -> None:
                    await connection.refuse(error, code)

                async with Fake(refused) as fake, fake.sync() as sync:
                    with self.assertRaises(SyncClosed) as caught:
                        await sync.connected(10)
                    self.assertEqual(caught.exception.code, code)
                    self.assertIn(error, caught.exception.reason)
                    self.assertEqual(len(fake.connections), 1)

    async def test_a_handshake_that_is_refused_for_now_is_tried_again(self) -> None:
        for error, code in (
            ("request-timeout", 1013),
            ("unavailable", 1013),
            ("too-many-sockets", 4003),
            ("rate-limited", 1008),
            ("something-new", 1008),
        ):
            with self.subTest(error=error):

                async def refused(connection: Connection, error: str = error, code: int = code) -> None:
                    await connection.refuse(error, code)

                async with Fake(refused, refused, echo) as fake, fake.sync() as sync:
                    self.assertTrue((await (await sync.store("kept meanwhile")).ack).applied)
                    self.assertEqual(len(fake.connections), 3)

    async def test_other_codes_lead_to_another_connection(self) -> None:
        for code in (1000, 1008, 1011, 1013, 4003, 4008, 4009):
            with self.subTest(code=code):

                async def script(connection: Connection, code: int = code) -> None:
                    await connection.accept()
                    await connection.receive()
                    await connection.close(code)

                async with Fake(script, echo) as fake, fake.sync() as sync:
                    self.assertTrue((await (await sync.store("kept meanwhile")).ack).applied)
                    self.assertEqual(len(fake.connections), 2)

    async def test_a_wait_in_vain_tells_the_reason(self) -> None:
        async def busy(connection: Connection) -> None:
            await connection.refuse("too-many-sockets", 4003)

        async with Fake(busy) as fake, fake.sync() as sync:
            await until("it was refused", lambda: len(fake.connections) > 1)
            with self.assertRaises(asyncio.TimeoutError) as caught:
                await sync.connected(0.01)
            self.assertIn("too-many-sockets", str(caught.exception))


class Operations(unittest.IsolatedAsyncioTestCase):
    async def test_an_operation_is_acknowledged_or_refused(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept()
            await connection.ack(await connection.receive(), seq=4)
            await connection.ack(await connection.receive(), applied=False, reason="newer", seq=None)
            operation = await connection.receive()
            await connection.send({"type": "error", "op_id": operation["op_id"], "error": "not-found", "detail": "…"})
            await connection.stay()

        async with Fake(script) as fake, fake.sync() as sync:
            await sync.connected(10)
            stored = await sync.store("Ada prefers night flights", importance=0.8)
            self.assertEqual((await stored.ack).seq, 4)
            ack = await (await sync.update(stored.id, content="by day")).ack
            self.assertEqual((ack.applied, ack.reason), (False, "newer"))
            with self.assertRaises(Refused) as caught:
                await (await sync.remove(ID)).ack
            self.assertEqual(caught.exception.type, "not-found")
            self.assertEqual(sync.pending, 0)

    async def test_what_was_not_acknowledged_is_sent_again_with_the_same_op_id_in_order(self) -> None:
        sent: list[Frame] = []

        async def first(connection: Connection) -> None:
            await connection.accept()
            await connection.ack(await connection.receive())
            sent.extend([await connection.receive(), await connection.receive()])
            await connection.close(1013)

        again: list[Frame] = []

        async def second(connection: Connection) -> None:
            await connection.accept()
            for _ in range(2):
                again.append(await connection.receive())
                await connection.ack(again[-1], replayed=True)
            await connection.stay()

        async with Fake(first, second) as fake, fake.sync() as sync:
            await sync.connected(10)
            operations: list[Operation] = [await sync.store(f"content {n}") for n in range(3)]
            acks = [await one.ack for one in operations]
            self.assertEqual([ack.replayed for ack in acks], [False, True, True])
            self.assertEqual(again, sent)
            self.assertTrue(all("at" not in frame for frame in again))

    async def test_offline_operations_wait_with_their_time_and_id(self) -> None:
        received: list[Frame] = []

        fake = Fake(recording(received))
        await fake.start()
        await fake.stop()
        async with fake.sync() as sync:
            stored = await sync.store("written offline")
            await sync.update(stored.id, content="changed offline")
            await sync.remove(stored.id)
            self.assertEqual((sync.pending, sync.online), (3, False))
            async with fake:
                await sync.flush(10)
        self.assertEqual([one["op"] for one in received], ["store", "update", "remove"])
        self.assertEqual({one["id"] for one in received}, {stored.id})
        self.assertRegex(stored.id, r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
        times = [one["at"] for one in received]
        self.assertEqual(times, sorted(times))

    async def test_a_write_made_offline_is_not_older_than_a_change_that_was_seen(self) -> None:
        async def script(connection: Connection) -> None:
            await connection.accept(seq=1)
            await connection.send(change(1, at="2999-01-01T00:00:00.1234Z"))
            await connection.close(1013)

        async def away(connection: Connection) -> None:
            await connection.close(1013)

        state = MemoryState()
        async with Fake(script, away) as fake, fake.sync(since=0, state=state, drain=0) as sync:
            await take(sync, 1)
            await until("it is disconnected", lambda: not sync.online)
            operation = await sync.update(ID, content="after it")
            self.assertEqual(state.saved.operations[operation.op_id]["at"], "2999-01-01T00:00:00.124Z")

    async def test_a_transient_error_keeps_the_operation(self) -> None:
        async def first(connection: Connection) -> None:
            await connection.accept()
            operation = await connection.receive()
            await connection.send({"type": "error", "op_id": operation["op_id"], "error": "unavailable"})
            await connection.stay()

        async with Fake(first, echo) as fake, fake.sync() as sync:
            self.assertTrue((await (await sync.store("kept")).ack).applied)
            self.assertEqual(len(fake.connections), 2)

    async def test_the_queue_and_an_operation_are_bounded(self) -> None:
        async def away(connection: Connection) -> None:
            await connection.close(1013)

        async with Fake(away) as fake, fake.sync(max_queue=1, drain=0) as sync:
            with self.assertRaises(TooLarge):
                await sync.store("x" * 300_000)
            await sync.store("fits")
            with self.assertRaises(QueueFull):
                await sync.store("one too many")
            self.assertEqual(sync.pending, 1)

    async def test_leaving_waits_for_what_is_queued(self) -> None:
        async with Fake(echo) as fake:
            async with fake.sync() as sync:
                operation = await sync.store("stored and left")
            self.assertTrue(operation.ack.result().applied)


class Files(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "state"

    async def test_the_queue_outlives_the_process(self) -> None:
        received: list[Frame] = []

        fake = Fake(recording(received))
        await fake.start()
        await fake.stop()
        state = FileState(self.path)
        async with fake.sync(state=state, drain=0) as sync:
            made = [await sync.store(f"offline {n}\u2028") for n in range(3)]
        # As a crash leaves it: the last line cut off.
        with self.path.open("ab") as file:
            file.write(b'{"done": "')
        async with fake, fake.sync(state=FileState(self.path)) as sync:
            self.assertEqual(sync.pending, 3)
            await sync.flush(10)
        self.assertEqual([one["op_id"] for one in received], [one.op_id for one in made])
        self.assertEqual(received[0]["content"], "offline 0\u2028")
        self.assertEqual(FileState(self.path).load().operations, {})
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    async def test_the_file_does_not_grow_without_end(self) -> None:
        state = FileState(self.path)
        state.load()
        state.add({"op_id": "kept"})
        for seq in range(25_000):
            state.seen(seq)
        state.close()
        self.assertLess(self.path.read_bytes().count(b"\n"), 10_100)
        saved = FileState(self.path).load()
        self.assertEqual((saved.seq, list(saved.operations)), (24_999, ["kept"]))


if __name__ == "__main__":
    unittest.main()
