//! Every endpoint, asked in the attacker's name, with one thing in the request that is somebody else's.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::ground::{Attacker, Thing};

/// One way of naming a thing.
pub struct Probe {
    pub name: &'static str,
    pub request: fn(&Attacker, &Thing) -> RequestBuilder,
}

const fn probe(name: &'static str, request: fn(&Attacker, &Thing) -> RequestBuilder) -> Probe {
    Probe { name, request }
}

/// The tenant's own memory by its id, and so for everything else that has one.
pub const FORGET: Probe = probe("forget", |a, t| delete(a, &format!("/forget/{}", t.memory)));
pub const READ: Probe = probe("read", |a, t| get(a, &format!("/memories/{}", t.memory)));
pub const UPDATE: Probe = probe("update", update);
pub const REVOKE: Probe = probe("revoke a key", |a, t| delete(a, &format!("/auth/api-keys/{}", t.key)));
pub const ROTATE: Probe = probe("rotate a key", |a, t| post(a, &format!("/auth/api-keys/{}/rotate", t.key)));
pub const LIST: Probe =
    probe("list from a cursor", |a, t| get(a, &format!("/memories?limit=2&cursor={}", t.list_cursor)));
pub const TIMELINE: Probe =
    probe("timeline from a cursor", |a, t| get(a, &format!("/timeline?limit=2&cursor={}", t.time_cursor)));
/// Past the gateway, with the attacker's own proof: what a pod in the cluster could do without network policies.
pub const PAST_THE_GATEWAY: Probe = probe("past the gateway: list", |a, t| past(a, t, Method::GET, "/memories"));

/// The only one that uses the key so: a second one would find the first one's answer, or not.
pub const FORGET_WITH_KEY: Probe = probe("forget with the victim's Idempotency-Key", |a, t| {
    delete(a, &format!("/forget/{}", t.memory)).header("idempotency-key", &t.operation)
});
/// What concerns one memory, as operations of a batch.
pub const BATCH: Probe = probe("a batch", batch);

