// REST: what is repeated, what is not, and what an error says.

import assert from "node:assert/strict";
import { describe, it } from "node:test";

import {
  ApiError,
  Client,
  InvalidValue,
  Replica,
  Unreachable,
  type Change,
  type ClientOptions,
} from "../src/index.js";
import { ID, QUICK } from "./fake.js";

type Answer = Response | Error;

function problem(status: number, kind: string, headers: Record<string, string> = {}): Response {
  const body = { type: `https://stellar-memory.dev/problems/${kind}`, title: "…", status, detail: "do this", used: 1000 };
  return new Response(JSON.stringify(body), { status, headers: { "X-Request-Id": "r-1", ...headers } });
}

const json = (value: unknown, status = 200): Response => new Response(JSON.stringify(value), { status });
const refused = (): Error => new TypeError("fetch failed");

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

const HEAD = '{"format": "stellar-memory", "version": 1, "change_seq": 2, "total": 2}\n';
/** The last line of an export. */
const end = (count: number): string => `${JSON.stringify({ end: true, count, change_seq: 2 })}\n`;

/** A body in parts, which ends too early unless it is whole. */
function parts(bytes: Uint8Array[], whole: boolean): Response {
  const left = [...bytes];
  const stream = new ReadableStream<Uint8Array>({
    pull(controller) {
      const part = left.shift();
      if (part !== undefined) controller.enqueue(part);
      else if (whole) controller.close();
      else controller.error(new TypeError("terminated"));
    },
  });
  return new Response(stream);
}

function client(answers: Answer[], options: ClientOptions = {}): { client: Client; sent: Request[] } {
  const sent: Request[] = [];
  const left = [...answers];
  const fake = async (url: string | URL | Request, init?: RequestInit): Promise<Response> => {
    sent.push(new Request(url, init));
    const answer = left.shift();
    if (answer === undefined || answer instanceof Error) throw answer ?? new Error("no answer is left");
    return answer;
  };
  return { client: new Client("http://memory.test/", "sk-stellar-test", { backoff: QUICK, fetch: fake, ...options }), sent };
}

describe("REST", { timeout: 60_000 }, () => {
  it("repeats a store under the same key", async () => {
    const { client: one, sent } = client([
      refused(),
      problem(503, "unavailable", { "Retry-After": "0" }),
      problem(429, "rate-limited", { "Retry-After": "0" }),
      json({ id: "m1", zone: 2, score: 0.4 }, 201),
    ]);
    assert.equal((await one.store("content", { importance: 0.8 })).id, "m1");
    assert.equal(sent.length, 4);
    assert.equal(new Set(sent.map((request) => request.headers.get("Idempotency-Key"))).size, 1);
    assert.equal(sent[0]?.headers.get("X-API-Key"), "sk-stellar-test");
    assert.deepEqual(await sent.at(-1)?.json(), { content: "content", importance: 0.8 });
  });

  it("does not repeat the making of a key when nobody knows whether it was made", async () => {
    for (const answer of [refused(), problem(503, "unavailable", { "Retry-After": "0" })]) {
      const { client: one, sent } = client([answer]);
      await assert.rejects(one.createApiKey("agent-2"));
      assert.equal(sent.length, 1);
    }
    const { client: one } = client([problem(429, "rate-limited", { "Retry-After": "0" }), json({ id: "k1" }, 201)]);
    assert.equal((await one.createApiKey("agent-2")).id, "k1");
  });

  it("says in an error what to do and which request it was", async () => {
    const { client: one } = client([problem(403, "memory-quota-reached")]);
    await assert.rejects(one.store("one too many"), (error) => {
      assert.ok(error instanceof ApiError);
      assert.deepEqual([error.status, error.type, error.detail], [403, "memory-quota-reached", "do this"]);
      assert.deepEqual([error.requestId, error.problem["used"], error.name], ["r-1", 1000, "ApiError"]);
      return true;
    });
  });

  it("makes an error of what something in between answers", async () => {
    const { client: one } = client([new Response("<html>no such site</html>", { status: 404 })]);
    await assert.rejects(one.stats(), (error) => error instanceof ApiError && error.type === "about:blank");
  });

  it("gives up after so many tries and does not wait for minutes", async () => {
    const { client: one, sent } = client([refused(), refused(), refused()], { retries: 2 });
    await assert.rejects(one.stats(), (error) => error instanceof Unreachable && error.cause instanceof TypeError);
    assert.equal(sent.length, 3);
    const { client: other } = client([problem(429, "rate-limited", { "Retry-After": "3600" })]);
    await assert.rejects(other.stats(), (error) => error instanceof ApiError && error.retryAfter === 3_600_000);
  });

  it("gives up a request that gets no answer in time", async () => {
    const never: typeof fetch = (_, init) =>
      new Promise((_, reject) => init?.signal?.addEventListener("abort", () => reject(init.signal?.reason)));
    const { client: one } = client([], { fetch: never, timeout: 20, retries: 0 });
    await assert.rejects(one.stats(), /no answer in 20 ms/);
  });

  it("reads an export line by line wherever it is cut", async () => {
    const text = bytes(`${HEAD}${JSON.stringify({ id: "m1", content: "line\u2028of Unicode\x85, ü" })}\n`);
    const cut = text.indexOf(0xc3) + 1;
    const rest = [text.slice(cut), bytes('{"id": "m2"'), bytes(`}\n${end(2)}`)];
    const { client: one } = client([parts([text.slice(0, cut), ...rest], true)]);
    const memories = [];
    for await (const memory of one.export()) memories.push(memory);
    assert.deepEqual(memories, [{ id: "m1", content: "line\u2028of Unicode\x85, ü" }, { id: "m2" }]);
  });

  it("makes an error of an export that breaks off", async () => {
    const [memory, half] = ['{"id": "m1"}\n', '{"id"'];
    for (const [text, whole] of [
      [HEAD + memory + half, false],
      [HEAD + memory, true],
      [HEAD + memory + half, true],
      [HEAD + memory + end(2), true],
    ] as const) {
      const { client: one } = client([parts([bytes(text)], whole)]);
      await assert.rejects(async () => {
        for await (const _ of one.export());
      }, Unreachable);
    }
  });
});

