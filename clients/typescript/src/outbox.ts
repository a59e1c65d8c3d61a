// Operations on their way to the service.
//
// Always holds: an operation is in the state before `add` is done and leaves it only when it is decided: acknowledged, or
// refused. Each is decided at some time, whatever the others hold: an error that names none of several leads to another
// connection, on which one operation at a time is under way, until all that may be meant are decided.

import { InvalidValue, QueueFull, Refused, TooLarge, type SyncClosed } from "./errors.js";
import { uuid7, type Clock } from "./ids.js";
import { fields } from "./outgoing.js";
import type { OperationFrame, State } from "./state.js";

/** Bytes of an operation. */
const MAX_FRAME = 256 * 1024;

/** The service decided an operation. */
export interface Ack {
  opId: string;
  id: string | undefined;
  /** False: it changed nothing, for the reason given. */
  applied: boolean;
  seq: number | undefined;
  /** It was decided before; this is the first answer once more. */
  replayed: boolean;
  /** `newer` or `removed`. */
  reason: string | undefined;
}

/** An operation that is on its way. */
export interface Operation {
  opId: string;
  /** The memory's. */
  id: string;
  /** Await it for the answer. Rejected with `Refused`, or `SyncClosed`. */
  ack: Promise<Ack>;
}

interface Queued {
  text: string;
  resolve: (ack: Ack) => void;
  reject: (error: Error) => void;
}

/** What the service has not decided, in the order in which it was made. */
export class Outbox {
  private readonly queue = new Map<string, Queued>();
  private readonly unsent = new Set<string>();
  /** Sent over this connection, and not answered. */
  private readonly underWay = new Set<string>();
  /** One of them may be what the service cannot read. While there are any, one operation at a time is sent. */
  private readonly suspects = new Set<string>();
  private transmit: ((text: string) => void) | undefined;
  /** Calls of the state, one after the other. */
  private saving: Promise<unknown> = Promise.resolve();
  private ended: SyncClosed | undefined;

  constructor(
    private readonly state: State,
    private readonly clock: Clock,
    private readonly maxQueue: number,
    private readonly onRefused: ((refused: Refused) => void) | undefined,
  ) {}

  get size(): number {
    return this.queue.size;
  }

  /** Takes what an earlier process left. What can never be sent is refused, and stops nothing else. */
  load(operations: OperationFrame[]): void {
    for (const frame of operations) {
      try {
        fields(frame);
        this.enqueue(frame.op_id, encode(frame));
        this.clock.show(frame.at);
      } catch (fault) {
        if (!(fault instanceof InvalidValue || fault instanceof TooLarge)) throw fault;
        const { op_id } = frame;
        this.tell(new Refused({ op_id, error: "invalid-request", detail: fault.message }, frame));
        void this.save(() => this.state.done(op_id)).catch(() => undefined);
      }
    }
  }

  /** Queues an operation. */
  async add(given: Omit<OperationFrame, "op_id">, online: boolean): Promise<Operation> {
    // The name comes early: the service finds it in a frame that it cannot read to the end.
    const frame = { op_id: uuid7(), ...fields(given) } as OperationFrame;
    // Written offline: the service is told when, so that it does not win over what was written later.
    if (!online) frame.at ??= this.clock.now();
    const text = encode(frame);
    return this.save(async () => {
      if (this.queue.size >= this.maxQueue) throw new QueueFull(`${this.queue.size} operations wait already`);
      await this.state.add(frame);
      const ack = this.enqueue(frame.op_id, text);
      this.send();
      return { opId: frame.op_id, id: frame.id, ack };
    });
  }

  /** Calls the state after all earlier calls of it. */
  save<T>(call: () => T | Promise<T>): Promise<T> {
    const saved = this.saving.then(call, call);
    this.saving = saved.catch(() => undefined);
    return saved;
  }

  /** Waits for the calls of the state that were made. */
  async saved(): Promise<void> {
    await this.saving;
  }

  /** There is another connection: all of it is sent again. */
  connected(transmit: (text: string) => void): void {
    this.transmit = transmit;
    this.underWay.clear();
    this.unsent.clear();
    for (const opId of this.queue.keys()) this.unsent.add(opId);
    this.send();
  }

  /** The connection is gone. */
  disconnected(): void {
    this.transmit = undefined;
  }

  acknowledge(ack: Ack): void {
    this.decided(ack.opId)?.resolve(ack);
    this.send();
  }

  /** The service refused one. */
  refuse(opId: string, frame: Readonly<Record<string, unknown>>): void {
    const queued = this.decided(opId);
    if (queued === undefined) return;
    const refused = new Refused({ ...frame, op_id: opId }, JSON.parse(queued.text) as OperationFrame);
    this.tell(refused);
    queued.reject(refused);
    this.send();
  }

  /**
   * The service could not read one, and so does not name it. False: it may be any of several that are under way. Then
   * another connection is needed: an answer that comes over this one may be another's.
   */
  refuseUnnamed(frame: Readonly<Record<string, unknown>>): boolean {
    const [first] = this.underWay;
    // It concerns no operation.
    if (first === undefined) return true;
    if (this.suspects.size === 0) {
      for (const opId of this.underWay) this.suspects.add(opId);
      return false;
    }
    this.refuse(first, frame);
    return true;
  }

  /** Tells everybody who waits that nothing will come. */
  giveUp(why: SyncClosed): void {
    this.ended = why;
    for (const { reject } of this.queue.values()) reject(why);
  }

  private enqueue(opId: string, text: string): Promise<Ack> {
    const ack = new Promise<Ack>((resolve, reject) => this.queue.set(opId, { text, resolve, reject }));
    // Nobody has to ask for it: what nobody asks for is no unhandled rejection.
    ack.catch(() => undefined);
    if (this.ended !== undefined) this.queue.get(opId)?.reject(this.ended);
    this.unsent.add(opId);
    return ack;
  }

  private send(): void {
    for (const opId of this.unsent) {
      if (this.transmit === undefined || (this.suspects.size > 0 && this.underWay.size > 0)) return;
      this.unsent.delete(opId);
      const queued = this.queue.get(opId);
      if (queued === undefined) continue;
      this.underWay.add(opId);
      this.transmit(queued.text);
    }
  }

  private decided(opId: string): Queued | undefined {
    const queued = this.queue.get(opId);
    if (queued === undefined) return undefined;
    this.queue.delete(opId);
    this.underWay.delete(opId);
    this.suspects.delete(opId);
    // A state that fails here forgets that the operation is decided, which is harmless.
    this.save(() => this.state.done(opId)).catch(() => undefined);
    return queued;
  }

  private tell(refused: Refused): void {
    try {
      this.onRefused?.(refused);
    } catch (error) {
      console.error("the hook onRefused failed; sync goes on", error);
    }
  }
}

function encode(frame: OperationFrame): string {
  const text = JSON.stringify(frame);
  const size = new TextEncoder().encode(text).length;
  if (size > MAX_FRAME) throw new TooLarge(`the operation has ${size} bytes; a frame takes ${MAX_FRAME}`);
  return text;
}
