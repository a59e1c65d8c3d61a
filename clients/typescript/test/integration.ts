// The client against a real gateway, as `clients/python/tests/integration.py` does it: there is what it needs and asks for.

import "./fake.js";

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { FileState } from "../src/file-state.js";
import { ApiError, Client, Replica, SyncClosed, type Sync } from "../src/index.js";
import { WEB_SOCKET, until } from "./fake.js";

const PATIENCE = 60_000;
const { GATEWAY_URL: url = "", API_KEY: apiKey = "" } = process.env;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks for a fault and waits until it is there. */
async function ask(what: string): Promise<void> {
  console.log(`! ${what}`);
  if ((await answers.next()).done) throw new Error(`nobody does this: ${what}`);
}

const say = (what: string): void => console.error(what);
const connect = (key: string): Client => new Client(url, key, { webSocket: WEB_SOCKET });
const counted = <T>(count: number, make: (n: number) => T): T[] => Array.from({ length: count }, (_, n) => make(n));

/** All contents, from an export. */
async function contents(client: Client): Promise<string[]> {
  const found: string[] = [];
  for await (const { content } of client.export()) found.push(content);
  return found.sort();
}

async function rest(client: Client): Promise<void> {
  const text = "Ada prefers night flights to Lisbon";
  const stored = await client.store(text, { importance: 0.8, metadata: { seat: "window" } });
  const memory = await client.get(stored.id);
  assert.deepEqual([memory.content, memory.metadata], [text, { seat: "window" }]);
  assert.deepEqual((await client.recall("flights to lisbon", { limit: 3 })).map((one) => one.id), [stored.id]);
  await client.update(stored.id, { metadata: { seat: "aisle" } });
  assert.deepEqual((await client.get(stored.id)).metadata, { seat: "aisle" });
  const first = await client.store("once", {}, "the same");
  assert.equal((await client.store("once", {}, "the same")).id, first.id);

  const batch = await client.batch(counted(3, (n) => ({ op: "store", content: `batch ${n}` })));
  const ids = batch.map((one) => ("id" in one ? one.id : ""));
  const changed = await client.batch([
    { op: "update", id: ids[0] ?? "", content: "batch changed" },
    { op: "remove", id: ids[1] ?? "" },
  ]);
  assert.deepEqual([...batch, ...changed].map((one) => "applied" in one && one.applied), counted(5, () => true));
  assert.equal(await client.forget(first.id), true);
  const missing = (error: unknown): boolean =>
    error instanceof ApiError && error.status === 404 && error.type === "not-found" && error.requestId !== null;
  await assert.rejects(client.get(first.id), missing);

  const wanted = [text, "batch 2", "batch changed"];
  assert.deepEqual(await contents(client), wanted);
  assert.deepEqual((await client.memories()).items.map((one) => one.content).sort(), wanted);
  assert.deepEqual((await client.timeline({ limit: 10 })).items.map((one) => one.content).sort(), wanted);
  assert.equal((await client.stats()).total_memories, 3);
  assert.match((await client.narrate("flights")).narrative, /Lisbon/);
  assert.equal((await client.audit({ limit: 2 })).items.length, 2);
  assert.equal((await client.usage()).memories.used, 3);
  const exported = [];
  for await (const one of client.export()) exported.push(one);
  const again = await client.importMemories(exported);
  assert.deepEqual([again.imported, again.existing], [0, 3]);
}

/** A second agent's key is made, rotated, used for sync and revoked, which ends its sync for good. */
async function keys(client: Client): Promise<void> {
  const made = await client.createApiKey("second");
  const rotated = await client.rotateApiKey(made.id);
  const listed = (await client.apiKeys()).items.map((key) => key.id);
  assert.ok(listed.includes(made.id) && listed.includes(rotated.id));
  assert.ok((await client.agents()).items.some((one) => one.agent === "second"));
  const sync = connect(rotated.api_key).sync();
  await sync.connected(PATIENCE);
  assert.equal((await (await sync.store("of the second agent")).ack).applied, true);
  await client.revokeApiKey(rotated.id);
  await assert.rejects(async () => {
    for await (const _ of sync);
  }, (error) => error instanceof SyncClosed && error.code === 4001);
  await sync.close();
}

