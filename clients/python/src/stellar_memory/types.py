"""What the API takes and answers. Written by `clients/generate.py` from the OpenAPI document; change that instead."""

from __future__ import annotations

import sys
from typing import Any, Literal, TypedDict

if sys.version_info >= (3, 11):
    from typing import NotRequired
else:
    from typing_extensions import NotRequired

__all__ = [
    "Agent",
    "AgentPage",
    "ApiKey",
    "ApiKeyPage",
    "AuditEntry",
    "AuditPage",
    "BatchOperation",
    "BatchRequest",
    "BatchResult",
    "BatchResults",
    "CreateApiKeyRequest",
    "Health",
    "ImportLineError",
    "ImportReport",
    "Memory",
    "MemoryPage",
    "NarrateRequest",
    "Narrative",
    "NewApiKey",
    "OperationName",
    "Problem",
    "Quota",
    "Reason",
    "Removed",
    "ReplacedApiKey",
    "RevokedApiKey",
    "RotateApiKeyRequest",
    "ServerSentEvent",
    "Stats",
    "StoreRequest",
    "Stored",
    "UpdateRequest",
    "UpdatedMemory",
    "Usage",
    "Used",
    "ZoneCount",
]


class Agent(TypedDict):
    """An agent that has live keys."""

    agent: str
    """Its name."""
    api_keys: int
    """How many live keys it has."""
    last_used_at: str | None
    """When one of them was used last, to about half a minute. Null: never."""


class AgentPage(TypedDict):
    """A page of a tenant's agents, by name."""

    agents: Used
    """Of all agents, how many there are and may be."""
    items: list[Agent]
    next_cursor: NotRequired[str]
    """Where the next page begins; absent on the last one."""


class ApiKey(TypedDict):
    """A key, without its text."""

    agent: str
    """Whose it is."""
    created_at: str
    expires_at: str | None
    """When it ends. Null: never by itself."""
    id: str
    """What names it."""
    last_used_at: str | None
    """When it was used last, to about half a minute. Null: never."""
    managed: bool
    """Made by the operator: its text is in a Secret, and deleting that Secret replaces it."""
    prefix: str
    """How its text begins."""


class ApiKeyPage(TypedDict):
    """A page of a tenant's live keys, oldest first."""

    items: list[ApiKey]
    next_cursor: NotRequired[str]
    """Where the next page begins; absent on the last one."""


class AuditEntry(TypedDict):
    """Something that was done."""

    agent: str | None
    """Who did it. Null: the platform."""
    at: str
    detail: NotRequired[dict[str, Any]]
    """More, as the kind of entry has it."""
    key_id: str | None
    """With which key. Null: with none."""
    memory_id: NotRequired[str]
    """To which memory."""
    what: str
    """What was done."""


class AuditPage(TypedDict):
    """A page of the audit."""

    items: list[AuditEntry]
    next_cursor: str | None
    """Where the next page begins; null on the last one."""


class BatchOperation(TypedDict):
    """
    `store` takes the members of a new memory; `update` needs `id` and takes `content`, `importance`, `metadata`;
    `remove` needs `id`. All take `at`.
    """

    at: NotRequired[str | None]
    """When it was written, RFC 3339; now by default, and never taken for later."""
    auto_evaluate: NotRequired[bool | None]
    content: NotRequired[str | None]
    emotion: NotRequired[str | None]
    id: NotRequired[str | None]
    importance: NotRequired[float | None]
    metadata: NotRequired[dict[str, Any] | None]
    occurred_at: NotRequired[str | None]
    op: OperationName
    op_id: NotRequired[str | None]
    """Sent again within 24 hours by the same agent it is answered as the first time."""
    session: NotRequired[str | None]
    source: NotRequired[str | None]
    speaker: NotRequired[str | None]


class BatchRequest(TypedDict):
    """Operations, carried out in order."""

    operations: list[BatchOperation]


class BatchResult(TypedDict):
    """What became of an operation: carried out or decided against, or else refused with a `problem`."""

    applied: NotRequired[bool]
    """Whether it was done."""
    id: NotRequired[str]
    """The memory."""
    op_id: str | None
    """As the client named it."""
    problem: NotRequired[Problem]
    reason: NotRequired[Reason | None]
    replayed: NotRequired[bool]
    """Whether this answers a repetition."""
    score: NotRequired[float | None]
    """Its score, likewise."""
    seq: NotRequired[int | None]
    """The number of the change. Null: nothing was changed."""
    status: int
    """As of a request with this operation alone; 200 also for what was decided against."""
    zone: NotRequired[int | None]
    """Its zone after this. Null: it is gone, or was left alone."""


class BatchResults(TypedDict):
    """One result for each operation, in order."""

    results: list[BatchResult]


