import { ExponentialBackoff, sleep, type Backoff } from "./backoff.js";
import { ApiError, Unreachable, type StellarError } from "./errors.js";
import { uuid7 } from "./ids.js";
import * as outgoing from "./outgoing.js";
import { Sync, type SyncOptions, type WebSocketConstructor } from "./sync.js";
import type {
  AgentPage,
  ApiKeyPage,
  AuditPage,
  BatchOperation,
  BatchResult,
  BatchResults,
  ImportReport,
  Memory,
  MemoryPage,
  Narrative,
  NewApiKey,
  Removed,
  Stats,
  StoreRequest,
  Stored,
  UpdateRequest,
  UpdatedMemory,
  Usage,
} from "./types.js";

/** Milliseconds. A longer `Retry-After` is the caller's to wait for. */
const LONGEST_WAIT = 60_000;

/**
 * Whether a request may be sent again when nobody knows whether the first one took effect: `always` (it reads, or its
 * effect is the same twice), `with-key` (the second one is answered as the first) or `never`.
 */
type Repeat = "always" | "with-key" | "never";

type Query = Record<string, string | number | undefined>;

interface Sending {
  query?: Query;
  body?: object;
  text?: string;
  contentType?: string;
  key?: string | undefined;
}

export interface ClientOptions {
  /** Milliseconds that a request may take until its answer begins; 30,000 by default. */
  timeout?: number;
  /** How often a request is repeated at most; 4 by default. */
  retries?: number;
  backoff?: Backoff;
  /** In the place of the global `fetch`. */
  fetch?: typeof fetch;
  /** In the place of the global `WebSocket`, which Node has from version 22 on; `ws` has one for older ones. */
  webSocket?: WebSocketConstructor;
}

/** REST, with one API key. A request is repeated only where that is safe: see `Repeat`. */
export class Client {
  private readonly base: string;
  private readonly timeout: number;
  private readonly retries: number;
  private readonly backoff: Backoff;
  private readonly fetch: typeof fetch;

  /** `baseUrl` as `https://memory.example.com`. */
  constructor(
    baseUrl: string,
    private readonly apiKey?: string,
    private readonly options: ClientOptions = {},
  ) {
    this.base = `${baseUrl.replace(/\/+$/, "")}/api/v1`;
    this.timeout = options.timeout ?? 30_000;
    this.retries = options.retries ?? 4;
    this.backoff = options.backoff ?? new ExponentialBackoff();
    this.fetch = options.fetch ?? ((...given) => fetch(...given));
  }

  // Memories

  /** Stores a memory. */
  store(content: string, fields: Omit<StoreRequest, "content"> = {}, idempotencyKey?: string): Promise<Stored> {
    return this.json("POST", "/store", "with-key", { body: { content, ...fields }, key: idempotencyKey });
  }

  /** The memories that answer a question, the most relevant first. */
  recall(q: string, query: { limit?: number; emotion?: string } = {}): Promise<Memory[]> {
    return this.json("GET", "/recall", "always", { query: { q, ...query } });
  }

  /** One memory. */
  async get(id: string): Promise<Memory> {
    return this.json("GET", `/memories/${outgoing.segment(id)}`, "always");
  }

  /** Changes the fields that are named. Where a later write stands against it: an `ApiError`, `conflict`. */
  async update(id: string, fields: UpdateRequest, idempotencyKey?: string): Promise<UpdatedMemory> {
    return this.json("PATCH", `/memories/${outgoing.segment(id)}`, "with-key", { body: fields, key: idempotencyKey });
  }

  /** Removes a memory. An unknown id is an `ApiError` of the type `not-found`. */
  async forget(id: string, idempotencyKey?: string): Promise<boolean> {
    const path = `/forget/${outgoing.segment(id)}`;
    return (await this.json<Removed>("DELETE", path, "with-key", { key: idempotencyKey })).removed;
  }

  /** A page of the memories by falling score. */
  memories(query: { zone?: number; limit?: number; cursor?: string } = {}): Promise<MemoryPage> {
    return this.json("GET", "/memories", "always", { query });
  }

  /** A page of the memories in the order in which they happened. */
  timeline(query: { start?: string; end?: string; limit?: number; cursor?: string } = {}): Promise<MemoryPage> {
    return this.json("GET", "/timeline", "always", { query });
  }

  /** What the memories tell about a topic. */
  narrate(topic: string, limit?: number): Promise<Narrative> {
    return this.json("POST", "/narrate", "always", { body: { topic, limit } });
  }

  /** Counts by zone, the quota, the number of the last change. */
  stats(): Promise<Stats> {
    return this.json("GET", "/stats", "always");
  }

  /** Up to 1,000 operations at once, as sync sends them; one result for each, in order. */
  async batch(operations: Iterable<BatchOperation>, idempotencyKey?: string): Promise<BatchResult[]> {
    const checked = Array.from(operations, (one, n) => outgoing.fields(one, `operations[${n}].`));
    const sending = { body: { operations: checked }, key: idempotencyKey };
    return (await this.json<BatchResults>("POST", "/batch", "with-key", sending)).results;
  }

  /** All memories, one after the other. One that is not whole ends with an `Unreachable`. */
  async *export(): AsyncGenerator<Memory, void, void> {
    let count = 0;
    let whole = false;
    for await (const line of this.exportLines()) {
      if ("id" in line) {
        count += 1;
        yield line as unknown as Memory;
      } else if (line["end"] === true) {
        whole = line["count"] === count;
      }
    }
    if (!whole) throw new Unreachable("the export is not whole: read it again");
  }

