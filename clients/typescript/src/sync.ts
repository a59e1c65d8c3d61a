// Sync: follows a tenant's changes and makes some, over connections that come and go.
//
// Always holds: a change is given once and in order, or an error says that some are missing; an operation is in the
// state before `store`, `update` or `remove` is done and leaves it only when it is decided (see `Outbox`), and it is sent
// again with the same `op_id`, which the service carries out once.

import { ExponentialBackoff, sleep, type Backoff } from "./backoff.js";
import { ResyncRequired, SyncClosed, TimedOut, type Refused } from "./errors.js";
import { Clock, uuid7 } from "./ids.js";
import { Outbox, type Operation } from "./outbox.js";
import * as outgoing from "./outgoing.js";
import { MemoryState, type OperationFrame, type State } from "./state.js";
import type { Memory, UpdateRequest, StoreRequest } from "./types.js";

/** Milliseconds. The service itself waits 10 s for its memory store, and then says so. */
const HANDSHAKE_TIME = 15_000;
/** Milliseconds. A connection that lasted so long was not a failure. */
const STEADY_TIME = 10_000;

/** Close codes after which connecting again would end the same way. */
const FOR_GOOD = new Set([1002, 1003, 1007, 1009, 4001, 4002]);
const NO_HANDSHAKE = 1008;
/** Why a handshake is refused with 1008, where the next one would be too. */
const REFUSED_FOR_GOOD = new Set(["invalid-api-key", "missing-api-key", "invalid-request"]);
/** What a WebSocket tells in the place of a code that did not come. */
const NO_CODE = new Set([1005, 1006]);
const AT_ONCE = 1012;
/** Errors of an operation that another try later may not meet. */
const MAY_PASS = new Set([
  "unavailable",
  "rate-limited",
  "too-many-sockets",
  "request-timeout",
  "gateway-timeout",
  "bad-gateway",
  "not-served-here",
]);

/** What is needed of a WebSocket: the standard one, or that of the package `ws`. */
export interface WebSocketLike {
  send(text: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: any) => void): void;
}
export type WebSocketConstructor = new (url: string) => WebSocketLike;

/** One entry of the tenant's log. */
export interface Change {
  seq: number;
  op: "store" | "update" | "move" | "remove";
  id: string;
  agent?: string | null;
  at: string;
  /** As it is now, which may be newer than the change; undefined when it is gone. */
  memory?: Memory;
}

export interface SyncOptions {
  /** The last change that was seen; it goes before what the state holds. */
  since?: number;
  state?: State;
  agent?: string;
  /** Called when the log no longer reaches back, in the place of the changes that are missing. */
  onResync?: (seq: number) => void | Promise<void>;
  /** Called for each operation that is refused, also for one that an earlier process queued. */
  onRefused?: (refused: Refused) => void;
  /** Operations that may wait; 10,000 by default. */
  maxQueue?: number;
  /** Changes that are kept for a slow reader; 10,000 by default. */
  maxBuffer?: number;
  /** Called when a connection ends or cannot be made, which sync goes on after by itself. */
  onDisconnect?: (reason: string) => void;
  backoff?: Backoff;
  /** Milliseconds that `close` waits for what is queued; 5,000 by default. */
  drain?: number;
  /** Milliseconds without an answer to an operation after which the connection is taken for dead; 75,000 by default. */
  answerTime?: number;
  webSocket?: WebSocketConstructor;
}

interface End {
  code: number | undefined;
  reason: string;
  /** Connecting again would end the same way. */
  final?: boolean;
}

interface Refusal {
  error: string;
  detail: string;
}

/**
 * Made by `Client.sync`; it begins at once. An async iterable of changes, for one reader.
 *
 * A change counts as seen when the next one is asked for. `close` waits for what is queued; what is not acknowledged
 * then stays in the state.
 */
export class Sync implements AsyncIterableIterator<Change, undefined> {
  private readonly state: State;
  private readonly backoff: Backoff;
  private readonly clock = new Clock();
  private readonly outbox: Outbox;
  private readonly buffer: ({ change: Change } | { resync: number })[] = [];
  private readonly stop = new AbortController();
  private waiters: (() => void)[] = [];
  private last: number | undefined;
  private given: number | undefined;
  private passedOver = false;
  private reattach = false;
  private progress = false;
  private isOnline = false;
  private disconnect: ((end: End) => void) | undefined;
  private heard = 0;
  private trouble = "none yet";
  private ended: SyncClosed | undefined;

  private readonly hello: Record<string, unknown>;

  constructor(
    private readonly url: string,
    apiKey: string | undefined,
    private readonly options: SyncOptions = {},
  ) {
    const { since, agent, maxQueue, onRefused } = options;
    this.hello = outgoing.fields({ apiKey, agent });
    this.last = outgoing.fields({ since })["since"];
    this.state = options.state ?? new MemoryState();
    this.backoff = options.backoff ?? new ExponentialBackoff();
    this.outbox = new Outbox(this.state, this.clock, maxQueue ?? 10_000, onRefused);
    const loaded = this.outbox.save(() => this.load());
    // A state that cannot be read, an address that is none.
    loaded.then(() => this.run()).catch((error) => this.end(new SyncClosed(1011, `sync cannot run: ${error}`)));
  }

