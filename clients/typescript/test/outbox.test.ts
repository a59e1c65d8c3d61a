// An operation that cannot be read or sent is refused, and the others go on.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";

import { FileState } from "../src/file-state.js";
import { InvalidValue, MemoryState, Refused, type OperationFrame, type State, type Sync } from "../src/index.js";
import { ID, change, take, withFake, type Frame, type Script } from "./fake.js";

const UNNAMED: Frame = { type: "error", error: "invalid-request", detail: "the frame is not valid JSON" };

const echo: Script = async (connection) => {
  await connection.accept();
  await connection.acknowledgeAll();
};

const outcome = (ack: Promise<unknown>): Promise<unknown> => ack.then(() => "done", (error) => error);

describe("an error that names no operation", { timeout: 60_000 }, () => {
  it("refuses the one that cannot be read and no other", async () => {
    // What cannot be read is answered before what is carried out.
    const together: Script = async (connection) => {
      await connection.accept();
      const operations = [];
      while (operations.length < 5) {
        operations.push(await connection.receive());
        if (operations.at(-1)?.["content"].startsWith("poison")) connection.send(UNNAMED);
      }
      connection.ack(operations[0] ?? {});
    };
    const alone: Script = async (connection) => {
      await connection.accept();
      for (;;) {
        const operation = await connection.receive();
        if (operation["content"].startsWith("poison")) connection.send(UNNAMED);
        else connection.ack(operation);
      }
    };
    await withFake([together, alone], async (fake) => {
      const refused: Refused[] = [];
      const state = new MemoryState();
      const sync = fake.sync({ state, onRefused: (one) => refused.push(one) });
      const made = [];
      for (const content of ["a", "poison 1", "b", "poison 2", "c"]) made.push(await sync.store(content));
      const outcomes = await Promise.all(made.map((one) => outcome(one.ack)));
      assert.deepEqual(outcomes.map((one) => one instanceof Refused), [false, true, false, true, false]);
      assert.deepEqual(refused.map((one) => one.opId), [made[1]?.opId, made[3]?.opId]);
      assert.deepEqual(refused.map((one) => one.operation?.["content"]), ["poison 1", "poison 2"]);
      assert.deepEqual([sync.pending, state.load().operations.length], [0, 0]);
      assert.ok(fake.connections.length <= 3, "another one for each that could not be read, at most");
    });
  });

  it("is met one at a time, and afterwards they go together again", async () => {
    const first: Script = async (connection) => {
      await connection.accept();
      await connection.receive();
      connection.send(UNNAMED);
    };
    const second: Script = async (connection) => {
      await connection.accept();
      await connection.receive();
      connection.send(UNNAMED);
      const operations = [await connection.receive(), await connection.receive(), await connection.receive()];
      for (const operation of operations) connection.ack(operation);
    };
    await withFake([first, second], async (fake) => {
      const sync = fake.sync();
      assert.ok((await outcome((await sync.store("poison")).ack)) instanceof Refused);
      const made = await Promise.all([0, 1, 2].map((n) => sync.store(`${n}`)));
      assert.deepEqual(await Promise.all(made.map((one) => outcome(one.ack))), ["done", "done", "done"]);
      assert.equal(fake.connections.length, 2);
    });
  });

  it("is met one at a time also over connections that break", async () => {
    const contents: string[] = [];
    const first: Script = async (connection) => {
      await connection.accept();
      await connection.receive();
      await connection.receive();
      connection.send(UNNAMED);
    };
    const second: Script = async (connection) => {
      await connection.accept();
      contents.push((await connection.receive())["content"]);
      connection.close(1013);
    };
    const third: Script = async (connection) => {
      await connection.accept();
      const a = await connection.receive();
      // If the other had been sent too, the refusal could be meant for it.
      const other = connection.receive();
      const early = await Promise.race([other, new Promise((resolve) => setTimeout(resolve, 100, "nothing"))]);
      contents.push(a["content"], early as string);
      connection.ack(a);
      contents.push((await other)["content"]);
      connection.send(UNNAMED);
    };
    await withFake([first, second, third], async (fake) => {
      const sync = fake.sync();
      const [a, b] = [await sync.store("a"), await sync.store("b")];
      assert.equal((await a.ack).applied, true);
      await assert.rejects(b.ack, (error) => error instanceof Refused && error.opId === b.opId);
      assert.deepEqual(contents, ["a", "a", "nothing", "b"]);
    });
  });

  it("changes nothing when none is under way", async () => {
    const script: Script = async (connection) => {
      await connection.accept();
      for (const seq of [1, 2]) {
        connection.send(UNNAMED, change(seq));
        connection.ack(await connection.receive());
      }
    };
    await withFake([script], async (fake) => {
      const sync = fake.sync({ since: 0 });
      for (const seq of [1, 2]) {
        // The error came before this change, so it was read when the change is.
        assert.deepEqual(await take(sync, 1), [seq]);
        assert.equal((await (await sync.store("innocent")).ack).applied, true);
      }
      assert.equal(fake.connections.length, 1);
    });
  });
});

