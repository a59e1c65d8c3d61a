// What outlives a connection: the last change that was seen, and the operations that nobody acknowledged.

/** An operation as it is sent. */
export interface OperationFrame {
  op: "store" | "update" | "remove";
  op_id: string;
  id: string;
  at?: string | null;
  [field: string]: unknown;
}

/** What a state holds. */
export interface Saved {
  seq: number | undefined;
  /** In the order in which they were made. */
  operations: OperationFrame[];
}

/**
 * Where a `Sync` keeps what must outlive it: a file, IndexedDB, `localStorage`. One `Sync` at a time uses a state, and
 * it calls one method after the other.
 */
export interface State {
  /** All of it, at the start. */
  load(): Saved | Promise<Saved>;
  /** An operation was made. Durable when this is done. */
  add(operation: OperationFrame): void | Promise<void>;
  /** It is decided. Forgetting this is harmless: the operation is sent again, and answered as before. */
  done(opId: string): void | Promise<void>;
  /** All changes up to this one were seen. Forgetting this is harmless: they are seen again. */
  seen(seq: number): void | Promise<void>;
  /** The `Sync` is done with it. */
  close(): void | Promise<void>;
}

/** Outlives connections, but not the page or process. */
export class MemoryState implements State {
  protected seq: number | undefined;
  protected operations = new Map<string, OperationFrame>();

  load(): Saved {
    return { seq: this.seq, operations: [...this.operations.values()] };
  }

  add(operation: OperationFrame): void {
    this.operations.set(operation.op_id, operation);
  }

  done(opId: string): void {
    this.operations.delete(opId);
  }

  seen(seq: number): void {
    this.seq = seq;
  }

  close(): void {}
}