/** A replica that follows, and the numbers of the changes that it was given. */
class Follower {
  readonly seqs: number[] = [];
  private readonly start: number;

  constructor(
    readonly replica: Replica,
    private readonly sync: Sync,
  ) {
    this.start = replica.seq;
  }

  async run(): Promise<void> {
    for await (const change of this.sync) {
      this.seqs.push(change.seq);
      this.replica.apply(change);
    }
  }

  async reaches(seq: number): Promise<void> {
    await until(`the follower is at ${seq}`, () => this.replica.seq >= seq, PATIENCE);
    assert.deepEqual(this.seqs, counted(seq - this.start, (n) => this.start + n + 1));
  }
}

/** What does not change with time. */
function essence(replica: Replica): unknown {
  const memories = [...replica.memories.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  return memories.map(({ id, content, metadata, importance }) => [id, content, metadata, importance.toFixed(4)]);
}

async function faults(client: Client, folder: string): Promise<void> {
  const replica = await Replica.load(client);
  const followed = client.sync({ since: replica.seq, onResync: (seq) => replica.reload(seq) });
  const follower = new Follower(replica, followed);
  const following = follower.run();
  const path = join(folder, "queue");

  const before = client.sync({ state: new FileState(path), drain: 0 });
  await before.connected(PATIENCE);
  const stored = await (await before.store("over one socket", { metadata: { n: 1 } })).ack;
  await follower.reaches(stored.seq ?? 0);
  assert.equal(replica.memories.get(stored.id ?? "")?.content, "over one socket");

  say("the engine is killed between operations and comes back");
  await ask("kill engine");
  const operations = await Promise.all(counted(10, (n) => before.store(`engine ${n}`)));
  await ask("start engine");
  const acks = await Promise.all(operations.map((one) => one.ack));
  assert.ok(acks.every((ack) => ack.applied));
  await follower.reaches(Math.max(...acks.map((ack) => ack.seq ?? 0)));

  say("the gateway is killed: what is written meanwhile waits in a file");
  await ask("kill gateway");
  await until("it is offline", () => !before.online, PATIENCE);
  const made = await Promise.all(counted(20, (n) => before.store(`offline ${n}`)));
  await before.update(made[0]?.id ?? "", { content: "offline, changed" });
  await before.remove(made[1]?.id ?? "");
  // As if the process ended here: nothing is waited for.
  await before.close();

  const after = client.sync({ state: new FileState(path) });
  await ask("start gateway");
  await after.flush(PATIENCE);
  await after.close();
  const wanted = ["offline, changed", ...counted(18, (n) => `offline ${n + 2}`)].sort();
  assert.deepEqual((await contents(client)).filter((text) => text.startsWith("offline")), wanted);
  await follower.reaches((await client.stats()).change_seq);

  say("a client that was away gets what it missed, once and in order");
  await followed.close();
  await following;
  const last = replica.seq;
  await client.batch(counted(50, (n) => ({ op: "store", content: `missed ${n}` })));
  await client.forget(stored.id ?? "");
  const back = client.sync({ since: last });
  for (let seq = last + 1; seq <= last + 51; seq++) {
    const { value: change } = await back.next();
    assert.equal(change?.seq, seq);
    if (change !== undefined) replica.apply(change);
  }
  await back.close();

  const fresh = await Replica.load(client);
  assert.deepEqual(essence(replica), essence(fresh));
  assert.equal(replica.seq, fresh.seq);
}

const folder = mkdtempSync(join(tmpdir(), "stellar-memory-"));
// Nothing here waits for ever: what does not come in time ends the process.
const alarm = setTimeout(() => {
  say("this takes too long");
  process.exit(1);
}, 5 * PATIENCE);
try {
  const client = connect(apiKey);
  say("REST");
  await rest(client);
  say("keys");
  await keys(client);
  say("a socket hears of what another writes");
  await faults(client, folder);
  console.log("passed");
} finally {
  clearTimeout(alarm);
  rmSync(folder, { recursive: true });
  process.stdin.destroy();
}
