// Sync against a service that follows a script.

import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";

import { FileState } from "../src/file-state.js";
import { MemoryState, QueueFull, Refused, ResyncRequired, SyncClosed, TooLarge } from "../src/index.js";
import { Fake, ID, change, take, until, withFake, type Connection, type Frame, type Script } from "./fake.js";

const echo: Script = async (connection) => {
  await connection.accept();
  await connection.acknowledgeAll();
};

/** Accepts and tells the changes from where the client is up to `seq`. */
const upTo =
  (seq: number): Script =>
  async (connection) => {
    await connection.accept(seq);
    const since: number = connection.hello["since"];
    connection.change(...Array.from({ length: seq - since }, (_, n) => since + n + 1));
    await connection.acknowledgeAll();
  };

const away: Script = (connection) => connection.close(1013);

const since = (fake: Fake): unknown[] => fake.connections.map((one) => one.hello["since"]);

describe("changes", { timeout: 60_000 }, () => {
  it("go on after the last one when the connection broke", async () => {
    const first: Script = async (connection) => {
      await connection.accept(7);
      connection.change(6, 7);
      connection.close(1013);
    };
    await withFake([first, upTo(8)], async (fake) => {
      assert.deepEqual(await take(fake.sync({ since: 5 }), 3), [6, 7, 8]);
      assert.deepEqual(since(fake), [5, 7]);
      assert.equal(fake.connections[0]?.hello["api_key"], "sk-stellar-test");
    });
  });

  it("begin now without `since`, and go on from there", async () => {
    const first: Script = async (connection) => {
      await connection.accept(41);
      connection.close(4009);
    };
    await withFake([first, upTo(42)], async (fake) => {
      assert.deepEqual(await take(fake.sync(), 1), [42]);
      assert.deepEqual(since(fake), [undefined, 41]);
    });
  });

  it("are given once when they come twice", async () => {
    const script: Script = async (connection) => {
      await connection.accept(3);
      connection.change(1, 2, 2, 1, 3);
    };
    await withFake([script], async (fake) => assert.deepEqual(await take(fake.sync({ since: 0 }), 3), [1, 2, 3]));
  });

  it("are fetched where there is a gap", async () => {
    const first: Script = async (connection) => {
      await connection.accept(3);
      connection.change(1, 3);
    };
    await withFake([first, upTo(3)], async (fake) => {
      assert.deepEqual(await take(fake.sync({ since: 0 }), 3), [1, 2, 3]);
      assert.deepEqual(since(fake), [0, 1]);
    });
  });

  it("all reach a slow reader, and acks come meanwhile", async () => {
    await withFake([upTo(6)], async (fake) => {
      const sync = fake.sync({ since: 0, maxBuffer: 2 });
      await (await sync.store("while the buffer is full")).ack;
      assert.deepEqual(await take(sync, 6), [1, 2, 3, 4, 5, 6]);
      assert.deepEqual(since(fake), [0, 2, 4]);
    });
  });

  it("count as seen when the next one is asked for", async () => {
    const state = new MemoryState();
    await withFake([upTo(2)], async (fake) => {
      const sync = fake.sync({ since: 0, state });
      assert.deepEqual(await take(sync, 2), [1, 2]);
      await sync.close();
      assert.equal(state.load().seq, 1);
      assert.deepEqual(await take(fake.sync({ state }), 1), [2]);
    });
  });

  it("end a loop when sync is closed", async () => {
    await withFake([upTo(1)], async (fake) => {
      const sync = fake.sync({ since: 0 });
      const seen: number[] = [];
      for await (const { seq } of sync) {
        seen.push(seq);
        void sync.close();
      }
      assert.deepEqual(seen, [1]);
    });
  });
});

