// What JSON cannot say is refused, with the field and the cure, and what it can say is sent as it is.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { runInNewContext } from "node:vm";

import { Clock } from "../src/ids.js";
import { InvalidValue, StellarError } from "../src/index.js";
import { fields } from "../src/outgoing.js";

/** Arrays and objects in one another. */
function nested(levels: number): object {
  let value: object = {};
  for (let level = 1; level < levels; level++) value = level % 2 ? [value] : { a: value };
  return value;
}

class Seat {
  readonly row = 7;
}

describe("what JSON can say", () => {
  it("is copied as it is", () => {
    const metadata: Record<string, unknown> = {
      text: "whole \u{1f600}, \0\u2028",
      least: -(2 ** 63),
      large: 1.5e300,
      fraction: -0.5,
      none: null,
      yes: true,
      list: [1, [], { a: {} }],
      "": { "": "" },
      date: new Date(0),
      foreign: runInNewContext("({ a: [1] })"),
      bare: Object.assign(Object.create(null), { a: 1 }),
      ...JSON.parse('{"__proto__": {"polluted": 1}}'),
    };
    const text = JSON.stringify(metadata);
    const copy = fields({ content: "x", session: undefined, metadata });
    assert.equal(JSON.stringify(copy), `{"content":"x","metadata":${text}}`);
    metadata["later"] = NaN;
    assert.equal("later" in copy["metadata"], false);
    assert.deepEqual(fields({ metadata: nested(100) })["metadata"], nested(100));
  });
});

describe("what JSON cannot say", () => {
  const cyclic: Record<string, unknown> = {};
  cyclic["self"] = [cyclic];
  for (const [given, field, cure] of [
    [{ importance: NaN }, "importance", "leave it out"],
    [{ importance: Infinity }, "importance", "leave it out"],
    [{ metadata: { score: -Infinity } }, "metadata.score", "leave it out"],
    [{ metadata: { n: [0, 2 ** 64] } }, "metadata.n[1]", "as text"],
    [{ metadata: { n: -(2 ** 64) } }, "metadata.n", "as text"],
    [{ metadata: { n: 10n } }, "metadata.n", "send text"],
    [{ metadata: { n: [undefined] } }, "metadata.n[0]", "leave it out"],
    [{ metadata: { list: [1, , 3] } }, "metadata.list[1]", "leave it out"],
    [{ metadata: { call: () => 1 } }, "metadata.call", "leave it out"],
    [{ metadata: { name: Symbol("a") } }, "metadata.name", "leave it out"],
    [{ metadata: { at: new Date(NaN) } }, "metadata.at", "send another"],
    [{ metadata: { tags: new Set(["a"]) } }, "metadata.tags", "an array"],
    [{ metadata: new Map([["a", 1]]) }, "metadata", "a plain object"],
    [{ metadata: { seat: new Seat() } }, "metadata.seat", "a plain object"],
    [{ metadata: { raw: new Uint8Array(1) } }, "metadata.raw", "an array"],
    [{ metadata: nested(101) }, "metadata", "flatter"],
    [{ metadata: cyclic }, "metadata", "flatter"],
    [{ content: "cut \ud83d" }, "content", "between characters"],
    [{ content: "\udc00\ud83d" }, "content", "between characters"],
    [{ session: "\ud83d" }, "session", "between characters"],
    [{ speaker: "\ud83d" }, "speaker", "between characters"],
    [{ source: "\ud83d" }, "source", "between characters"],
    [{ metadata: { a: { "\ud83d": 1 } } }, "metadata.a", "between characters"],
    [{ metadata: { a: ["\ud83d"] } }, "metadata.a[0]", "between characters"],
    [{ "\ud83d": 1 }, "the fields", "between characters"],
    [{ id: "\ud83d" }, "id", "must be a UUID"],
    [{ id: 7 }, "id", "must be a UUID"],
  ] as [object, string, string][]) {
    it(`is refused: ${field}, ${cure}`, () => {
      assert.throws(
        () => fields(given),
        (error) => {
          assert.ok(error instanceof InvalidValue && error instanceof StellarError);
          assert.equal(error.field, field);
          assert.ok(error.reason.includes(cure), error.reason);
          return true;
        },
      );
    });
  }
});

describe("a clock", () => {
  it("is not moved by a time that is none", () => {
    const clock = new Clock();
    for (const text of ["2026-13-01T00:00:00Z", "2026-03-01T25:00:00Z", "soon", "", null, 7]) clock.show(text);
    assert.ok(Math.abs(Date.parse(clock.now()) - Date.now()) < 60_000);
    clock.show("9999-12-31T23:59:59.9999Z");
    assert.equal(clock.now(), "9999-12-31T23:59:59.999Z");
  });
});
