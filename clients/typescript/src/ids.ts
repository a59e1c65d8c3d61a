// Ids and times that this client makes itself.

/** A UUID of version 7 (RFC 9562): 48 bits of milliseconds, the rest random. */
export function uuid7(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  let millis = Date.now();
  for (let at = 5; at >= 0; at--) {
    bytes[at] = millis % 256;
    millis = Math.floor(millis / 256);
  }
  bytes[6] = 0x70 | (bytes[6]! & 0x0f);
  bytes[8] = 0x80 | (bytes[8]! & 0x3f);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Since 1970, to the end of the year 9999: no time after it has a text. */
const LAST_MILLIS = 253_402_300_799_999;

/** The time of writes made offline. Never before a time that it gave or was shown: what is written later wins. */
export class Clock {
  private last = 0;

  /** Takes note of an RFC 3339 time in UTC, of another clock maybe. What is none is passed over. */
  show(text: unknown): void {
    const parts = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z$/.exec(typeof text === "string" ? text : "");
    const [, seconds, fraction] = parts ?? [];
    // Rounded up to the millisecond.
    const millis = Date.parse(`${seconds}Z`) + Math.ceil(Number(`0.${fraction ?? 0}`) * 1000);
    if (!Number.isNaN(millis)) this.last = Math.max(this.last, Math.min(millis, LAST_MILLIS));
  }

  /** The time as RFC 3339 in UTC, to the millisecond. */
  now(): string {
    this.last = Math.max(this.last, Date.now());
    return new Date(this.last).toISOString();
  }
}