describe("a resync", { timeout: 60_000 }, () => {
  const script: Script = async (connection) => {
    await connection.accept(90);
    connection.send({ type: "resync", seq: 90 }, { type: "of a newer service" }, change(91));
  };

  it("calls the hook in its place, again if it failed", async () => {
    const told: number[] = [];
    const state = new MemoryState();
    await withFake([script], async (fake) => {
      const onResync = (seq: number): void => {
        if (told.push(seq) === 1) throw new RangeError("the export broke off");
      };
      const sync = fake.sync({ since: 1, state, onResync });
      await assert.rejects(take(sync, 1), RangeError);
      assert.deepEqual(await take(sync, 1), [91]);
      assert.deepEqual(told, [90, 90]);
      assert.equal(state.load().seq, 90);
    });
  });

  it("without a hook is an error, after which it goes on", async () => {
    await withFake([script], async (fake) => {
      const sync = fake.sync({ since: 1 });
      await assert.rejects(take(sync, 1), (error) => error instanceof ResyncRequired && error.seq === 90);
      assert.deepEqual(await take(sync, 1), [91]);
    });
  });
});

describe("a close code", { timeout: 60_000 }, () => {
  const closing =
    (code: number): Script =>
    async (connection) => {
      await connection.accept();
      connection.close(code);
    };

  it("1012 connects again at once", async () => {
    await withFake([closing(1012), echo], async (fake) => {
      const sync = fake.sync({ backoff: { delay: () => 3_600_000 } });
      await until("it is connected again", () => fake.connections.length === 2 && sync.online);
    });
  });

  it("1012 without end is not followed without end", async () => {
    const waits: number[] = [];
    await withFake([closing(1012)], async (fake) => {
      fake.sync({ backoff: { delay: (failures) => waits.push(failures) * 0 }, drain: 0 });
      await until("it waits longer and longer", () => waits.length >= 3);
      assert.deepEqual(waits.slice(0, 3), [2, 3, 4]);
    });
  });

  for (const code of [4001, 4002]) {
    it(`${code} ends sync for good`, async () => {
      const script: Script = async (connection) => {
        await connection.accept(1);
        connection.change(1);
        await connection.receive();
        connection.close(code);
      };
      const state = new MemoryState();
      await withFake([script], async (fake) => {
        const sync = fake.sync({ since: 0, state });
        assert.deepEqual(await take(sync, 1), [1]);
        const operation = await sync.store("never acknowledged");
        const closed = (error: unknown): boolean => error instanceof SyncClosed && error.code === code;
        await assert.rejects(operation.ack, closed);
        await assert.rejects(take(sync, 1), closed);
        await assert.rejects(sync.flush(), closed);
        await assert.rejects(sync.store("too late"), closed);
        assert.equal(fake.connections.length, 1);
        assert.deepEqual(state.load().operations.map((one) => one.op_id), [operation.opId]);
      });
    });
  }

  for (const code of [1000, 1008, 1011, 1013, 4003, 4008, 4009]) {
    it(`${code} leads to another connection`, async () => {
      const script: Script = async (connection) => {
        await connection.accept();
        await connection.receive();
        connection.close(code);
      };
      await withFake([script, echo], async (fake) => {
        assert.equal((await (await fake.sync().store("kept meanwhile")).ack).applied, true);
        assert.equal(fake.connections.length, 2);
      });
    });
  }
});

