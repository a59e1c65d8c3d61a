// For Node alone: the entry `stellar-memory/node`.

import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";

import { MemoryState, type OperationFrame, type Saved } from "./state.js";

const COMPACT_AFTER = 10_000;

/**
 * A journal in a file, for one process at a time. `add` waits for the disk.
 *
 * A line that is none, as one that a crash cut off, is passed over; the file is written anew when it has grown. It holds what was stored and
 * not acknowledged, so only its owner may read it.
 */
export class FileState extends MemoryState {
  private file: number | undefined;
  private lines = 0;

  constructor(private readonly path: string) {
    super();
  }

  override load(): Saved {
    this.seq = undefined;
    this.operations.clear();
    const text = existsSync(this.path) ? readFileSync(this.path, "utf8") : "";
    for (const line of text.split("\n")) {
      let entry: { add?: OperationFrame | null; done?: unknown; seen?: unknown } | null;
      try {
        entry = JSON.parse(line);
      } catch {
        continue;
      }
      if (typeof entry?.add?.op_id === "string") super.add(entry.add);
      if (typeof entry?.done === "string") super.done(entry.done);
      if (typeof entry?.seen === "number") super.seen(entry.seen);
    }
    this.compact();
    return super.load();
  }

  override add(operation: OperationFrame): void {
    this.write({ add: operation }, true);
    super.add(operation);
  }

  override done(opId: string): void {
    super.done(opId);
    this.write({ done: opId });
  }

  override seen(seq: number): void {
    super.seen(seq);
    this.write({ seen: seq });
  }

  override close(): void {
    if (this.file !== undefined) closeSync(this.file);
    this.file = undefined;
  }

  private write(entry: object, durable = false): void {
    if (this.lines > COMPACT_AFTER + 2 * this.operations.size) this.compact();
    this.file ??= openSync(this.path, "a", 0o600);
    try {
      this.put(this.file, entry);
    } catch (error) {
      // Half a line may be there, and the next one must not be joined to it.
      this.lines = Infinity;
      throw error;
    }
    if (durable) fsyncSync(this.file);
  }

  /** Writes what holds beside the journal and puts it in its place. */
  private compact(): void {
    this.close();
    this.lines = 0;
    const beside = `${this.path}.new`;
    const file = openSync(beside, "w", 0o600);
    try {
      if (this.seq !== undefined) this.put(file, { seen: this.seq });
      for (const operation of this.operations.values()) this.put(file, { add: operation });
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(beside, this.path);
  }

  private put(file: number, entry: object): void {
    const line = new TextEncoder().encode(`${JSON.stringify(entry)}\n`);
    if (writeSync(file, line) !== line.length) throw new Error(`${this.path} could not be written whole`);
    this.lines += 1;
  }
}