describe("a call", { timeout: 60_000 }, () => {
  it("with what cannot be sent queues nothing", async () => {
    const calls: [string, (sync: Sync) => Promise<unknown>][] = [
      ["importance", (sync) => sync.store("x", { importance: NaN })],
      ["metadata.score", (sync) => sync.store("x", { metadata: { score: NaN } })],
      ["importance", (sync) => sync.update(ID, { importance: Infinity })],
      ["content", (sync) => sync.store("title " + "\u{1f600}".slice(0, 1))],
      ["metadata.n", (sync) => sync.update(ID, { metadata: { n: 10n ** 400n } })],
      ["id", (sync) => sync.update("m1", { content: "x" })],
      ["id", (sync) => sync.remove("../stats")],
      ["at", (sync) => sync.remove(ID, { at: "\ud83d" })],
    ];
    const state = new MemoryState();
    await withFake([echo], async (fake) => {
      const sync = fake.sync({ state });
      for (const [field, call] of calls) {
        await assert.rejects(call(sync), (error) => error instanceof InvalidValue && error.field === field, field);
        assert.deepEqual([sync.pending, state.load().operations.length], [0, 0]);
      }
      assert.equal((await (await sync.store("good")).ack).applied, true);
    });
  });

  it("keeps what it queued as it was", async () => {
    const metadata = { n: 1 };
    const state = new MemoryState();
    await withFake([(connection) => connection.close(1013)], async (fake) => {
      await fake.sync({ state, drain: 0 }).store("x", { metadata });
      metadata.n = 2;
      const [queued] = state.load().operations;
      assert.deepEqual(queued?.["metadata"], { n: 1 });
      assert.equal(Object.keys(queued ?? {})[0], "op_id");
    });
  });
});

describe("a queue of an earlier version", { timeout: 60_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), "stellar-memory-"));
  process.on("exit", () => rmSync(folder, { recursive: true }));

  let deep: object = {};
  for (let level = 0; level < 130; level++) deep = { a: deep };
  const frames = [
    { op: "store", id: ID, content: "first" },
    { op: "store", id: ID, content: "cut \ud83d" },
    { op: "store", id: ID, content: "x", metadata: deep },
    { op: "store", id: ID, content: "x".repeat(300_000) },
    { op: "remove", id: "../stats" },
    { op: "store", id: ID, content: "last", at: "2026-13-01T00:00:00Z" },
    { op: "store", id: ID, content: "without a time", at: null },
  ].map((frame, n) => ({ ...frame, op_id: `op-${n}` }) as OperationFrame);
  const NOT_SENT = ["op-1", "op-2", "op-3", "op-4"];

  async function check(state: State, notSent: string[]): Promise<void> {
    const received: Frame[] = [];
    const refused: Refused[] = [];
    const script: Script = async (connection) => {
      await connection.accept();
      await connection.acknowledgeAll(received);
    };
    await withFake([script], async (fake) => {
      const sync = fake.sync({ state, onRefused: (one) => refused.push(one) });
      await sync.flush(10_000);
      assert.equal(fake.connections.length, 1);
    });
    assert.deepEqual(received.map((one) => one["content"]), ["first", "last", "without a time"]);
    assert.deepEqual(refused.map((one) => one.opId), notSent);
    assert.deepEqual(new Set(refused.map((one) => one.type)), new Set(["invalid-request"]));
    assert.equal(refused[0]?.operation?.["content"], "cut \ud83d");
    assert.deepEqual((await state.load()).operations, []);
  }

  it("in a file loses what cannot be sent, and the others go on", async () => {
    const path = join(folder, "queue");
    const others = ["5", "null", '{"add":7}', '{"add":null}', '{"add":{"op":"store"}}', '{"done":1}', '{"seen":"x"}'];
    writeFileSync(path, [...others, ...frames.map((add) => JSON.stringify({ add })), ""].join("\n"));
    await check(new FileState(path), NOT_SENT);
    assert.deepEqual(new FileState(path).load().operations, []);
  });

  it("in another state loses what cannot be sent, and the others go on", async () => {
    const state = new MemoryState();
    const kept = { op: "store", op_id: "op-7", id: ID, content: "x", importance: NaN } as OperationFrame;
    for (const frame of [...frames, kept]) state.add(frame);
    await check(state, [...NOT_SENT, "op-7"]);
  });

  it("is sent also when the hook fails", async (test) => {
    const told = test.mock.method(console, "error", () => undefined);
    const state = new MemoryState();
    for (const frame of frames) state.add(frame);
    await withFake([echo], async (fake) => {
      const onRefused = (): void => {
        throw new RangeError("a fault of the hook");
      };
      const sync = fake.sync({ state, onRefused });
      await sync.flush(10_000);
      assert.deepEqual([sync.pending, told.mock.callCount()], [0, NOT_SENT.length]);
    });
  });
});