describe("a refused handshake", { timeout: 60_000 }, () => {
  for (const [error, code] of [
    ["invalid-api-key", 1008],
    ["missing-api-key", 1008],
    ["invalid-request", 1008],
    ["tenant-suspended", 4002],
  ] as const) {
    it(`with ${error} ends sync for good`, async () => {
      await withFake([(connection) => connection.refuse(error, code)], async (fake) => {
        const closed = (fault: unknown): boolean =>
          fault instanceof SyncClosed && fault.code === code && fault.reason.startsWith(error);
        await assert.rejects(fake.sync().connected(10_000), closed);
        assert.equal(fake.connections.length, 1);
      });
    });
  }

  for (const [error, code] of [
    ["request-timeout", 1013],
    ["unavailable", 1013],
    ["too-many-sockets", 4003],
    ["rate-limited", 1008],
    ["something-new", 1008],
  ] as const) {
    it(`with ${error} is tried again`, async () => {
      const refused: Script = (connection) => connection.refuse(error, code);
      await withFake([refused, refused, echo], async (fake) => {
        assert.equal((await (await fake.sync().store("kept meanwhile")).ack).applied, true);
        assert.equal(fake.connections.length, 3);
      });
    });
  }

  it("is the reason that a wait in vain tells", async () => {
    await withFake([(connection) => connection.refuse("too-many-sockets", 4003)], async (fake) => {
      const sync = fake.sync({ drain: 0 });
      await until("it was refused", () => fake.connections.length > 1);
      await assert.rejects(sync.connected(1), /too-many-sockets/);
    });
  });
});