/// All of them.
pub const PROBES: &[Probe] = &[
    FORGET,
    READ,
    UPDATE,
    REVOKE,
    ROTATE,
    LIST,
    TIMELINE,
    PAST_THE_GATEWAY,
    probe("forget, spelled in upper case", |a, t| {
        delete(a, &format!("/forget/{}", t.memory.to_string().to_uppercase()))
    }),
    probe("forget, spelled without hyphens", |a, t| delete(a, &format!("/forget/{}", t.memory.simple()))),
    probe("forget, spelled as a URN", |a, t| delete(a, &format!("/forget/{}", t.memory.urn()))),
    FORGET_WITH_KEY,
    probe("forget, naming the tenant in headers", |a, t| named(delete(a, &format!("/forget/{}", t.memory)), t)),
    probe("forget, naming the tenant in the query", |a, t| {
        delete(a, &format!("/forget/{}?user_id={}", t.memory, t.tenant))
    }),
    probe("read, spelled in upper case", |a, t| get(a, &format!("/memories/{}", t.memory.to_string().to_uppercase()))),
    probe("read, naming the tenant in headers", |a, t| named(get(a, &format!("/memories/{}", t.memory)), t)),
    probe("read, naming the tenant in the query", |a, t| {
        get(a, &format!("/memories/{}?user_id={}", t.memory, t.tenant))
    }),
    probe("update, later than any write", |a, t| {
        let request = a.client.request(Method::PATCH, &format!("/memories/{}", t.memory));
        request.json(&json!({ "importance": 0.9, "at": "9000-01-01T00:00:00Z" }))
    }),
    probe("update, earlier than any write", |a, t| {
        let request = a.client.request(Method::PATCH, &format!("/memories/{}", t.memory));
        request.json(&json!({ "metadata": {}, "at": "1000-01-01T00:00:00Z" }))
    }),
    probe("update, naming the tenant in headers", |a, t| named(update(a, t), t)),
    probe("update, naming the tenant in the body", |a, t| {
        let request = a.client.request(Method::PATCH, &format!("/memories/{}", t.memory));
        request.json(&json!({ "content": "x", "user_id": t.tenant }))
    }),
    BATCH,
    probe("a batch, naming the tenant in headers", |a, t| named(batch(a, t), t)),
    probe("a batch with the victim's Idempotency-Key", |a, t| batch(a, t).header("idempotency-key", &t.operation)),
    probe("a batch, naming the tenant in an operation", |a, t| {
        let operation = json!({ "op": "remove", "id": t.memory, "user_id": t.tenant });
        a.client.request(Method::POST, "/batch").json(&json!({ "operations": [operation] }))
    }),
    probe("a batch with an operation of the victim's name", |a, t| {
        let operation = json!({ "op": "remove", "op_id": t.operation, "id": t.memory });
        a.client.request(Method::POST, "/batch").json(&json!({ "operations": [operation] }))
    }),
    probe("forget a key's id", |a, t| delete(a, &format!("/forget/{}", t.key))),
    probe("revoke the operator's key", |a, t| delete(a, &format!("/auth/api-keys/{}", t.managed_key))),
    probe("revoke a key, naming the tenant in headers", |a, t| {
        named(delete(a, &format!("/auth/api-keys/{}", t.key)), t)
    }),
    probe("revoke a memory's id", |a, t| delete(a, &format!("/auth/api-keys/{}", t.memory))),
    probe("rotate the operator's key", |a, t| post(a, &format!("/auth/api-keys/{}/rotate", t.managed_key))),
    probe("rotate a key without an overlap, naming the tenant in headers", |a, t| {
        named(post(a, &format!("/auth/api-keys/{}/rotate", t.key)), t).json(&json!({ "overlap_seconds": 0 }))
    }),
    probe("rotate a memory's id", |a, t| post(a, &format!("/auth/api-keys/{}/rotate", t.memory))),
    probe("list, naming the tenant in headers", |a, t| named(get(a, "/memories"), t)),
    probe("list, naming the tenant in the query", |a, t| get(a, &format!("/memories?tenant={}", t.tenant))),
    probe("list from a cursor, naming the tenant in headers", |a, t| {
        named(get(a, &format!("/memories?cursor={}", t.list_cursor)), t)
    }),
    probe("list from the cursor of another list", |a, t| get(a, &format!("/memories?cursor={}", t.time_cursor))),
    probe("list a zone from an offset of the victim's", |a, t| get(a, &format!("/memories?zone=2&offset={}", t.seq))),
    probe("audit from a cursor", |a, t| get(a, &format!("/audit?limit=500&cursor={}", t.audit_cursor))),
    probe("audit, naming the tenant in headers", |a, t| named(get(a, "/audit"), t)),
    probe("timeline, naming the tenant in headers", |a, t| named(get(a, "/timeline"), t)),
    probe("timeline at an instant of the victim's", |a, t| {
        get(a, &format!("/timeline?start={}&end={}", t.instant, t.instant))
    }),
    probe("recall a word of the victim's", |a, t| get(a, &format!("/recall?q={}", t.word))),
    probe("recall, naming the tenant in headers", |a, t| named(get(a, &format!("/recall?q={}", t.word)), t)),
    probe("recall a memory's id", |a, t| get(a, &format!("/recall?q={}", t.memory.simple()))),
    probe("narrate a word of the victim's", |a, t| {
        a.client.request(Method::POST, "/narrate").json(&json!({ "topic": t.word }))
    }),
    probe("narrate, naming the tenant in the body", |a, t| {
        a.client.request(Method::POST, "/narrate").json(&json!({ "topic": t.word, "tenant": t.tenant }))
    }),
    probe("store, naming the tenant in the body", |a, t| {
        a.client.request(Method::POST, "/store").json(&json!({ "content": "x", "user_id": t.tenant }))
    }),
    probe("export, naming the tenant in headers", |a, t| named(get(a, "/export"), t)),
    probe("export, naming the tenant in the query", |a, t| get(a, &format!("/export?user_id={}", t.tenant))),
    probe("import, naming the tenant as the owner", |a, t| {
        let line = json!({ "id": t.memory, "content": "x", "user_id": t.tenant });
        a.client.request(Method::POST, "/import").header("content-type", "application/x-ndjson").body(line.to_string())
    }),
    probe("a list that the attacker claims to have", |a, t| {
        get(a, "/memories").header("if-none-match", format!("\"{}\"", t.memory.simple()))
    }),
    probe("statistics, naming the tenant in headers", |a, t| named(get(a, "/stats"), t)),
    probe("statistics, naming the tenant in the query", |a, t| get(a, &format!("/stats?user_id={}", t.tenant))),
    probe("usage, naming the tenant in headers", |a, t| named(get(a, "/auth/usage"), t)),
    probe("usage, naming the tenant in the query", |a, t| get(a, &format!("/auth/usage?tenant={}", t.tenant))),
    probe("keys from a cursor", |a, t| get(a, &format!("/auth/api-keys?limit=2&cursor={}", t.key_cursor))),
    probe("keys, naming the tenant in headers", |a, t| named(get(a, "/auth/api-keys"), t)),
    probe("agents, naming the tenant in headers", |a, t| named(get(a, "/auth/agents"), t)),
    // Names are paged by their order: with its first letter, whatever the word is, the attacker's own agent comes after it.
    probe("agents after a name of the victim's", |a, t| get(a, &format!("/auth/agents?cursor=a{}", t.word))),
    probe("make a key, naming the tenant in the body", |a, t| {
        a.client.request(Method::POST, "/auth/api-keys").json(&json!({ "agent": "planner", "user_id": t.tenant }))
    }),
    probe("events after the victim's last", |a, t| get(a, "/events").header("last-event-id", t.seq)),
    probe("events since a number of the victim's", |a, t| get(a, &format!("/events?since={}", t.seq))),
    probe("events from the first on, naming the tenant in headers", |a, t| named(get(a, "/events?since=0"), t)),
    probe("events, with a memory's id for a number", |a, t| {
        get(a, "/events").header("last-event-id", t.memory.to_string())
    }),
    probe("HEAD of a list from a cursor", |a, t| {
        a.client.request(Method::HEAD, &format!("/memories?cursor={}", t.list_cursor))
    }),
    probe("a path that does not exist", |a, t| get(a, &format!("/memory/{}", t.memory))),
    probe("past the gateway: read", |a, t| past(a, t, Method::GET, &format!("/memories/{}", t.memory))),
    probe("past the gateway: update", |a, t| {
        past(a, t, Method::PATCH, &format!("/memories/{}", t.memory)).json(&json!({ "content": "x" }))
    }),
    probe("past the gateway: a batch", |a, t| {
        let operation = json!({ "op": "remove", "id": t.memory });
        past(a, t, Method::POST, "/batch").json(&json!({ "operations": [operation] }))
    }),
    probe("past the gateway: forget", |a, t| past(a, t, Method::DELETE, &format!("/forget/{}", t.memory))),
    probe("past the gateway: export", |a, t| past(a, t, Method::GET, "/export")),
    probe("past the gateway: changes", |a, t| past(a, t, Method::GET, "/../../internal/v1/changes?since=0")),
    probe("past the gateway: the victim's proof for the attacker's rows", |a, t| {
        let request = a.engine.request(Method::GET, "/stats");
        request.header("x-stellar-tenant", a.tenant.id.to_string()).header("x-stellar-capability", &t.capability)
    }),
];