class CreateApiKeyRequest(TypedDict):
    """A key to make."""

    agent: str
    """Whose it shall be."""
    expires_in_days: NotRequired[int | None]
    """When it shall end; never by itself when left out."""


class Health(TypedDict):
    """That the program runs, and which."""

    status: str
    version: str
    """The release."""


class ImportLineError(TypedDict):
    """What is wrong with one line."""

    line: int
    """Its number from 1; of JSON, the item's."""
    problem: Problem


class ImportReport(TypedDict):
    """What became of an import."""

    complete: bool
    """Whether the file was whole: with as many memories between its first and its last line as these say."""
    errors: list[ImportLineError]
    """Why, of the first 100."""
    existing: int
    """Memories that the tenant has already; they are as they were."""
    imported: int
    """Memories that are new."""
    refused: int
    """Lines, or items, that were not taken."""


class Memory(TypedDict):
    """A memory as it is now."""

    agent: str | None
    """Who stored it."""
    content: str
    created_at: str
    emotion: str | None
    id: str
    importance: float
    last_recalled_at: str | None
    metadata: dict[str, Any]
    occurred_at: str
    recall_count: int
    relevance: NotRequired[float]
    """
    How well it answers, from 0 to 1, rounded to 4 places as the score is, so that equal answers look equal. Only in
    answers of a recall.
    """
    score: float
    """Falls with time, rises with recalls and importance."""
    session: str | None
    source: str | None
    speaker: str | None
    written_at: str
    """The time of its last write, by which the next one wins or not."""
    written_by: str | None
    """The agent of its last write."""
    zone: int
    """From 0 (core) to 4 (cloud)."""


class MemoryPage(TypedDict):
    """A page of memories."""

    items: list[Memory]
    next_cursor: str | None
    """Where the next page begins; null at the end."""
    total: NotRequired[int]
    """How many there are in the whole list, where that is known."""


class NarrateRequest(TypedDict):
    """What to tell about."""

    limit: NotRequired[int | None]
    """The most memories that it is told from, 10 by default."""
    topic: str
    """In any words."""


class Narrative(TypedDict):
    """What is remembered about a topic."""

    memories: list[str]
    """The memories that it rests on."""
    model: str | None
    """The model that told it; null when it is composed of the memories themselves."""
    narrative: str
    """The text. By a model, `[n]` in it is the n-th of `memories`."""


class NewApiKey(TypedDict):
    """A key that was made."""

    agent: str
    """Whose it is."""
    api_key: str
    """Its text. This is the only time that it is shown."""
    expires_at: str | None
    """When it ends. Null: never by itself."""
    id: str
    """What names it."""
    prefix: str
    """How its text begins."""
    replaces: NotRequired[ReplacedApiKey]
    """After a rotation, the key that this one replaces."""


class Problem(TypedDict):
    """Why a request was refused (RFC 9457). Some kinds have further members."""

    detail: str
    """What happened this time, and what to do about it"""
    field: NotRequired[str]
    """The field or parameter that breaks a rule"""
    limit: NotRequired[int]
    """How many there may be"""
    next_tier: NotRequired[str]
    """The tier that would do"""
    status: int
    """The HTTP status"""
    title: str
    """The kind in words"""
    type: Literal["https://stellar-memory.dev/problems/invalid-request", "https://stellar-memory.dev/problems/missing-api-key", "https://stellar-memory.dev/problems/invalid-api-key", "https://stellar-memory.dev/problems/tenant-suspended", "https://stellar-memory.dev/problems/memory-quota-reached", "https://stellar-memory.dev/problems/index-limit-reached", "https://stellar-memory.dev/problems/key-quota-reached", "https://stellar-memory.dev/problems/origin-not-allowed", "https://stellar-memory.dev/problems/not-found", "https://stellar-memory.dev/problems/method-not-allowed", "https://stellar-memory.dev/problems/request-timeout", "https://stellar-memory.dev/problems/conflict", "https://stellar-memory.dev/problems/payload-too-large", "https://stellar-memory.dev/problems/unsupported-media-type", "https://stellar-memory.dev/problems/upgrade-required", "https://stellar-memory.dev/problems/rate-limited", "https://stellar-memory.dev/problems/too-many-sockets", "https://stellar-memory.dev/problems/internal", "https://stellar-memory.dev/problems/bad-gateway", "https://stellar-memory.dev/problems/unavailable", "https://stellar-memory.dev/problems/gateway-timeout"]
    """The kind; stable"""
    used: NotRequired[int]
    """How many there are"""
    what: NotRequired[Literal["agents", "api_keys"]]
    """What is used up"""


class Quota(TypedDict):
    """How many memories there are and may be."""

    limit: int
    """-1: no limit."""
    used: int


