// What the API takes and answers. Written by `clients/generate.py` from the OpenAPI document;
// change that instead.

/** An agent that has live keys. */
export interface Agent {
  /** Its name. */
  agent: string;
  /** How many live keys it has. */
  api_keys: number;
  /** When one of them was used last, to about half a minute. Null: never. */
  last_used_at: string | null;
}

/** A page of a tenant's agents, by name. */
export interface AgentPage {
  /** Of all agents, how many there are and may be. */
  agents: Used;
  items: Agent[];
  /** Where the next page begins; absent on the last one. */
  next_cursor?: string;
}

/** A key, without its text. */
export interface ApiKey {
  /** Whose it is. */
  agent: string;
  created_at: string;
  /** When it ends. Null: never by itself. */
  expires_at: string | null;
  /** What names it. */
  id: string;
  /** When it was used last, to about half a minute. Null: never. */
  last_used_at: string | null;
  /** Made by the operator: its text is in a Secret, and deleting that Secret replaces it. */
  managed: boolean;
  /** How its text begins. */
  prefix: string;
}

/** A page of a tenant's live keys, oldest first. */
export interface ApiKeyPage {
  items: ApiKey[];
  /** Where the next page begins; absent on the last one. */
  next_cursor?: string;
}

/** Something that was done. */
export interface AuditEntry {
  /** Who did it. Null: the platform. */
  agent: string | null;
  at: string;
  /** More, as the kind of entry has it. */
  detail?: Record<string, unknown>;
  /** With which key. Null: with none. */
  key_id: string | null;
  /** To which memory. */
  memory_id?: string;
  /** What was done. */
  what: string;
}

/** A page of the audit. */
export interface AuditPage {
  items: AuditEntry[];
  /** Where the next page begins; null on the last one. */
  next_cursor: string | null;
}

/**
 * `store` takes the members of a new memory; `update` needs `id` and takes `content`, `importance`, `metadata`;
 * `remove` needs `id`. All take `at`.
 */
export interface BatchOperation {
  /** When it was written, RFC 3339; now by default, and never taken for later. */
  at?: string | null;
  auto_evaluate?: boolean | null;
  content?: string | null;
  emotion?: string | null;
  id?: string | null;
  importance?: number | null;
  metadata?: Record<string, unknown> | null;
  occurred_at?: string | null;
  op: OperationName;
  /** Sent again within 24 hours by the same agent it is answered as the first time. */
  op_id?: string | null;
  session?: string | null;
  source?: string | null;
  speaker?: string | null;
}

/** Operations, carried out in order. */
export interface BatchRequest {
  operations: BatchOperation[];
}

/** What became of an operation: carried out or decided against, or else refused with a `problem`. */
export interface BatchResult {
  /** Whether it was done. */
  applied?: boolean;
  /** The memory. */
  id?: string;
  /** As the client named it. */
  op_id: string | null;
  problem?: Problem;
  reason?: Reason | null;
  /** Whether this answers a repetition. */
  replayed?: boolean;
  /** Its score, likewise. */
  score?: number | null;
  /** The number of the change. Null: nothing was changed. */
  seq?: number | null;
  /** As of a request with this operation alone; 200 also for what was decided against. */
  status: number;
  /** Its zone after this. Null: it is gone, or was left alone. */
  zone?: number | null;
}

/** One result for each operation, in order. */
export interface BatchResults {
  results: BatchResult[];
}

/** A key to make. */
export interface CreateApiKeyRequest {
  /** Whose it shall be. */
  agent: string;
  /** When it shall end; never by itself when left out. */
  expires_in_days?: number | null;
}

/** That the program runs, and which. */
export interface Health {
  status: string;
  /** The release. */
  version: string;
}

/** What is wrong with one line. */
export interface ImportLineError {
  /** Its number from 1; of JSON, the item's. */
  line: number;
  problem: Problem;
}

/** What became of an import. */
export interface ImportReport {
  /** Whether the file was whole: with as many memories between its first and its last line as these say. */
  complete: boolean;
  /** Why, of the first 100. */
  errors: ImportLineError[];
  /** Memories that the tenant has already; they are as they were. */
  existing: number;
  /** Memories that are new. */
  imported: number;
  /** Lines, or items, that were not taken. */
  refused: number;
}

