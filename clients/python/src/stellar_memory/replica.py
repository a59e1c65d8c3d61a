"""A copy of all memories that follows the changes."""

from __future__ import annotations

from .client import Client
from .sync import Change
from .types import Memory


class Replica:
    """All memories by id. Scores and zones fall with time and are those of the last change.

    ```python
    replica = await Replica.load(client)
    async with client.sync(since=replica.seq, on_resync=replica.reload) as sync:
        async for change in sync:
            replica.apply(change)
    ```
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.memories: dict[str, Memory] = {}
        self.seq = 0
        """The last change that is in it."""

    @classmethod
    async def load(cls, client: Client) -> Replica:
        """A replica of what there is now."""
        replica = cls(client)
        # The number first: what changes while the memories are read, follows as a change.
        await replica.reload((await client.stats())["change_seq"])
        return replica

    async def reload(self, seq: int) -> None:
        """Reads everything anew; `seq` is the last change that is certainly in it. A `Sync` calls it as `on_resync`."""
        self.memories = {memory["id"]: memory async for memory in self._client.export()}
        self.seq = seq

    def apply(self, change: Change) -> None:
        """Takes a change in. One that is in already changes nothing."""
        if change.seq <= self.seq:
            return
        self.seq = change.seq
        if change.memory is None:
            self.memories.pop(change.id, None)
        else:
            self.memories[change.id] = change.memory