describe("an operation", { timeout: 60_000 }, () => {
  it("is acknowledged or refused", async () => {
    const script: Script = async (connection) => {
      await connection.accept();
      connection.ack(await connection.receive(), { seq: 4 });
      connection.ack(await connection.receive(), { applied: false, reason: "newer", seq: null });
      const { op_id } = await connection.receive();
      connection.send({ type: "error", op_id, error: "not-found", detail: "…" });
    };
    await withFake([script], async (fake) => {
      const sync = fake.sync();
      await sync.connected(10_000);
      const stored = await sync.store("Ada prefers night flights", { importance: 0.8 });
      assert.equal((await stored.ack).seq, 4);
      const { applied, reason } = await (await sync.update(stored.id, { content: "by day" })).ack;
      assert.deepEqual({ applied, reason }, { applied: false, reason: "newer" });
      const removed = await sync.remove(ID);
      await assert.rejects(removed.ack, (error) => error instanceof Refused && error.type === "not-found");
      assert.equal(sync.pending, 0);
    });
  });

  it("that was not acknowledged is sent again with the same op_id, in order", async () => {
    const [sent, again]: [Frame[], Frame[]] = [[], []];
    const first: Script = async (connection) => {
      await connection.accept();
      connection.ack(await connection.receive());
      sent.push(await connection.receive(), await connection.receive());
      connection.close(1013);
    };
    const second: Script = async (connection) => {
      await connection.accept();
      for (const _ of sent) {
        const operation = await connection.receive();
        again.push(operation);
        connection.ack(operation, { replayed: true });
      }
    };
    await withFake([first, second], async (fake) => {
      const sync = fake.sync();
      await sync.connected(10_000);
      const operations = await Promise.all([0, 1, 2].map((n) => sync.store(`content ${n}`)));
      const acks = await Promise.all(operations.map((one) => one.ack));
      assert.deepEqual(acks.map((ack) => ack.replayed), [false, true, true]);
      assert.deepEqual(again, sent);
      assert.deepEqual(again.map((one) => [one["op_id"], one["at"]]), operations.slice(1).map((one) => [one.opId, undefined]));
    });
  });

  it("made offline waits, with its time and id", async () => {
    const received: Frame[] = [];
    const fake = new Fake(async (connection: Connection) => {
      await connection.accept();
      await connection.acknowledgeAll(received);
    });
    await fake.start();
    await fake.stop();
    const sync = fake.sync();
    const stored = await sync.store("written offline");
    await sync.update(stored.id, { content: "changed offline" });
    await sync.remove(stored.id);
    assert.deepEqual([sync.pending, sync.online], [3, false]);
    await fake.start();
    await sync.flush(10_000);
    await fake.end();
    assert.deepEqual(received.map((one) => [one["op"], one["id"]]), ["store", "update", "remove"].map((op) => [op, stored.id]));
    assert.match(stored.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    const times = received.map((one) => one["at"]);
    assert.deepEqual(times, [...times].sort());
    assert.match(times[0], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  });

  it("made offline is not older than a change that was seen", async () => {
    const script: Script = async (connection) => {
      await connection.accept(1);
      connection.send(change(1, { at: "2999-01-01T00:00:00.1234Z" }));
      connection.close(1013);
    };
    const state = new MemoryState();
    await withFake([script, away], async (fake) => {
      const sync = fake.sync({ since: 0, state, drain: 0 });
      await take(sync, 1);
      await until("it is disconnected", () => !sync.online);
      await sync.update(ID, { content: "after it" });
      assert.equal(state.load().operations[0]?.at, "2999-01-01T00:00:00.124Z");
    });
  });

  it("is kept after an error that may pass", async () => {
    const first: Script = async (connection) => {
      await connection.accept();
      const { op_id } = await connection.receive();
      connection.send({ type: "error", op_id, error: "unavailable" });
    };
    await withFake([first, echo], async (fake) => {
      assert.equal((await (await fake.sync().store("kept")).ack).applied, true);
      assert.equal(fake.connections.length, 2);
    });
  });

  it("that nobody answers is sent over another connection", async () => {
    const silent: Script = (connection) => connection.accept();
    await withFake([silent, echo], async (fake) => {
      const reasons: string[] = [];
      const sync = fake.sync({ answerTime: 200, onDisconnect: (reason) => reasons.push(reason) });
      assert.equal((await (await sync.store("unheard")).ack).applied, true);
      assert.match(reasons[0] ?? "", /no answer/);
    });
  });

  it("and the queue are bounded", async () => {
    await withFake([away], async (fake) => {
      const sync = fake.sync({ maxQueue: 1, drain: 0 });
      await assert.rejects(sync.store("x".repeat(300_000)), TooLarge);
      const made = await Promise.allSettled([sync.store("fits"), sync.store("one too many")]);
      assert.deepEqual(made.map((one) => one.status), ["fulfilled", "rejected"]);
      assert.ok(made[1]?.status === "rejected" && made[1].reason instanceof QueueFull);
      assert.equal(sync.pending, 1);
    });
  });

  it("is waited for by `close`", async () => {
    await withFake([echo], async (fake) => {
      const sync = fake.sync();
      const operation = await sync.store("stored and left");
      await sync.close();
      assert.equal((await operation.ack).applied, true);
    });
  });
});

describe("a file", { timeout: 60_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), "stellar-memory-"));
  process.on("exit", () => rmSync(folder, { recursive: true }));

  it("keeps the queue over the end of the process", async () => {
    const path = join(folder, "queue");
    const received: Frame[] = [];
    const fake = new Fake(async (connection: Connection) => {
      await connection.accept();
      await connection.acknowledgeAll(received);
    });
    await fake.start();
    await fake.stop();
    const before = fake.sync({ state: new FileState(path), drain: 0 });
    const made = [];
    for (const n of [0, 1, 2]) made.push(await before.store(`offline ${n}\u2028`));
    await before.close();
    // As a crash leaves it: the last line cut off.
    appendFileSync(path, '{"done": "');
    await fake.start();
    const after = fake.sync({ state: new FileState(path) });
    await after.flush(10_000);
    await fake.end();
    assert.deepEqual(received.map((one) => one["op_id"]), made.map((one) => one.opId));
    assert.equal(received[0]?.["content"], "offline 0\u2028");
    assert.deepEqual(new FileState(path).load().operations, []);
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });

  it("does not grow without end", () => {
    const path = join(folder, "growing");
    const state = new FileState(path);
    state.load();
    state.add({ op: "remove", op_id: "kept", id: "m1" });
    for (let seq = 0; seq < 25_000; seq++) state.seen(seq);
    state.close();
    assert.ok(readFileSync(path, "utf8").split("\n").length < 10_100);
    const saved = new FileState(path).load();
    assert.deepEqual([saved.seq, saved.operations.length], [24_999, 1]);
  });
});
