"""REST. A request is repeated only where repeating is safe: see `Repeat`."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import httpx

from . import outgoing
from .backoff import Backoff
from .errors import ApiError, Refused, StellarError, Unreachable
from .fields import Id, StoreFields, Time, UpdateFields
from .ids import uuid7
from .state import MemoryState, State
from .sync import Sync
from .types import (
    AgentPage,
    ApiKeyPage,
    AuditPage,
    BatchOperation,
    BatchResult,
    ImportReport,
    Memory,
    MemoryPage,
    Narrative,
    NewApiKey,
    Stats,
    Stored,
    UpdatedMemory,
    Usage,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

LONGEST_WAIT = 60.0
"""Seconds. A longer `Retry-After` is the caller's to wait for."""

JsonObject = dict[str, Any]


class Repeat(enum.Enum):
    """Whether a request may be sent again when nobody knows whether the first one took effect."""

    ALWAYS = enum.auto()
    """It reads, or its effect is the same twice."""
    WITH_KEY = enum.auto()
    """It has an `Idempotency-Key`: the second one is answered as the first."""
    NEVER = enum.auto()
    """Only when it was certainly not carried out."""


class Client:
    """A client with one API key. Use it as an async context manager, or call `close`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: Backoff | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """`base_url` as `https://memory.example.com`; `timeout` in seconds; `http` to bring proxies or certificates."""
        self._base = base_url.rstrip("/") + "/api/v1"
        self._api_key = api_key
        self._retries = retries
        self._backoff = backoff or Backoff()
        self._http = http or httpx.AsyncClient(timeout=timeout)
        self._headers = {"X-API-Key": api_key} if api_key else {}

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    # Memories

    async def store(
        self, content: str, *, idempotency_key: str | None = None, **fields: Unpack[StoreFields]
    ) -> Stored:
        """Stores a memory."""
        body = {"content": content, **fields}
        return cast(Stored, await self._json("POST", "/store", Repeat.WITH_KEY, body=body, key=idempotency_key))

    async def recall(self, q: str, *, limit: int | None = None, emotion: str | None = None) -> list[Memory]:
        """The memories that answer a question, the most relevant first."""
        query = {"q": q, "limit": limit, "emotion": emotion}
        return cast(list[Memory], await self._json("GET", "/recall", Repeat.ALWAYS, query))

    async def get(self, id: Id) -> Memory:
        """One memory."""
        return cast(Memory, await self._json("GET", memory_path(id), Repeat.ALWAYS))

    async def update(
        self, id: Id, *, idempotency_key: str | None = None, **fields: Unpack[UpdateFields]
    ) -> UpdatedMemory:
        """Changes the fields that are named. Where a later write stands against it: an `ApiError`, `conflict`."""
        path = memory_path(id)
        return cast(UpdatedMemory, await self._json("PATCH", path, Repeat.WITH_KEY, body=fields, key=idempotency_key))

    async def forget(self, id: Id, *, idempotency_key: str | None = None) -> bool:
        """Removes a memory. An unknown id is an `ApiError` of the type `not-found`."""
        path = f"/forget/{outgoing.segment('id', id)}"
        answer = await self._json("DELETE", path, Repeat.WITH_KEY, key=idempotency_key)
        return bool(answer["removed"])

    async def memories(
        self, *, zone: int | None = None, limit: int | None = None, cursor: str | None = None
    ) -> MemoryPage:
        """A page of the memories by falling score."""
        query = {"zone": zone, "limit": limit, "cursor": cursor}
        return cast(MemoryPage, await self._json("GET", "/memories", Repeat.ALWAYS, query))

    async def timeline(
        self, *, start: Time | None = None, end: Time | None = None, limit: int | None = None, cursor: str | None = None
    ) -> MemoryPage:
        """A page of the memories in the order in which they happened."""
        query = {"start": start, "end": end, "limit": limit, "cursor": cursor}
        return cast(MemoryPage, await self._json("GET", "/timeline", Repeat.ALWAYS, query))

    async def narrate(self, topic: str, *, limit: int | None = None) -> Narrative:
        """What the memories tell about a topic."""
        return cast(Narrative, await self._json("POST", "/narrate", Repeat.ALWAYS, body=given(topic=topic, limit=limit)))

    async def stats(self) -> Stats:
        """Counts by zone, the quota, the number of the last change."""
        return cast(Stats, await self._json("GET", "/stats", Repeat.ALWAYS))

    async def batch(
        self, operations: Iterable[BatchOperation], *, idempotency_key: str | None = None
    ) -> list[BatchResult]:
        """Up to 1,000 operations at once, as sync sends them; one result for each, in order."""
        body = {"operations": [outgoing.fields(one, f"operations[{n}].") for n, one in enumerate(operations)]}
        answer = await self._json("POST", "/batch", Repeat.WITH_KEY, body=body, key=idempotency_key)
        return cast(list[BatchResult], answer["results"])

    async def export(self) -> AsyncIterator[Memory]:
        """All memories, one after the other. One that is not whole ends with an `Unreachable`."""
        count, whole = 0, False
        async for line in self._export_lines():
            if "id" in line:
                count += 1
                yield cast(Memory, line)
            elif line.get("end"):
                whole = line.get("count") == count
        if not whole:
            raise Unreachable("the export is not whole: read it again")

    async def _export_lines(self) -> AsyncIterator[JsonObject]:
        """The lines: the first tells the format, the last how many memories came before it."""
        request = self._http.build_request("GET", self._base + "/export", headers=self._headers)
        response = await self._answer(request, Repeat.ALWAYS, stream=True)
        try:
            # Not httpx's lines: they end also at line ends of Unicode, which may stand in a text.
            rest = b""
            async with aclosing(response):
                async for part in response.aiter_bytes():
                    *lines, rest = (rest + part).split(b"\n")
                    for line in filter(None, lines):
                        yield json.loads(line)
        except httpx.TransportError as error:
            raise Unreachable("the export broke off") from error

    async def import_memories(self, memories: Iterable[Mapping[str, Any]]) -> ImportReport:
        """Stores what an export gave; what is there already stays as it is. The answer counts both."""
        plain = (outgoing.plain(f"memories[{n}]", memory) for n, memory in enumerate(memories))
        lines = b"".join(json.dumps(memory).encode() + b"\n" for memory in plain)
        headers = self._headers | {"Content-Type": "application/x-ndjson", "Idempotency-Key": uuid7()}
        request = self._http.build_request("POST", self._base + "/import", headers=headers, content=lines)
        return cast(ImportReport, (await self._answer(request, Repeat.WITH_KEY)).json())

    # Who did what, and with which key

    async def audit(self, *, limit: int | None = None, cursor: str | None = None) -> AuditPage:
        """A page of who did what, the newest first."""
        return cast(AuditPage, await self._json("GET", "/audit", Repeat.ALWAYS, {"limit": limit, "cursor": cursor}))

    async def usage(self) -> Usage:
        """Tier, limits and what is used of them."""
        return cast(Usage, await self._json("GET", "/auth/usage", Repeat.ALWAYS))

    async def agents(self, *, limit: int | None = None, cursor: str | None = None) -> AgentPage:
        """A page of the tenant's agents."""
        query = {"limit": limit, "cursor": cursor}
        return cast(AgentPage, await self._json("GET", "/auth/agents", Repeat.ALWAYS, query))

    async def api_keys(self, *, limit: int | None = None, cursor: str | None = None) -> ApiKeyPage:
        """A page of the API keys, without their texts."""
        query = {"limit": limit, "cursor": cursor}
        return cast(ApiKeyPage, await self._json("GET", "/auth/api-keys", Repeat.ALWAYS, query))

    async def create_api_key(self, agent: str, *, expires_in_days: int | None = None) -> NewApiKey:
        """Makes a key. Its text is in this answer and nowhere else."""
        body = given(agent=agent, expires_in_days=expires_in_days)
        return cast(NewApiKey, await self._json("POST", "/auth/api-keys", Repeat.NEVER, body=body))

    async def rotate_api_key(
        self, id: Id, *, overlap_seconds: int | None = None, expires_in_days: int | None = None
    ) -> NewApiKey:
        """Makes a key in the place of another, which opens for `overlap_seconds` more."""
        body = given(overlap_seconds=overlap_seconds, expires_in_days=expires_in_days)
        return cast(NewApiKey, await self._json("POST", f"{key_path(id)}/rotate", Repeat.NEVER, body=body))

    async def revoke_api_key(self, id: Id) -> None:
        """Ends a key."""
        await self._json("DELETE", key_path(id), Repeat.ALWAYS)

    # Sync

    def sync(
        self,
        *,
        since: int | None = None,
        state: State | None = None,
        agent: str | None = None,
        on_resync: Callable[[int], Awaitable[None]] | None = None,
        on_refused: Callable[[Refused], None] | None = None,
        **limits: Any,
    ) -> Sync:
        """Follows the changes and makes some; see `Sync`. `since` goes before what the state holds."""
        url = "ws" + self._base.removeprefix("http") + "/sync"
        return Sync(
            url,
            self._api_key,
            since=since,
            state=state or MemoryState(),
            agent=agent,
            on_resync=on_resync,
            on_refused=on_refused,
            **limits,
        )

    async def _json(
        self,
        method: str,
        path: str,
        repeat: Repeat,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Any:
        headers = self._headers
        if repeat is Repeat.WITH_KEY:
            headers = headers | {"Idempotency-Key": outgoing.idempotency_key(uuid7() if key is None else key)}
        query = outgoing.fields(given(**(query or {})))
        body = None if body is None else outgoing.fields(body)
        request = self._http.build_request(method, self._base + path, params=query, json=body, headers=headers)
        return (await self._answer(request, repeat)).json()

    async def _answer(self, request: httpx.Request, repeat: Repeat, stream: bool = False) -> httpx.Response:
        """The answer, if it is none of an error, after as many tries as it takes and may take."""
        failures = 0
        while True:
            error: StellarError
            try:
                response = await self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                await response.aread()
                error = api_error(response)
                again = response.status_code == 429 or (
                    repeat is not Repeat.NEVER and response.status_code in (502, 503, 504)
                )
                wait = error.retry_after
            except httpx.TransportError as cause:
                unsent = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                error = Unreachable(f"{request.method} {request.url.path}: {cause!r}")
                error.__cause__ = cause
                again, wait = unsent or repeat is not Repeat.NEVER, None
            failures += 1
            if not again or failures > self._retries or (wait or 0.0) > LONGEST_WAIT:
                raise error
            await asyncio.sleep(self._backoff.delay(failures) if wait is None else wait)


def memory_path(id: Id) -> str:
    """Where a memory is."""
    return f"/memories/{outgoing.segment('id', id)}"


def key_path(id: Id) -> str:
    """Where an API key is."""
    return f"/auth/api-keys/{outgoing.segment('id', id)}"


def given(**fields: Any) -> JsonObject:
    """Those that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def api_error(response: httpx.Response) -> ApiError:
    """The error that an answer tells."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        # Of something between here and the service, which does not speak as it does.
        problem = {"detail": response.text[:200]}
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isdecimal() else None
    return ApiError(response.status_code, problem, response.headers.get("X-Request-Id"), seconds)