  /** The lines: the first tells the format, the last how many memories came before it. */
  private async *exportLines(): AsyncGenerator<Record<string, unknown>, void, void> {
    const response = await this.answer("GET", "/export", "always");
    const reader = response.body?.getReader();
    if (reader === undefined) return;
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for (;;) {
        const part = await reader.read();
        rest += decoder.decode(part.value, { stream: !part.done });
        const lines = rest.split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) if (line !== "") yield JSON.parse(line) as Record<string, unknown>;
        if (part.done) return;
      }
    } catch (error) {
      throw error instanceof TypeError ? new Unreachable("the export broke off", { cause: error }) : error;
    } finally {
      await reader.cancel().catch(() => undefined);
    }
  }

  /** Stores what an export gave; what is there already stays as it is. The answer counts both. */
  async importMemories(memories: Iterable<object>): Promise<ImportReport> {
    const lines = Array.from(memories, (memory, n) => `${JSON.stringify(outgoing.plain(`memories[${n}]`, memory))}\n`);
    const text = lines.join("");
    return this.json("POST", "/import", "with-key", { text, contentType: "application/x-ndjson" });
  }

  // Who did what, and with which key

  /** A page of who did what, the newest first. */
  audit(query: { limit?: number; cursor?: string } = {}): Promise<AuditPage> {
    return this.json("GET", "/audit", "always", { query });
  }

  /** Tier, limits and what is used of them. */
  usage(): Promise<Usage> {
    return this.json("GET", "/auth/usage", "always");
  }

  /** A page of the tenant's agents. */
  agents(query: { limit?: number; cursor?: string } = {}): Promise<AgentPage> {
    return this.json("GET", "/auth/agents", "always", { query });
  }

  /** A page of the API keys, without their texts. */
  apiKeys(query: { limit?: number; cursor?: string } = {}): Promise<ApiKeyPage> {
    return this.json("GET", "/auth/api-keys", "always", { query });
  }

  /** Makes a key. Its text is in this answer and nowhere else. */
  createApiKey(agent: string, expiresInDays?: number): Promise<NewApiKey> {
    return this.json("POST", "/auth/api-keys", "never", { body: { agent, expires_in_days: expiresInDays } });
  }

  /** Makes a key in the place of another, which opens for `overlapSeconds` more. */
  async rotateApiKey(id: string, options: { overlapSeconds?: number; expiresInDays?: number } = {}): Promise<NewApiKey> {
    const body = { overlap_seconds: options.overlapSeconds, expires_in_days: options.expiresInDays };
    return this.json("POST", `/auth/api-keys/${outgoing.segment(id)}/rotate`, "never", { body });
  }

  /** Ends a key. */
  async revokeApiKey(id: string): Promise<void> {
    await this.json("DELETE", `/auth/api-keys/${outgoing.segment(id)}`, "always");
  }

  // Sync

  /** Follows the changes and makes some; see `Sync`. `since` goes before what the state holds. */
  sync(options: SyncOptions = {}): Sync {
    return new Sync(`${this.base.replace(/^http/, "ws")}/sync`, this.apiKey, {
      ...(this.options.webSocket && { webSocket: this.options.webSocket }),
      ...options,
    });
  }

  private async json<T>(method: string, path: string, repeat: Repeat, sending: Sending = {}): Promise<T> {
    return (await (await this.answer(method, path, repeat, sending)).json()) as T;
  }

  /** The answer, if it is none of an error, after as many tries as it takes and may take. */
  private async answer(method: string, path: string, repeat: Repeat, sending: Sending = {}): Promise<Response> {
    const query = Object.entries(outgoing.fields(sending.query ?? {})).map(([name, value]) => [name, String(value)]);
    const url = this.base + path + (query.length === 0 ? "" : `?${new URLSearchParams(query)}`);
    const body = sending.text ?? (sending.body === undefined ? null : JSON.stringify(outgoing.fields(sending.body)));
    const headers: Record<string, string> = {};
    if (this.apiKey !== undefined) headers["X-API-Key"] = this.apiKey;
    if (body !== null) headers["Content-Type"] = sending.contentType ?? "application/json";
    if (repeat === "with-key") headers["Idempotency-Key"] = outgoing.idempotencyKey(sending.key ?? uuid7());

    for (let failures = 1; ; failures++) {
      let error: StellarError;
      let again: boolean;
      let wait: number | null = null;
      try {
        const response = await this.fetchInTime(url, { method, headers, body });
        if (response.ok) return response;
        const refused = await apiError(response);
        again = response.status === 429 || (repeat !== "never" && [502, 503, 504].includes(response.status));
        wait = refused.retryAfter;
        error = refused;
      } catch (cause) {
        // `fetch` does not say whether the request had been sent.
        again = repeat !== "never";
        error = new Unreachable(`${method} ${path}: ${cause}`, { cause });
      }
      if (!again || failures > this.retries || (wait ?? 0) > LONGEST_WAIT) throw error;
      await sleep(wait ?? this.backoff.delay(failures));
    }
  }

  /** A `fetch` whose answer must begin in time; its body may take longer. */
  private async fetchInTime(url: string, init: RequestInit): Promise<Response> {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(new Error(`no answer in ${this.timeout} ms`)), this.timeout);
    try {
      return await this.fetch(url, { ...init, signal: abort.signal });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The error that an answer tells. */
async function apiError(response: Response): Promise<ApiError> {
  const text = await response.text();
  let problem: unknown;
  try {
    problem = JSON.parse(text);
  } catch {
    problem = undefined;
  }
  if (typeof problem !== "object" || problem === null) {
    // Of something between here and the service, which does not speak as it does.
    problem = { detail: text.slice(0, 200) };
  }
  const retryAfter = response.headers.get("Retry-After") ?? "";
  const wait = /^\d+$/.test(retryAfter) ? Number(retryAfter) * 1000 : null;
  return new ApiError(response.status, problem as Record<string, unknown>, response.headers.get("X-Request-Id"), wait);
}
