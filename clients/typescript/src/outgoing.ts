// What can be sent. Whatever goes into a body, a query, a path or the queue of `Sync` passes here first.
//
// Always holds: what these functions return is a copy that JSON can say and the service can read. What is not, is refused
// at the call, in an `InvalidValue` that names the field: `JSON.stringify` would make another value of it without a word
// (NaN is null, a function is gone), and once queued, what the service cannot read would be refused again and again.

import { InvalidValue } from "./errors.js";

/** Of arrays and objects in one another. The service reads 125, with those that stand around a value. */
const MOST_LEVELS = 100;
const LEAST_INTEGER = -(2 ** 63);
const TOO_LARGE_INTEGER = 2 ** 64;
/** From here on a number is written with an exponent, and so is no integer. */
const LARGEST_WRITTEN_OUT = 1e21;

const UUID = /^(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})$/;
/** With the flag `u` a pair of surrogates is the character that it stands for, so this finds lone ones. */
const SURROGATE = /\p{Surrogate}/u;

/** The fields of a body, a query or an operation. One that is undefined is not given. `where` goes before their names. */
export function fields(given: object, where = ""): Record<string, any> {
  const named = Object.entries(given).filter(([, value]) => value !== undefined);
  return Object.fromEntries(named.map(([name, value]) => [name, field(name, value, where)]));
}

function field(name: string, value: unknown, where: string): unknown {
  const place = where + key(name, where.replace(/\.$/, "") || "the fields");
  return name === "id" && value !== null ? identity(place, value) : plain(place, value);
}

/** A copy of a value as JSON can say it. */
export function plain(place: string, value: unknown, level = 1): unknown {
  switch (typeof value) {
    case "boolean":
      return value;
    case "string":
      return text(place, value);
    case "number":
      return number(place, value);
    case "object":
      return value === null ? null : structure(place, value, level);
    default:
      throw new InvalidValue(place, `is of the type ${typeof value}, which JSON does not have: leave it out, or send text`);
  }
}

function structure(place: string, value: object, level: number): unknown {
  if (level > MOST_LEVELS) {
    const top = place.split(/[.[]/, 1)[0] ?? place;
    throw new InvalidValue(top, `is nested deeper than ${MOST_LEVELS} levels: send it flatter, or as text`);
  }
  if (Array.isArray(value)) return Array.from(value, (inner, n) => plain(`${place}[${n}]`, inner, level + 1));
  if (value instanceof Date && Number.isNaN(value.getTime())) {
    throw new InvalidValue(place, "is a Date that is no time: leave it out, or send another");
  }
  if ("toJSON" in value && typeof value.toJSON === "function") return plain(place, value.toJSON(), level + 1);
  const prototype: unknown = Object.getPrototypeOf(value);
  // A plain object may be one of another page or context, whose `Object` is not this one.
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) {
    const kind = value.constructor?.name ?? "object";
    throw new InvalidValue(place, `is a ${kind}, which JSON does not have: send a plain object, an array or text`);
  }
  // As JSON leaves them out: an optional property that is not set is not given.
  const members = Object.entries(value).filter(([, inner]) => inner !== undefined);
  return Object.fromEntries(
    members.map(([name, inner]) => [key(name, place), plain(`${place}.${name}`, inner, level + 1)]),
  );
}

function key(name: string, place: string): string {
  if (SURROGATE.test(name)) {
    throw new InvalidValue(place, "has a key with a lone surrogate (half of a character): cut texts between characters");
  }
  return name;
}

function text(place: string, value: string): string {
  const half = SURROGATE.exec(value);
  if (half !== null) {
    throw new InvalidValue(
      place,
      `has a lone surrogate (half of a character) at ${half.index}: cut texts between characters, or replace it as ` +
        "toWellFormed() does",
    );
  }
  return value;
}

function number(place: string, value: number): number {
  if (!Number.isFinite(value)) {
    throw new InvalidValue(place, `is ${value}, which is no number in JSON: leave it out, or send null or text`);
  }
  const tooLarge = value < LEAST_INTEGER || value >= TOO_LARGE_INTEGER;
  if (tooLarge && Math.abs(value) < LARGEST_WRITTEN_OUT) {
    throw new InvalidValue(place, "is an integer of more than 64 bits: send it as text");
  }
  return value;
}

/** The usual spelling of a UUID. */
function identity(place: string, value: unknown): string {
  const given = typeof value === "string" ? value.toLowerCase() : "";
  const bare = given.replace(/^urn:uuid:/, "").replace(/^\{(.*)\}$/, "$1");
  if (!UUID.test(bare)) throw new InvalidValue(place, "must be a UUID such as 01980e4c-7a5e-7cc3-98c4-dc0c0c07398f");
  return bare.replaceAll("-", "").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** An id as a part of a path. */
export function segment(id: unknown): string {
  return encodeURIComponent(identity("id", id));
}

/** What the header takes. */
export function idempotencyKey(value: string): string {
  if (!/^[ -~]{1,255}$/.test(value)) {
    throw new InvalidValue("idempotencyKey", "must have 1 to 255 visible ASCII characters");
  }
  return value;
}