describe("a call", () => {
  it("with what is no id reaches no path", async () => {
    const { client: one, sent } = client([]);
    const calls: ((id: string) => Promise<unknown>)[] = [
      (id) => one.get(id),
      (id) => one.forget(id),
      (id) => one.revokeApiKey(id),
      (id) => one.rotateApiKey(id),
      (id) => one.update(id, { content: "new" }),
      (id) => one.store("new", { id }),
      (id) => one.batch([{ op: "remove", id }]),
    ];
    const wrong = [`../auth/api-keys/${ID}`, "../stats", "..", "", "m1", `${ID}?x=1`, `${ID}\n`, ID.slice(1), `{${ID}`];
    for (const call of calls) {
      for (const id of [...wrong, 7 as unknown as string]) {
        await assert.rejects(call(id), (error) => error instanceof InvalidValue && /must be a UUID/.test(error.message));
      }
    }
    assert.equal(sent.length, 0);
  });

  it("with an id in any spelling sends the usual one", async () => {
    const spellings = [ID, ID.toUpperCase(), `{${ID}}`, `urn:uuid:${ID}`, ID.replaceAll("-", "")];
    const { client: one, sent } = client(spellings.map(() => json({ removed: true })));
    for (const id of spellings) assert.equal(await one.forget(id), true);
    assert.deepEqual(new Set(sent.map(({ url }) => url)), new Set([`http://memory.test/api/v1/forget/${ID}`]));
  });

  it("with what JSON cannot say reaches no body and no query", async () => {
    const { client: one, sent } = client([]);
    const half = "cut \ud83d";
    const calls: [string, () => Promise<unknown>][] = [
      ["importance", () => one.store("x", { importance: NaN })],
      ["content", () => one.store(half)],
      ["metadata.n", () => one.update(ID, { metadata: { n: 10n ** 400n } })],
      ["q", () => one.recall(half)],
      ["limit", () => one.recall("x", { limit: NaN })],
      ["cursor", () => one.memories({ cursor: half })],
      ["topic", () => one.narrate(half)],
      ["agent", () => one.createApiKey(half)],
      ["expires_in_days", () => one.createApiKey("main", NaN)],
      ["overlap_seconds", () => one.rotateApiKey(ID, { overlapSeconds: NaN })],
      ["operations[1].importance", () => one.batch([{ op: "store" }, { op: "store", importance: NaN }])],
      ["memories[1].metadata.n", () => one.importMemories([{}, { metadata: { n: NaN } }])],
      ["idempotencyKey", () => one.store("x", {}, "ключ")],
    ];
    for (const [field, call] of calls) {
      await assert.rejects(call(), (error) => error instanceof InvalidValue && error.field === field, field);
    }
    for (const [field, options] of [["agent", { agent: half }], ["since", { since: NaN }]] as const) {
      assert.throws(() => one.sync(options), (error) => error instanceof InvalidValue && error.field === field);
    }
    assert.equal(sent.length, 0);
  });
});

describe("a replica", () => {
  it("holds what the changes say", async () => {
    const lines = '{"id": "m1", "content": "a"}\n{"id": "m2", "content": "b"}\n';
    const { client: one } = client([json({ change_seq: 2 }), new Response(HEAD + lines + end(2))]);
    const replica = await Replica.load(one);
    const change = (seq: number, op: string, id: string, content?: string): Change =>
      ({ seq, op, id, at: "", ...(content === undefined ? {} : { memory: { id, content } }) }) as Change;
    replica.apply(change(2, "store", "m4", "in the export already"));
    replica.apply(change(3, "remove", "m1"));
    replica.apply(change(4, "store", "m3", "c"));
    replica.apply(change(5, "update", "m2", "new"));
    assert.deepEqual([...replica.memories.values()].map(({ id, content }) => [id, content]), [["m2", "new"], ["m3", "c"]]);
    assert.equal(replica.seq, 5);
  });
});
