/** How long to wait before the next try. */
export interface Backoff {
  /** Milliseconds to wait after so many failures in a row (1 and more). */
  delay(failures: number): number;
}

/** Exponential, with full jitter: clients that lost one server do not come back in step. */
export class ExponentialBackoff implements Backoff {
  /** `first` and `most`: milliseconds that the first and any wait are at most; `chance`: a number from 0 to 1. */
  constructor(
    private readonly first = 500,
    private readonly most = 30_000,
    private readonly chance: () => number = Math.random,
  ) {}

  delay(failures: number): number {
    return this.chance() * Math.min(this.most, this.first * 2 ** Math.min(failures - 1, 32));
  }
}

/** Waits; ends early, without a sign of it, when `signal` is aborted. */
export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", done);
  });
}
