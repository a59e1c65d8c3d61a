"""REST: what is repeated, what is not, and what an error says."""

from __future__ import annotations

import json
import unittest
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from stellar_memory import ApiError, Change, Client, Replica, Unreachable

from .fake import QUICK

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