/** A memory as it is now. */
export interface Memory {
  /** Who stored it. */
  agent: string | null;
  content: string;
  created_at: string;
  emotion: string | null;
  id: string;
  importance: number;
  last_recalled_at: string | null;
  metadata: Record<string, unknown>;
  occurred_at: string;
  recall_count: number;
  /**
   * How well it answers, from 0 to 1, rounded to 4 places as the score is, so that equal answers look equal. Only in
   * answers of a recall.
   */
  relevance?: number;
  /** Falls with time, rises with recalls and importance. */
  score: number;
  session: string | null;
  source: string | null;
  speaker: string | null;
  /** The time of its last write, by which the next one wins or not. */
  written_at: string;
  /** The agent of its last write. */
  written_by: string | null;
  /** From 0 (core) to 4 (cloud). */
  zone: number;
}

/** A page of memories. */
export interface MemoryPage {
  items: Memory[];
  /** Where the next page begins; null at the end. */
  next_cursor: string | null;
  /** How many there are in the whole list, where that is known. */
  total?: number;
}

/** What to tell about. */
export interface NarrateRequest {
  /** The most memories that it is told from, 10 by default. */
  limit?: number | null;
  /** In any words. */
  topic: string;
}

/** What is remembered about a topic. */
export interface Narrative {
  /** The memories that it rests on. */
  memories: string[];
  /** The model that told it; null when it is composed of the memories themselves. */
  model: string | null;
  /** The text. By a model, `[n]` in it is the n-th of `memories`. */
  narrative: string;
}

/** A key that was made. */
export interface NewApiKey {
  /** Whose it is. */
  agent: string;
  /** Its text. This is the only time that it is shown. */
  api_key: string;
  /** When it ends. Null: never by itself. */
  expires_at: string | null;
  /** What names it. */
  id: string;
  /** How its text begins. */
  prefix: string;
  /** After a rotation, the key that this one replaces. */
  replaces?: ReplacedApiKey;
}

/** What is to be done. */
export type OperationName = "store" | "update" | "remove";

/** Why a request was refused (RFC 9457). Some kinds have further members. */
export interface Problem {
  /** What happened this time, and what to do about it */
  detail: string;
  /** The field or parameter that breaks a rule */
  field?: string;
  /** How many there may be */
  limit?: number;
  /** The tier that would do */
  next_tier?: string;
  /** The HTTP status */
  status: number;
  /** The kind in words */
  title: string;
  /** The kind; stable */
  type: "https://stellar-memory.dev/problems/invalid-request" | "https://stellar-memory.dev/problems/missing-api-key" | "https://stellar-memory.dev/problems/invalid-api-key" | "https://stellar-memory.dev/problems/tenant-suspended" | "https://stellar-memory.dev/problems/memory-quota-reached" | "https://stellar-memory.dev/problems/index-limit-reached" | "https://stellar-memory.dev/problems/key-quota-reached" | "https://stellar-memory.dev/problems/origin-not-allowed" | "https://stellar-memory.dev/problems/not-found" | "https://stellar-memory.dev/problems/method-not-allowed" | "https://stellar-memory.dev/problems/request-timeout" | "https://stellar-memory.dev/problems/conflict" | "https://stellar-memory.dev/problems/payload-too-large" | "https://stellar-memory.dev/problems/unsupported-media-type" | "https://stellar-memory.dev/problems/upgrade-required" | "https://stellar-memory.dev/problems/rate-limited" | "https://stellar-memory.dev/problems/too-many-sockets" | "https://stellar-memory.dev/problems/internal" | "https://stellar-memory.dev/problems/bad-gateway" | "https://stellar-memory.dev/problems/unavailable" | "https://stellar-memory.dev/problems/gateway-timeout";
  /** How many there are */
  used?: number;
  /** What is used up */
  what?: "agents" | "api_keys";
  [further: string]: unknown;
}

/** How many memories there are and may be. */
export interface Quota {
  /** -1: no limit. */
  limit: number;
  used: number;
}

/** Why an operation was decided against. */
export type Reason = "newer" | "removed";

/** A memory that is gone. */
export interface Removed {
  /** True. */
  removed: boolean;
  /** The number of the change. */
  seq: number;
}

/** A key that another one replaces. */
export interface ReplacedApiKey {
  /** When it ends. */
  expires_at: string;
  id: string;
}

