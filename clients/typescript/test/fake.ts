// A service that follows a script: one function for each connection, and what came over all of them.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { webcrypto } from "node:crypto";

import { WebSocket, WebSocketServer } from "ws";

import { Client, ExponentialBackoff, type Sync, type SyncOptions, type WebSocketConstructor } from "../src/index.js";

// The tests run on Node 18 too, as Debian 12 has it, where this is not global yet.
globalThis.crypto ??= webcrypto as Crypto;

export type Frame = Record<string, any>;
/** Of a memory or a key. */
export const ID = "01980e4c-7a5e-7cc3-98c4-dc0c0c07398f";
export const QUICK = new ExponentialBackoff(10, 20);
export const WEB_SOCKET = WebSocket as unknown as WebSocketConstructor;

/** The client went; it is no failure of the script. */
class Gone extends Error {}

/** The service's end of a connection. */
export class Connection {
  hello: Frame = {};
  private readonly frames: Frame[] = [];
  private wake: () => void = () => undefined;
  private gone = false;

  constructor(private readonly socket: WebSocket) {
    socket.on("message", (data) => {
      this.frames.push(JSON.parse(String(data)));
      this.wake();
    });
    socket.on("close", () => {
      this.gone = true;
      this.wake();
    });
  }

  async accept(seq = 0): Promise<void> {
    this.hello = await this.receive();
    this.send({ authenticated: true, seq, agent: "main" });
  }

  async refuse(error: string, code: number): Promise<void> {
    this.hello = await this.receive();
    this.send({ authenticated: false, error, detail: "as the script says" });
    this.close(code);
  }

  async receive(): Promise<Frame> {
    for (;;) {
      const frame = this.frames.shift();
      if (frame !== undefined) return frame;
      if (this.gone) throw new Gone();
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }

  send(...frames: Frame[]): void {
    for (const frame of frames) this.socket.send(JSON.stringify(frame));
  }

  change(...seqs: number[]): void {
    for (const seq of seqs) this.send(change(seq));
  }

  ack(operation: Frame, fields: Frame = {}): void {
    this.send({ type: "ack", op_id: operation["op_id"], id: operation["id"], applied: true, seq: 1, ...fields });
  }

  async acknowledgeAll(received: Frame[] = []): Promise<void> {
    for (;;) {
      const operation = await this.receive();
      received.push(operation);
      this.ack(operation);
    }
  }

  close(code: number): void {
    this.socket.close(code);
  }
}

export type Script = (connection: Connection) => void | Promise<void>;

/** Serves one connection after the other; the last function of the script also those after it. */
export class Fake {
  readonly connections: Connection[] = [];
  port = 0;
  private server: WebSocketServer | undefined;
  private readonly script: Script[];
  private readonly failures: unknown[] = [];
  private readonly syncs: Sync[] = [];

  constructor(...script: Script[]) {
    this.script = script;
  }

  async start(): Promise<void> {
    const server = new WebSocketServer({ host: "127.0.0.1", port: this.port });
    this.server = server;
    server.on("connection", (socket) => {
      const connection = new Connection(socket);
      const next = this.script[Math.min(this.connections.length, this.script.length - 1)];
      this.connections.push(connection);
      Promise.resolve(next?.(connection)).catch((error) => {
        if (!(error instanceof Gone)) this.failures.push(error);
      });
    });
    await once(server, "listening");
    this.port = (server.address() as AddressInfo).port;
  }

  async stop(): Promise<void> {
    const { server } = this;
    if (server === undefined) return;
    for (const client of server.clients) client.terminate();
    await new Promise((resolve) => server.close(resolve));
    this.server = undefined;
  }

  sync(options: SyncOptions = {}): Sync {
    const client = new Client(`http://127.0.0.1:${this.port}`, "sk-stellar-test", { webSocket: WEB_SOCKET });
    const sync = client.sync({ backoff: QUICK, drain: 2_000, ...options });
    this.syncs.push(sync);
    return sync;
  }

  /** Ends everything, and tells what went wrong in a script. */
  async end(): Promise<void> {
    for (const sync of this.syncs) await sync.close();
    await this.stop();
    if (this.failures.length > 0) throw this.failures[0];
  }
}

/** Runs `body` with a service that follows the script. */
export async function withFake(script: Script[], body: (fake: Fake) => Promise<void>): Promise<void> {
  const fake = new Fake(...script);
  await fake.start();
  try {
    await body(fake);
  } finally {
    await fake.end();
  }
}

export function change(seq: number, fields: Frame = {}): Frame {
  const memory = { id: `m${seq}`, content: `content ${seq}` };
  return { type: "change", seq, op: "store", id: `m${seq}`, agent: "main", at: "2026-03-01T09:30:00Z", memory, ...fields };
}

/** The numbers of the next changes. */
export async function take(sync: Sync, count: number): Promise<number[]> {
  const numbers: number[] = [];
  while (numbers.length < count) {
    const next = await sync.next();
    if (next.done) throw new Error("sync ended");
    numbers.push(next.value.seq);
  }
  return numbers;
}

export async function until(what: string, reached: () => boolean, milliseconds = 10_000): Promise<void> {
  const deadline = Date.now() + milliseconds;
  while (!reached()) {
    if (Date.now() > deadline) throw new Error(`this did not become true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