class Removed(TypedDict):
    """A memory that is gone."""

    removed: bool
    """True."""
    seq: int
    """The number of the change."""


class ReplacedApiKey(TypedDict):
    """A key that another one replaces."""

    expires_at: str
    """When it ends."""
    id: str


class RevokedApiKey(TypedDict):
    """What became of a key."""

    revoked: bool
    """True."""


class RotateApiKeyRequest(TypedDict):
    """How a key shall be replaced."""

    expires_in_days: NotRequired[int | None]
    """When the new key shall end; never by itself when left out."""
    overlap_seconds: NotRequired[int | None]
    """How long the old key opens on, in seconds. 0: not at all."""


class ServerSentEvent(TypedDict):
    """One event of a stream"""

    data: str
    """The frame, as JSON."""
    event: str
    """`change` or `resync`."""
    id: NotRequired[str | None]
    """The number of the change."""


class Stats(TypedDict):
    """How many memories there are, and where."""

    change_seq: int
    """The number of the last change. Changes are numbered 1, 2, 3, … without a gap."""
    quota: Quota
    total_memories: int
    """All of them."""
    zones: list[ZoneCount]
    """From the core outward."""


class StoreRequest(TypedDict):
    """A memory to store."""

    at: NotRequired[str | None]
    """When it was written, RFC 3339: what was written offline says so. Never taken for later than now."""
    auto_evaluate: NotRequired[bool | None]
    """Whether the engine shall estimate the importance when none is given."""
    content: str
    """The text to remember."""
    emotion: NotRequired[str | None]
    """A word for its feeling."""
    id: NotRequired[str | None]
    """An identity of the client's own, a UUID; one that the tenant does not have yet."""
    importance: NotRequired[float | None]
    """0 to 1; 0.5 by default."""
    metadata: NotRequired[dict[str, Any] | None]
    """
    Anything of the client's own, as an object: at most 16 KiB, 16 levels deep. A whole number of more than 64 bits is
    sent as a text.
    """
    occurred_at: NotRequired[str | None]
    """When it happened, RFC 3339; now by default."""
    session: NotRequired[str | None]
    """The conversation that it belongs to."""
    source: NotRequired[str | None]
    """Where it comes from."""
    speaker: NotRequired[str | None]
    """Who said it."""


class Stored(TypedDict):
    """A memory that was stored."""

    id: str
    """The new memory."""
    score: float
    seq: int
    """The number of the change."""
    zone: int
    """From 0 (core) to 4 (cloud)."""


class UpdateRequest(TypedDict):
    """What is to be changed of a memory: at least one of `content`, `importance`, `metadata`."""

    at: NotRequired[str | None]
    """When it was written, RFC 3339; now by default, and never taken for later."""
    content: NotRequired[str | None]
    """Another text."""
    importance: NotRequired[float | None]
    """0 to 1."""
    metadata: NotRequired[dict[str, Any] | None]
    """What stands in the place of all metadata there was."""


class UpdatedMemory(TypedDict):
    """A memory after it was written."""

    agent: str | None
    """Who stored it."""
    content: str
    created_at: str
    emotion: str | None
    id: str
    importance: float
    last_recalled_at: str | None
    metadata: dict[str, Any]
    occurred_at: str
    recall_count: int
    relevance: NotRequired[float]
    """
    How well it answers, from 0 to 1, rounded to 4 places as the score is, so that equal answers look equal. Only in
    answers of a recall.
    """
    score: float
    """Falls with time, rises with recalls and importance."""
    session: str | None
    source: str | None
    speaker: str | None
    written_at: str
    """The time of its last write, by which the next one wins or not."""
    written_by: str | None
    """The agent of its last write."""
    zone: int
    """From 0 (core) to 4 (cloud)."""
    seq: int
    """The number of the change."""


class Usage(TypedDict):
    """A tenant's tier, limits and use."""

    agents: Used
    """Agents with live keys."""
    api_keys: Used
    """Live keys."""
    max_sockets: int
    """Sync sockets open at one time; -1: no limit."""
    memories: Used
    """Memories stored."""
    requests_per_minute: int
    """Requests a minute, over all gateways."""
    socket_messages_per_second: int
    """Operations a second that one socket sends."""
    tenant: str
    """The tenant's id."""
    tier: str
    """Its tier."""


class Used(TypedDict):
    """How much of something is used."""

    limit: int
    """How many there may be; -1: no limit."""
    used: int
    """How many there are."""


class ZoneCount(TypedDict):
    """A zone, and how full it is."""

    capacity: int | None
    """How many places it has. Null: no limit."""
    count: int
    name: str
    zone: int


# What is to be done.
OperationName = Literal["store", "update", "remove"]


# Why an operation was decided against.
Reason = Literal["newer", "removed"]