  /** Whether the service has accepted the connection. */
  get online(): boolean {
    return this.isOnline;
  }

  /** Operations that the service has not decided. */
  get pending(): number {
    return this.outbox.size;
  }

  /** Waits until `online`; at most so many milliseconds. */
  async connected(timeout?: number): Promise<void> {
    await this.until(() => this.isOnline, timeout);
  }

  /** Waits until nothing is `pending`; at most so many milliseconds. */
  async flush(timeout?: number): Promise<void> {
    await this.outbox.saved();
    await this.until(() => this.pending === 0, timeout);
  }

  /** Stores a memory. */
  store(content: string, { id, ...fields }: Omit<StoreRequest, "content"> = {}): Promise<Operation> {
    return this.make({ op: "store", id: id ?? uuid7(), content, ...fields });
  }

  /** Changes the fields that are named. */
  update(id: string, fields: UpdateRequest): Promise<Operation> {
    return this.make({ op: "update", id, ...fields });
  }

  /** Removes a memory. */
  remove(id: string, fields: Pick<UpdateRequest, "at"> = {}): Promise<Operation> {
    return this.make({ op: "remove", id, ...fields });
  }

  /** Ends it, after a wait for what is queued. */
  async close(): Promise<void> {
    // What is still queued then is in the state, as `pending` tells.
    if (this.ended === undefined) await this.flush(this.options.drain ?? 5_000).catch(() => undefined);
    if (this.ended === undefined) this.end(new SyncClosed(1000, "closed by this client"));
    await this.outbox.save(() => this.state.close());
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Change, undefined>> {
    const { given } = this;
    if (given !== undefined) {
      await this.outbox.save(() => this.state.seen(given));
      this.given = undefined;
    }
    for (;;) {
      const item = this.buffer[0];
      if (item === undefined) {
        if (this.ended?.code === 1000) return { done: true, value: undefined };
        if (this.ended !== undefined) throw this.ended;
        if (this.passedOver) {
          // There is room again: a new connection brings what there was no room for.
          this.passedOver = false;
          this.reattach = this.disconnect !== undefined;
          this.disconnect?.({ code: undefined, reason: "there is room again" });
        }
        await this.moved();
      } else if ("change" in item) {
        this.buffer.shift();
        this.given = item.change.seq;
        return { done: false, value: item.change };
      } else {
        // It stays in front until the hook has done its work.
        await this.options.onResync?.(item.resync);
        this.buffer.shift();
        this.given = item.resync;
        if (this.options.onResync === undefined) throw new ResyncRequired(item.resync);
        await this.outbox.save(() => this.state.seen(item.resync));
        this.given = undefined;
      }
    }
  }

  /** A loop was left. Sync goes on; another loop goes on where this one was. */
  async return(): Promise<IteratorResult<Change, undefined>> {
    return { done: true, value: undefined };
  }

  private async load(): Promise<void> {
    const saved = await this.state.load();
    this.last ??= saved.seq;
    this.outbox.load(saved.operations);
  }

  private make(fields: Omit<OperationFrame, "op_id">): Promise<Operation> {
    if (this.ended !== undefined) return Promise.reject(this.ended);
    if (this.pending === 0) this.heard = Date.now();
    return this.outbox.add(fields, this.isOnline);
  }

  /** The next time that something moves. */
  private moved(): Promise<void> {
    return new Promise((resolve) => this.waiters.push(resolve));
  }

  private move(): void {
    for (const waiter of this.waiters.splice(0)) waiter();
  }

  private async until(reached: () => boolean, timeout?: number): Promise<void> {
    let late = false;
    const timer = timeout === undefined ? undefined : setTimeout(() => ((late = true), this.move()), timeout);
    try {
      while (!reached()) {
        if (this.ended !== undefined) throw this.ended;
        if (late) throw new TimedOut(`it took longer than ${timeout} ms; the last disconnection: ${this.trouble}`);
        await this.moved();
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** Connects, again and again, until the service says that it is of no use. */
  private async run(): Promise<void> {
    let failures = 0;
    while (this.ended === undefined) {
      const began = Date.now();
      this.progress = false;
      const { code, reason, final } = await this.connection();
      const wasOnline = this.isOnline;
      this.isOnline = false;
      this.outbox.disconnected();
      this.disconnect = undefined;
      this.trouble = `${code ?? "no code"}: ${reason}`;
      if (code !== undefined && (final || FOR_GOOD.has(code))) this.end(new SyncClosed(code, reason));
      if (this.ended !== undefined) return;
      this.options.onDisconnect?.(this.trouble);
      if (this.progress || Date.now() - began > STEADY_TIME) failures = 0;
      failures += 1;
      const atOnce = this.reattach || (code === AT_ONCE && wasOnline && failures === 1);
      this.reattach = false;
      if (!atOnce) await sleep(this.backoff.delay(failures), this.stop.signal);
    }
  }

  /** One connection, from the first attempt to its end. */
  private connection(): Promise<End> {
    return new Promise<End>((resolve) => {
      const Socket = this.options.webSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
      if (Socket === undefined) {
        return resolve({ code: 1008, reason: "there is no WebSocket here: give one as `webSocket`", final: true });
      }
      const socket = new Socket(this.url);
      let open = true;
      const finish = (end: End): void => {
        if (!open) return;
        open = false;
        clearInterval(watch);
        clearTimeout(handshake);
        socket.close(1000);
        resolve(end);
      };
      let refusal: Refusal | undefined;
      let handshake = setTimeout(() => finish({ code: undefined, reason: "no handshake in time" }), HANDSHAKE_TIME);
      const answerTime = this.options.answerTime ?? 75_000;
      const watch = setInterval(() => {
        const silent = this.isOnline && this.pending > 0 && Date.now() - this.heard > answerTime;
        if (silent) finish({ code: undefined, reason: `no answer in ${answerTime} ms` });
      }, Math.min(answerTime / 4, 5_000));
      this.disconnect = finish;
      socket.addEventListener("open", () => {
        const { apiKey: api_key, agent } = this.hello;
        socket.send(JSON.stringify({ api_key, since: this.last, agent }));
      });
      socket.addEventListener("message", ({ data }) => {
        if (!open) return;
        try {
          const frame = JSON.parse(data);
          if (this.isOnline) return this.receive(frame, finish);
          clearTimeout(handshake);
          if (frame.authenticated !== true) {
            // For good or for now, as the close code says that follows.
            refusal = frame;
            handshake = setTimeout(() => finish(refused(frame, NO_HANDSHAKE)), HANDSHAKE_TIME);
            return;
          }
          this.accepted(frame.seq, (text) => socket.send(text));
        } catch (error) {
          finish({ code: 1002, reason: `a frame that is not understood: ${error}` });
        }
      });
      // A close follows at once, which knows more; but not in every WebSocket that never connected.
      socket.addEventListener("error", ({ message }) =>
        setTimeout(() => finish({ code: undefined, reason: String(message ?? "the connection failed") })),
      );
      socket.addEventListener("close", ({ code, reason }) => {
        finish(refusal === undefined ? { code, reason: String(reason) } : refused(refusal, code));
      });
    });
  }

  private accepted(seq: number, transmit: (text: string) => void): void {
    this.last ??= seq;
    this.isOnline = true;
    this.heard = Date.now();
    this.move();
    this.outbox.connected(transmit);
  }

  private receive(frame: any, finish: (end: End) => void): void {
    this.heard = Date.now();
    switch (frame.type) {
      case "change":
        return this.receiveChange(frame, finish);
      case "ack":
      case "error": {
        const { pending } = this;
        this.receiveAnswer(frame, finish);
        if (this.pending === pending) return;
        this.progress = true;
        return this.move();
      }
      case "resync":
        this.last = frame.seq;
        this.passedOver = false;
        this.buffer.push({ resync: frame.seq });
        return this.move();
      // Other types are of a newer service, which speaks so that older clients may pass over it.
    }
  }

  private receiveAnswer(frame: any, finish: (end: End) => void): void {
    if (frame.type === "ack") {
      const { op_id: opId, id, seq, reason } = frame;
      const [applied, replayed] = [frame.applied === true, frame.replayed === true];
      this.outbox.acknowledge({ opId, id, applied, seq: seq ?? undefined, replayed, reason: reason ?? undefined });
    } else if (MAY_PASS.has(frame.error)) {
      finish({ code: undefined, reason: `${frame.error}: ${frame.detail}` });
    } else if (typeof frame.op_id === "string") {
      this.outbox.refuse(frame.op_id, frame);
    } else if (!this.outbox.refuseUnnamed(frame)) {
      finish({ code: undefined, reason: `the service could not read one of several operations: ${frame.detail}` });
    }
  }

  private receiveChange({ type: _, ...change }: Change & { type: string }, finish: (end: End) => void): void {
    const last = this.last ?? 0;
    this.clock.show(change.at);
    if (change.seq <= last) return;
    if (this.buffer.length >= (this.options.maxBuffer ?? 10_000)) this.passedOver = true;
    if (this.passedOver) return;
    if (change.seq > last + 1) return finish({ code: undefined, reason: `change ${change.seq} came after ${last}` });
    this.last = change.seq;
    this.progress = true;
    this.buffer.push({ change });
    this.move();
  }

  private end(why: SyncClosed): void {
    this.ended = why;
    this.outbox.giveUp(why);
    this.stop.abort();
    this.disconnect?.({ code: undefined, reason: why.reason });
    this.move();
  }
}

/** The end of a connection whose handshake was refused: for good or for now, as the close code says. */
function refused({ error, detail }: Refusal, told: number): End {
  const code = NO_CODE.has(told) ? NO_HANDSHAKE : told;
  const final = FOR_GOOD.has(code) || (code === NO_HANDSHAKE && REFUSED_FOR_GOOD.has(error));
  return { code: final ? code : undefined, reason: `${error}: ${detail}`, final };
}