/** What became of a key. */
export interface RevokedApiKey {
  /** True. */
  revoked: boolean;
}

/** How a key shall be replaced. */
export interface RotateApiKeyRequest {
  /** When the new key shall end; never by itself when left out. */
  expires_in_days?: number | null;
  /** How long the old key opens on, in seconds. 0: not at all. */
  overlap_seconds?: number | null;
}

/** One event of a stream */
export interface ServerSentEvent {
  /** The frame, as JSON. */
  data: string;
  /** `change` or `resync`. */
  event: string;
  /** The number of the change. */
  id?: string | null;
}

/** How many memories there are, and where. */
export interface Stats {
  /** The number of the last change. Changes are numbered 1, 2, 3, … without a gap. */
  change_seq: number;
  quota: Quota;
  /** All of them. */
  total_memories: number;
  /** From the core outward. */
  zones: ZoneCount[];
}

/** A memory to store. */
export interface StoreRequest {
  /** When it was written, RFC 3339: what was written offline says so. Never taken for later than now. */
  at?: string | null;
  /** Whether the engine shall estimate the importance when none is given. */
  auto_evaluate?: boolean | null;
  /** The text to remember. */
  content: string;
  /** A word for its feeling. */
  emotion?: string | null;
  /** An identity of the client's own, a UUID; one that the tenant does not have yet. */
  id?: string | null;
  /** 0 to 1; 0.5 by default. */
  importance?: number | null;
  /**
   * Anything of the client's own, as an object: at most 16 KiB, 16 levels deep. A whole number of more than 64 bits is
   * sent as a text.
   */
  metadata?: Record<string, unknown> | null;
  /** When it happened, RFC 3339; now by default. */
  occurred_at?: string | null;
  /** The conversation that it belongs to. */
  session?: string | null;
  /** Where it comes from. */
  source?: string | null;
  /** Who said it. */
  speaker?: string | null;
}

/** A memory that was stored. */
export interface Stored {
  /** The new memory. */
  id: string;
  score: number;
  /** The number of the change. */
  seq: number;
  /** From 0 (core) to 4 (cloud). */
  zone: number;
}

/** What is to be changed of a memory: at least one of `content`, `importance`, `metadata`. */
export interface UpdateRequest {
  /** When it was written, RFC 3339; now by default, and never taken for later. */
  at?: string | null;
  /** Another text. */
  content?: string | null;
  /** 0 to 1. */
  importance?: number | null;
  /** What stands in the place of all metadata there was. */
  metadata?: Record<string, unknown> | null;
}

/** A memory after it was written. */
export interface UpdatedMemory {
  /** Who stored it. */
  agent: string | null;
  content: string;
  created_at: string;
  emotion: string | null;
  id: string;
  importance: number;
  last_recalled_at: string | null;
  metadata: Record<string, unknown>;
  occurred_at: string;
  recall_count: number;
  /**
   * How well it answers, from 0 to 1, rounded to 4 places as the score is, so that equal answers look equal. Only in
   * answers of a recall.
   */
  relevance?: number;
  /** Falls with time, rises with recalls and importance. */
  score: number;
  session: string | null;
  source: string | null;
  speaker: string | null;
  /** The time of its last write, by which the next one wins or not. */
  written_at: string;
  /** The agent of its last write. */
  written_by: string | null;
  /** From 0 (core) to 4 (cloud). */
  zone: number;
  /** The number of the change. */
  seq: number;
}

/** A tenant's tier, limits and use. */
export interface Usage {
  /** Agents with live keys. */
  agents: Used;
  /** Live keys. */
  api_keys: Used;
  /** Sync sockets open at one time; -1: no limit. */
  max_sockets: number;
  /** Memories stored. */
  memories: Used;
  /** Requests a minute, over all gateways. */
  requests_per_minute: number;
  /** Operations a second that one socket sends. */
  socket_messages_per_second: number;
  /** The tenant's id. */
  tenant: string;
  /** Its tier. */
  tier: string;
}

/** How much of something is used. */
export interface Used {
  /** How many there may be; -1: no limit. */
  limit: number;
  /** How many there are. */
  used: number;
}

/** A zone, and how full it is. */
export interface ZoneCount {
  /** How many places it has. Null: no limit. */
  capacity: number | null;
  count: number;
  name: string;
  zone: number;
}
