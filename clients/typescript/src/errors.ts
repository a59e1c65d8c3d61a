// What can go wrong, one class for each thing that a caller would do differently.

import type { OperationFrame } from "./state.js";

/** The base of all errors here. */
export class StellarError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The service answered with a problem (RFC 9457). */
export class ApiError extends StellarError {
  /** The last part of the problem's `type`, as `memory-quota-reached`. */
  readonly type: string;
  /** What to do, as a sentence. */
  readonly detail: string;

  constructor(
    readonly status: number,
    /** All of it: `used`, `limit`, `next_tier`, `field` and the like. */
    readonly problem: Readonly<Record<string, unknown>>,
    /** To quote when asking whoever runs the service. */
    readonly requestId: string | null,
    /** Milliseconds, if the service named any time. */
    readonly retryAfter: number | null,
  ) {
    const type = String(problem["type"] ?? "about:blank").split("/").at(-1) ?? "";
    const detail = String(problem["detail"] ?? "");
    super(`${status} ${type}: ${detail} (request ${requestId})`);
    this.type = type;
    this.detail = detail;
  }
}

/** No answer came, whatever was tried. The reason is the `cause`. */
export class Unreachable extends StellarError {}

/** The service ended sync for good; the code is a WebSocket's. What is queued stays in the state. */
export class SyncClosed extends StellarError {
  constructor(
    readonly code: number,
    readonly reason: string,
  ) {
    super(`sync ended with ${code}: ${reason}`);
  }
}

/** A value that JSON or the service cannot take. Nothing was sent or queued. */
export class InvalidValue extends StellarError {
  constructor(
    /** Where it is, as `metadata.seats[0]`. */
    readonly field: string,
    /** What is wrong with it, and what to do. */
    readonly reason: string,
  ) {
    super(`${field} ${reason}`);
  }
}

/** An operation was refused, by the service or as one that cannot be sent; nothing was changed. */
export class Refused extends StellarError {
  readonly opId: string | undefined;
  /** As an `ApiError`'s. */
  readonly type: string;
  readonly detail: string;

  constructor(
    readonly frame: Readonly<Record<string, unknown>>,
    /** What was to be done, as it was queued. */
    readonly operation?: OperationFrame,
  ) {
    const type = String(frame["error"] ?? "");
    const detail = String(frame["detail"] ?? "");
    super(`${type}: ${detail}`);
    this.opId = frame["op_id"] as string | undefined;
    this.type = type;
    this.detail = detail;
  }
}

/** As many operations wait as may wait. Nothing was queued; try when some are acknowledged. */
export class QueueFull extends StellarError {}

/** The operation is larger than a frame may be. Nothing was queued. */
export class TooLarge extends StellarError {}

/** A wait was longer than it should be. */
export class TimedOut extends StellarError {}

/** The log no longer reaches back to where this client is: read everything anew, then go on iterating. */
export class ResyncRequired extends StellarError {
  constructor(readonly seq: number) {
    super(`changes before ${seq} are gone: read everything anew`);
  }
}
