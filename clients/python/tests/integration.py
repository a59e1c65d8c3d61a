"""The client against a real gateway: `GATEWAY_URL` and `API_KEY` of a tenant with room for a second agent, without memories.

Whoever starts it is asked for faults: a line such as `! kill engine` on the standard output waits for a line on the
standard input that says that it is done. The last line is `passed`. `tests/data-plane/tests/data_plane/clients.rs` starts
it; `clients/typescript/test/integration.ts` does the same.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from stellar_memory import ApiError, Change, Client, FileState, Replica, Sync, SyncClosed

from .fake import until

URL = os.environ["GATEWAY_URL"]
PATIENCE = 60.0


async def ask(what: str) -> None:
    """Asks for a fault and waits until it is there."""
    print(f"! {what}", flush=True)
    if not await asyncio.to_thread(sys.stdin.readline):
        raise EOFError(f"nobody does this: {what}")


def same(got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"{got!r} is not {wanted!r}")


async def contents(client: Client) -> list[str]:
    """All contents, from an export."""
    return sorted([memory["content"] async for memory in client.export()])


async def rest(client: Client) -> None:
    stored = await client.store("Ada prefers night flights to Lisbon", importance=0.8, metadata={"seat": "window"})
    memory = await client.get(stored["id"])
    same((memory["content"], memory["metadata"]), ("Ada prefers night flights to Lisbon", {"seat": "window"}))
    same([one["id"] for one in await client.recall("flights to lisbon", limit=3)], [stored["id"]])
    await client.update(stored["id"], metadata={"seat": "aisle"})
    same((await client.get(stored["id"]))["metadata"], {"seat": "aisle"})
    first = await client.store("once", idempotency_key="the same")
    same((await client.store("once", idempotency_key="the same"))["id"], first["id"])

    stored_by_batch = await client.batch([{"op": "store", "content": f"batch {n}"} for n in range(3)])
    same([one.get("applied") for one in stored_by_batch], [True, True, True])
    ids = [str(one.get("id")) for one in stored_by_batch]
    changed = await client.batch(
        [{"op": "update", "id": ids[0], "content": "batch changed"}, {"op": "remove", "id": ids[1]}]
    )
    same([one.get("applied") for one in changed], [True, True])
    same(await client.forget(first["id"]), True)
    try:
        await client.get(first["id"])
        raise AssertionError("what is forgotten is there")
    except ApiError as error:
        same((error.status, error.type, bool(error.request_id)), (404, "not-found", True))

    wanted = ["Ada prefers night flights to Lisbon", "batch 2", "batch changed"]
    same(await contents(client), wanted)
    same(sorted(one["content"] for one in (await client.memories())["items"]), wanted)
    same(sorted(one["content"] for one in (await client.timeline(limit=10))["items"]), wanted)
    same((await client.stats())["total_memories"], 3)
    same("Lisbon" in (await client.narrate("flights"))["narrative"], True)
    same(len((await client.audit(limit=2))["items"]), 2)
    same((await client.usage())["memories"]["used"], 3)
    again = await client.import_memories([memory async for memory in client.export()])
    same((again["imported"], again["existing"]), (0, 3))


async def keys(client: Client) -> None:
    """A second agent's key is made, rotated, used for sync and revoked, which ends its sync for good."""
    made = await client.create_api_key("second")
    rotated = await client.rotate_api_key(made["id"])
    same({made["id"], rotated["id"]} <= {key["id"] for key in (await client.api_keys())["items"]}, True)
    same("second" in [one["agent"] for one in (await client.agents())["items"]], True)
    async with Client(URL, rotated["api_key"]) as second, second.sync() as sync:
        await sync.connected(PATIENCE)
        same((await (await sync.store("of the second agent")).ack).applied, True)
        await client.revoke_api_key(rotated["id"])
        try:
            await asyncio.wait_for(exhaust(sync), PATIENCE)
        except SyncClosed as closed:
            same(closed.code, 4001)


async def exhaust(sync: Sync) -> None:
    async for _ in sync:
        pass


class Follower:
    """A replica that follows, and the numbers of the changes that it was given."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seqs: list[int] = []

    async def run(self, ready: asyncio.Event) -> None:
        self.replica = await Replica.load(self.client)
        self.start = self.replica.seq
        async with self.client.sync(since=self.start, on_resync=self.replica.reload) as self.sync:
            ready.set()
            async for change in self.sync:
                self.take(change)

    def take(self, change: Change) -> None:
        self.seqs.append(change.seq)
        self.replica.apply(change)

    async def reaches(self, seq: int) -> None:
        await until(f"the follower is at {seq}", lambda: self.replica.seq >= seq, PATIENCE)
        same(self.seqs, list(range(self.start + 1, seq + 1)))


async def faults(client: Client, folder: Path) -> None:
    follower, ready = Follower(client), asyncio.Event()
    following = asyncio.create_task(follower.run(ready))
    await asyncio.wait_for(ready.wait(), PATIENCE)
    path = folder / "queue"

    async with client.sync(state=FileState(path)) as sync:
        await sync.connected(PATIENCE)
        stored = await (await sync.store("over one socket", metadata={"n": 1})).ack
        await follower.reaches(stored.seq or 0)
        same(follower.replica.memories[stored.id or ""]["content"], "over one socket")

        say("the engine is killed between operations and comes back")
        await ask("kill engine")
        operations = [await sync.store(f"engine {n}") for n in range(10)]
        await ask("start engine")
        acks = await asyncio.wait_for(asyncio.gather(*(one.ack for one in operations)), PATIENCE)
        same([ack.applied for ack in acks], [True] * 10)
        await follower.reaches(max(ack.seq or 0 for ack in acks))

        say("the gateway is killed: what is written meanwhile waits in a file")
        await ask("kill gateway")
        await until("it is offline", lambda: not sync.online, PATIENCE)
        made = [await sync.store(f"offline {n}") for n in range(20)]
        await sync.update(made[0].id, content="offline, changed")
        await sync.remove(made[1].id)
        # As if the process ended here: nothing is waited for.
        await sync.close()

    async with client.sync(state=FileState(path)) as sync:
        same(sync.pending, 22)
        await ask("start gateway")
        await sync.flush(PATIENCE)
    stored_offline = [text for text in await contents(client) if text.startswith("offline")]
    same(stored_offline, sorted(["offline, changed", *(f"offline {n}" for n in range(2, 20))]))
    seq = (await client.stats())["change_seq"]
    await follower.reaches(seq)

    say("a client that was away gets what it missed, once and in order")
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    last = follower.replica.seq
    await client.batch([{"op": "store", "content": f"missed {n}"} for n in range(50)])
    await client.forget(stored.id or "")
    async with client.sync(since=last) as sync:
        for seq in range(last + 1, last + 52):
            change = await asyncio.wait_for(sync.__anext__(), PATIENCE)
            same(change.seq, seq)
            follower.replica.apply(change)

    fresh = await Replica.load(client)
    same(essence(follower.replica), essence(fresh))
    same(follower.replica.seq, fresh.seq)


def essence(replica: Replica) -> dict[str, tuple[object, ...]]:
    """What does not change with time."""
    memories = replica.memories.items()
    return {id: (one["content"], one["metadata"], round(one["importance"], 4)) for id, one in memories}


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Client(URL, os.environ["API_KEY"]) as client:
            say("REST")
            await rest(client)
            say("keys")
            await keys(client)
            say("a socket hears of what another writes")
            await faults(client, Path(folder))
    print("passed", flush=True)


if __name__ == "__main__":
    # Nothing here waits for ever.
    asyncio.run(asyncio.wait_for(main(), 5 * PATIENCE))
