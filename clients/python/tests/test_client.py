"""REST: what is repeated, what is not, and what an error says."""

from __future__ import annotations

import json
import unittest
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import httpx
from stellar_memory import ApiError, Change, Client, InvalidValue, Replica, Unreachable

from .fake import ID, QUICK

Answer = httpx.Response | Exception


def problem(status: int, kind: str, **headers: str) -> httpx.Response:
    body = {"type": f"https://stellar-memory.dev/problems/{kind}", "title": "…", "status": status, "detail": "do this"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={**body, "used": 1000}, headers={"X-Request-Id": "r-1", **named})


HEAD = b'{"format": "stellar-memory", "version": 1, "change_seq": 2, "total": 2}\n'


def end(count: int) -> bytes:
    """The last line of an export."""
    return json.dumps({"end": True, "count": count, "change_seq": 2}).encode() + b"\n"


class Broken(httpx.AsyncByteStream):
    """A body that ends too early."""

    def __init__(self, *parts: bytes, whole: bool = False) -> None:
        self._parts = parts
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
        if not self._whole:
            raise httpx.RemoteProtocolError("the peer closed the connection")


class Rest(unittest.IsolatedAsyncioTestCase):
    def client(self, *answers: Answer | Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
        self.requests: list[httpx.Request] = []
        left = list(answers)

        async def answer(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            given = left.pop(0)
            if isinstance(given, Exception):
                raise given
            return given if isinstance(given, httpx.Response) else given(request)

        http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        self.addAsyncCleanup(http.aclose)
        return Client("http://memory.test/", "sk-stellar-test", backoff=QUICK, http=http, **options)

    async def test_a_store_is_repeated_under_the_same_key(self) -> None:
        stored = httpx.Response(201, json={"id": "m1", "zone": 2, "score": 0.4})
        client = self.client(
            httpx.ConnectError("refused"),
            httpx.ReadTimeout("no answer"),
            problem(503, "unavailable", Retry_After="0"),
            problem(429, "rate-limited", Retry_After="0"),
            stored,
        )
        self.assertEqual((await client.store("content", importance=0.8))["id"], "m1")
        self.assertEqual(len({request.headers["Idempotency-Key"] for request in self.requests}), 1)
        self.assertEqual({request.headers["X-API-Key"] for request in self.requests}, {"sk-stellar-test"})
        self.assertEqual(json.loads(self.requests[-1].content), {"content": "content", "importance": 0.8})
        self.assertEqual(len(self.requests), 5)

    async def test_making_a_key_is_not_repeated_when_nobody_knows_whether_it_was_made(self) -> None:
        for answer in (httpx.ReadTimeout("no answer"), problem(503, "unavailable", Retry_After="0")):
            client = self.client(answer)
            with self.assertRaises((Unreachable, ApiError)):
                await client.create_api_key("agent-2")
            self.assertEqual(len(self.requests), 1)
        made = httpx.Response(201, json={"id": "k1", "api_key": "sk-stellar-…"})
        client = self.client(httpx.ConnectError("refused"), problem(429, "rate-limited", Retry_After="0"), made)
        self.assertEqual((await client.create_api_key("agent-2"))["id"], "k1")

    async def test_an_error_says_what_to_do_and_which_request_it_was(self) -> None:
        client = self.client(problem(403, "memory-quota-reached"))
        with self.assertRaises(ApiError) as caught:
            await client.store("one too many")
        error = caught.exception
        self.assertEqual((error.status, error.type, error.detail), (403, "memory-quota-reached", "do this"))
        self.assertEqual((error.request_id, error.problem["used"]), ("r-1", 1000))

    async def test_an_error_of_something_in_between_is_one_too(self) -> None:
        client = self.client(httpx.Response(404, text="<html>no such site</html>"))
        with self.assertRaises(ApiError) as caught:
            await client.stats()
        self.assertEqual((caught.exception.status, caught.exception.type), (404, "about:blank"))

    async def test_it_gives_up_after_so_many_tries_and_does_not_wait_for_minutes(self) -> None:
        client = self.client(*[httpx.ConnectError("refused")] * 3, retries=2)
        with self.assertRaises(Unreachable) as caught:
            await client.stats()
        self.assertIsInstance(caught.exception.__cause__, httpx.ConnectError)
        client = self.client(problem(429, "rate-limited", Retry_After="3600"))
        with self.assertRaises(ApiError) as refused:
            await client.stats()
        self.assertEqual(refused.exception.retry_after, 3600)

    async def test_an_export_is_read_line_by_line_wherever_it_is_cut(self) -> None:
        text = json.dumps({"id": "m1", "content": "line\u2028of Unicode\x85, ü"}, ensure_ascii=False).encode()
        cut = text.index("ü".encode()) + 1
        body = Broken(HEAD + text[:cut], text[cut:] + b'\n{"id": "m2"', b"}\n" + end(2), whole=True)
        client = self.client(httpx.Response(200, stream=body))
        memories = [memory async for memory in client.export()]
        self.assertEqual([memory["id"] for memory in memories], ["m1", "m2"])
        self.assertEqual(memories[0]["content"], "line\u2028of Unicode\x85, ü")

    async def test_an_export_that_breaks_off_is_an_error(self) -> None:
        one = b'{"id": "m1"}\n'
        for body in (
            Broken(HEAD + one + b'{"id"'),
            Broken(HEAD + one, whole=True),
            Broken(HEAD + one + b'{"id"', whole=True),
            Broken(HEAD + one + end(2), whole=True),
        ):
            client = self.client(httpx.Response(200, stream=body))
            with self.assertRaises(Unreachable):
                _ = [memory async for memory in client.export()]

    async def test_what_is_no_id_reaches_no_path(self) -> None:
        client = self.client()
        calls: list[Callable[[Any], Awaitable[object]]] = [
            client.get,
            client.forget,
            client.revoke_api_key,
            client.rotate_api_key,
            lambda id: client.update(id, content="new"),
            lambda id: client.store("new", id=id),
            lambda id: client.batch([{"op": "remove", "id": id}]),
        ]
        for call in calls:
            for id in (f"../auth/api-keys/{ID}", "../stats", "..", "", "m1", f"{ID}?x=1", f"{ID}\n", ID[:-1], f"{{{ID}", 7):
                with self.assertRaises(InvalidValue) as caught:
                    await call(id)
                self.assertIn("must be a UUID", str(caught.exception))
        self.assertEqual(self.requests, [])

    async def test_an_id_in_any_spelling_is_sent_in_the_usual_one(self) -> None:
        spellings: list[Any] = [ID, ID.upper(), f"{{{ID}}}", f"urn:uuid:{ID}", ID.replace("-", ""), uuid.UUID(ID)]
        client = self.client(*[httpx.Response(200, json={"removed": True}) for _ in spellings])
        for id in spellings:
            self.assertTrue(await client.forget(id))
        self.assertEqual({request.url.path for request in self.requests}, {f"/api/v1/forget/{ID}"})

    async def test_what_json_cannot_say_reaches_no_body_and_no_query(self) -> None:
        client = self.client()
        nan, half = float("nan"), "cut \ud83d"
        calls: list[tuple[str, Awaitable[object]]] = [
            ("importance", client.store("x", importance=nan)),
            ("content", client.store(half)),
            ("metadata.n", client.update(ID, metadata={"n": 10**400})),
            ("q", client.recall(half)),
            ("limit", client.recall("x", limit=cast(int, nan))),
            ("cursor", client.memories(cursor=half)),
            ("topic", client.narrate(half)),
            ("agent", client.create_api_key(half)),
            ("expires_in_days", client.create_api_key("main", expires_in_days=cast(int, nan))),
            ("overlap_seconds", client.rotate_api_key(ID, overlap_seconds=cast(int, nan))),
            ("operations[1].importance", client.batch([{"op": "store"}, {"op": "store", "importance": nan}])),
            ("memories[1].metadata.n", client.import_memories([{}, {"metadata": {"n": nan}}])),
            ("idempotency_key", client.store("x", idempotency_key="ключ")),
        ]
        for place, call in calls:
            with self.assertRaises(InvalidValue) as caught:
                await call
            self.assertEqual(caught.exception.field, place)
        for name in ("api_key", "agent"):
            with self.assertRaises(InvalidValue) as caught:
                Client("http://memory.test", half if name == "api_key" else None).sync(agent=half)
            self.assertEqual(caught.exception.field, name)
        self.assertEqual(self.requests, [])

    async def test_times_and_ids_may_be_objects(self) -> None:
        page = httpx.Response(200, json={"items": []})
        client = self.client(httpx.Response(201, json={"id": ID}), httpx.Response(200, json={"results": []}), page)
        noon = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
        await client.store("x", id=uuid.UUID(ID), occurred_at=noon, at=noon)
        await client.batch([cast(Any, {"op": "remove", "id": uuid.UUID(ID), "at": noon})])
        await client.timeline(start=noon)
        sent = json.loads(self.requests[0].content)
        self.assertEqual((sent["id"], sent["occurred_at"], sent["at"]), (ID, "2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z"))
        self.assertEqual(json.loads(self.requests[1].content)["operations"][0]["id"], ID)
        self.assertEqual(self.requests[2].url.params["start"], "2026-03-01T10:00:00Z")

    async def test_a_replica_holds_what_the_changes_say(self) -> None:
        client = self.client(
            httpx.Response(200, json={"change_seq": 2}),
            httpx.Response(200, content=HEAD + b'{"id": "m1", "content": "a"}\n{"id": "m2", "content": "b"}\n' + end(2)),
        )
        replica = await Replica.load(client)

        def change(seq: int, op: str, id: str, content: str | None) -> Change:
            memory: Any = None if content is None else {"id": id, "content": content}
            return Change(seq, op, id, "main", "", memory)

        replica.apply(change(2, "store", "m4", "in the export already"))
        replica.apply(change(3, "remove", "m1", None))
        replica.apply(change(4, "store", "m3", "c"))
        replica.apply(change(5, "update", "m2", "new"))
        self.assertEqual({id: one["content"] for id, one in replica.memories.items()}, {"m2": "new", "m3": "c"})
        self.assertEqual(replica.seq, 5)
