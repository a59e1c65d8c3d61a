// Client of stellar-memory: REST (`Client`) and sync (`Client.sync`), which reconnects, resumes and queues offline.

export { ExponentialBackoff, type Backoff } from "./backoff.js";
export { Client, type ClientOptions } from "./client.js";
export {
  ApiError,
  InvalidValue,
  QueueFull,
  Refused,
  ResyncRequired,
  StellarError,
  SyncClosed,
  TimedOut,
  TooLarge,
  Unreachable,
} from "./errors.js";
export type { Ack, Operation } from "./outbox.js";
export { Replica } from "./replica.js";
export { MemoryState, type OperationFrame, type Saved, type State } from "./state.js";
export { Sync, type Change, type SyncOptions, type WebSocketConstructor } from "./sync.js";
export type * from "./types.js";