fn get(attacker: &Attacker, path: &str) -> RequestBuilder {
    attacker.client.request(Method::GET, path)
}

fn post(attacker: &Attacker, path: &str) -> RequestBuilder {
    attacker.client.request(Method::POST, path)
}

fn delete(attacker: &Attacker, path: &str) -> RequestBuilder {
    attacker.client.request(Method::DELETE, path)
}

pub fn update(attacker: &Attacker, thing: &Thing) -> RequestBuilder {
    let request = attacker.client.request(Method::PATCH, &format!("/memories/{}", thing.memory));
    request.json(&json!({ "content": "the attacker's own" }))
}

fn batch(attacker: &Attacker, thing: &Thing) -> RequestBuilder {
    let operations = json!([
        { "op": "update", "id": thing.memory, "content": "the attacker's own", "at": "9000-01-01T00:00:00Z" },
        { "op": "update", "id": thing.memory, "importance": 1.0 },
        { "op": "remove", "id": thing.memory },
    ]);
    attacker.client.request(Method::POST, "/batch").json(&json!({ "operations": operations }))
}

/// Every header in which a tenant has ever been named, the victim's true capability among them.
fn named(request: RequestBuilder, thing: &Thing) -> RequestBuilder {
    let tenant = thing.tenant.to_string();
    request
        .header("X-Stellar-Tenant", &tenant)
        .header("X-Stellar-Capability", &thing.capability)
        .header("X-Stellar-Key-Id", thing.key.to_string())
        .header("X-Stellar-Agent", "default")
        .header("X-Tenant-Id", &tenant)
        .header("X-User-Id", &tenant)
        .header("X-Forwarded-User", &tenant)
        .header("X-Original-URL", format!("/api/v1/forget/{}", thing.memory))
        .header("Cookie", format!("tenant={tenant}"))
}

fn past(attacker: &Attacker, thing: &Thing, method: Method, path: &str) -> RequestBuilder {
    let request = attacker.engine.request(method, path).header("x-stellar-tenant", thing.tenant.to_string());
    request.header("x-stellar-capability", &attacker.capability)
}
