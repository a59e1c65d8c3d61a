import type { Client } from "./client.js";
import type { Change } from "./sync.js";
import type { Memory } from "./types.js";

/**
 * A copy of all memories that follows the changes. Scores and zones fall with time and are those of the last change.
 *
 * ```ts
 * const replica = await Replica.load(client);
 * const sync = client.sync({ since: replica.seq, onResync: (seq) => replica.reload(seq) });
 * for await (const change of sync) replica.apply(change);
 * ```
 */
export class Replica {
  memories = new Map<string, Memory>();
  /** The last change that is in it. */
  seq = 0;

  private constructor(private readonly client: Client) {}

  /** A replica of what there is now. */
  static async load(client: Client): Promise<Replica> {
    const replica = new Replica(client);
    // The number first: what changes while the memories are read, follows as a change.
    await replica.reload((await client.stats()).change_seq);
    return replica;
  }

  /** Reads everything anew; `seq` is the last change that is certainly in it. To be given to a `Sync` as `onResync`. */
  async reload(seq: number): Promise<void> {
    const memories = new Map<string, Memory>();
    for await (const memory of this.client.export()) memories.set(memory.id, memory);
    this.memories = memories;
    this.seq = seq;
  }

  /** Takes a change in. One that is in already changes nothing. */
  apply(change: Change): void {
    if (change.seq <= this.seq) return;
    this.seq = change.seq;
    if (change.memory === undefined) this.memories.delete(change.id);
    else this.memories.set(change.id, change.memory);
  }
}
