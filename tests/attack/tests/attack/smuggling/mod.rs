//! Other ways in than the honest request: forged headers, two keys, odd paths, and messages whose end is in doubt.

mod desync;
mod wire;

use attack::tries;
use futures::{StreamExt as _, stream};
use harness::{Answer, Client, DataPlane, Tenant, TenantSpec};
use reqwest::Method;
use serde_json::json;
use tokio::sync::OnceCell;

use desync::{FOLLOWING, HIDDEN, cases};
use wire::{Reply, talk};

/// In all that the victim remembers.
const SECRET: &str = "whatthevictimknows";

struct Ground {
    plane: DataPlane,
    attacker: Tenant,
    victim: Tenant,
    /// A memory of the victim's.
    memory: String,
    /// The victim's true capability.
    capability: String,
}

async fn ground() -> &'static Ground {
    static GROUND: OnceCell<Ground> = OnceCell::const_new();
    GROUND.get_or_init(prepare).await
}

async fn prepare() -> Ground {
    let environment = [("RUST_LOG", "info,engine=debug")];
    let gateway =
        ["--header-timeout", "2s", "--store-timeout", "2s", "--request-timeout", "2s", "--recall-timeout", "2s"];
    let plane = DataPlane::start_in(&environment, &[], &gateway).await.unwrap();
    let spec = TenantSpec { max_memories: -1, ..TenantSpec::default() };
    let (attacker, victim) =
        (plane.tenant("smuggler", spec).await.unwrap(), plane.tenant("smuggled", spec).await.unwrap());
    for tenant in [&attacker, &victim] {
        let client = plane.client(tenant);
        client.opens().await;
    }
    let stored = plane.client(&victim).store(&format!("{SECRET} is a secret")).await.unwrap();
    assert_eq!(plane.client(&attacker).store("the attacker's own").await.unwrap().status, 201);
    let memory = stored.body["id"].as_str().unwrap().to_owned();
    let capability = plane.master().capability(victim.id, 1).expose();
    Ground { plane, attacker, victim, memory, capability }
}

impl Ground {
    /// One raw request with the attacker's key; the answer, if there was one.
    async fn raw(&self, start: &str, headers: &str) -> Option<Reply> {
        let key = &self.attacker.key;
        let request = format!("{start}\r\nhost: a\r\nx-request-id: outer\r\nx-api-key: {key}\r\n{headers}\r\n");
        talk(self.plane.gateway.port, request.as_bytes()).await.into_iter().next()
    }

    fn knows(&self, text: &str) -> bool {
        text.contains(SECRET) || text.contains(&self.memory) || text.contains(&self.victim.id.to_string())
    }

    async fn victim_is_whole(&self) {
        let list = self.plane.client(&self.victim).get("/memories").await.unwrap();
        assert_eq!((list.status, &list.body["total"]), (200, &json!(1)), "{}", list.text);
        assert_eq!(list.body["items"][0]["id"], json!(self.memory), "{}", list.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_internal_headers_change_nothing() {
    let ground = ground().await;
    let (tenant, capability) = (ground.victim.id.to_string(), ground.capability.clone());
    let own = ground.attacker.id.to_string();
    let mut forgeries = Vec::new();
    for [t, c] in [
        ["X-Stellar-Tenant", "X-Stellar-Capability"],
        ["x-stellar-tenant", "x-stellar-capability"],
        ["X-STELLAR-TENANT", "X-STELLAR-CAPABILITY"],
        ["x-StElLaR-tEnAnT", "x-sTeLlAr-CaPaBiLiTy"],
        ["X_Stellar_Tenant", "X_Stellar_Capability"],
        ["X-Stellar_Tenant", "X-Stellar_Capability"],
    ] {
        let pair = format!("{t}: {tenant}\r\n{c}: {capability}\r\n");
        forgeries.extend([
            pair.clone(),
            format!("{pair}{pair}"),
            // Doubled, with the attacker's own first or last.
            format!("{t}: {own}\r\n{pair}"),
            format!("{pair}{t}: {own}\r\n"),
            format!("{t}: {own}, {tenant}\r\n{c}: {capability}\r\n"),
            format!("{t}:\t {tenant} \t\r\n{c}:{capability}\r\n"),
            // Named as hop-by-hop, so that the gateway's own would be dropped on the way.
            format!("{pair}connection: {t}, {c}\r\n"),
            format!("connection: {t}, {c}, x-stellar-agent, x-stellar-key-id, keep-alive\r\n"),
            format!("{pair}connection: close, {t}\r\nconnection: {c}\r\n"),
            format!("{pair}x-stellar-agent: default\r\nx-stellar-key-id: {tenant}\r\nx-stellar-generation: 1\r\n"),
            format!("{pair}x-forwarded-for: 127.0.0.1\r\nforwarded: for=127.0.0.1\r\nx-real-ip: 127.0.0.1\r\n"),
            // Not headers at all.
            format!("x-a: b\r\n {t}: {tenant}\r\n {c}: {capability}\r\n"),
            format!("{t} : {tenant}\r\n{c} : {capability}\r\n"),
            format!("x-a: b\n{t}: {tenant}\n{c}: {capability}\r\n"),
            format!("x-a: b\r{t}: {tenant}\r{c}: {capability}\r\n"),
            format!("\u{0}{t}: {tenant}\r\n{c}: {capability}\r\n"),
        ]);
    }
    let starts = [
        "GET /api/v1/memories HTTP/1.1".to_owned(),
        "GET /api/v1/timeline HTTP/1.1".to_owned(),
        "GET /api/v1/stats HTTP/1.1".to_owned(),
        format!("GET /api/v1/recall?q={SECRET} HTTP/1.1"),
        "GET /api/v1/auth/usage HTTP/1.1".to_owned(),
        "GET /api/v1/auth/api-keys HTTP/1.1".to_owned(),
        format!("DELETE /api/v1/forget/{} HTTP/1.1", ground.memory),
    ];
    let all: Vec<(&String, &String)> =
        forgeries.iter().flat_map(|headers| starts.iter().map(move |s| (s, headers))).collect();
    let (rounds, mut served, mut refused) = (tries(1, 10), 0, 0);
    for _ in 0..rounds {
        let mut replies =
            stream::iter(all.iter().map(|(start, headers)| async move { (headers, ground.raw(start, headers).await) }))
                .buffer_unordered(8);
        while let Some((headers, reply)) = replies.next().await {
            let Some(reply) = reply else {
                refused += 1;
                continue;
            };
            assert!(!ground.knows(&reply.body) && !ground.knows(&reply.head), "{headers:?} was answered {reply:?}");
            assert!(matches!(reply.status, 200 | 400 | 404), "{headers:?} was answered {reply:?}");
            if reply.status == 200 { served += 1 } else { refused += 1 }
        }
    }
    println!(
        "{} forgeries: {served} served as the attacker, {refused} refused, none as the victim",
        all.len() * rounds
    );
    assert!(served > refused, "most are served with what is forged left out");
    ground.victim_is_whole().await;

    // What the gateway keeps off would open the door: the same headers, sent to the engine itself.
    let inside = Client::new(&format!("http://127.0.0.1:{}", ground.plane.engine.port), "unused");
    let request = inside.request(Method::GET, "/memories");
    let request = request.header("X-Stellar-Tenant", &tenant).header("X-Stellar-Capability", &capability);
    let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
    assert!(
        answer.status == 200 && ground.knows(&answer.text),
        "without the gateway the forgery works: {}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_are_refused_and_a_key_elsewhere_is_none() {
    let ground = ground().await;
    let (own, other) = (&ground.attacker.key, &ground.victim.key);
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let http = reqwest::Client::new();
        let request = http.get(format!("{}/api/v1{path}", ground.plane.url()));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Answer::read(request.send().await.unwrap()).await.unwrap()
    };
    let (bearer_own, bearer_other) = (format!("Bearer {own}"), format!("bearer {other}"));
    for headers in [
        &[("X-API-Key", &**own), ("Authorization", &*bearer_other)][..],
        &[("Authorization", &bearer_other), ("x-api-key", own)],
        &[("Authorization", &bearer_own), ("X-Api-Key", other)],
        &[("X-API-KEY", own), ("x-api-key", other)],
        &[("Authorization", &bearer_own), ("authorization", &bearer_other)],
    ] {
        let answer = ask("/memories", headers).await;
        assert_eq!((answer.status, answer.problem()), (400, Some("invalid-request")), "{}", answer.text);
        assert!(answer.body["detail"].as_str().unwrap().contains("different keys"), "{}", answer.text);
    }
    // One value that holds two keys is no key.
    for joined in
        [format!("{own},{other}"), format!("{own}, {other}"), format!("{own} {other}"), format!("{other}\t{own}")]
    {
        assert_eq!(ask("/memories", &[("x-api-key", &joined)]).await.problem(), Some("invalid-api-key"));
    }
    for name in [
        "X_API_KEY",
        "X-Api-Keys",
        "Api-Key",
        "X-Stellar-Key",
        "Proxy-Authorization",
        "Cookie",
        "X-Original-Authorization",
    ] {
        let answer = ask("/memories", &[(name, &format!("Bearer {other}"))]).await;
        assert_eq!((answer.status, answer.problem()), (401, Some("missing-api-key")), "{name}: {}", answer.text);
    }
    for name in ["api_key", "x-api-key", "X-API-Key", "key", "token", "access_token", "authorization", "apikey"] {
        let answer = ask(&format!("/memories?{name}={other}"), &[]).await;
        assert_eq!((answer.status, answer.problem()), (401, Some("missing-api-key")), "{name}: {}", answer.text);
        let answer = ask(&format!("/memories?{name}={other}"), &[("x-api-key", own)]).await;
        assert_eq!((answer.status, answer.problem()), (400, Some("invalid-request")), "{name}: {}", answer.text);
        assert!(
            answer.body["detail"].as_str().unwrap().contains(name) && !answer.text.contains(other),
            "{}",
            answer.text
        );
        for local in ["/auth/usage", "/auth/api-keys"] {
            let answer = ask(&format!("{local}?{name}={other}"), &[("x-api-key", own)]).await;
            assert!(answer.status == 200 && !ground.knows(&answer.text), "{local}: {}", answer.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_paths_lead_nowhere() {
    let ground = ground().await;
    let (memory, victim) = (&ground.memory, ground.victim.id);
    let mut paths: Vec<String> = [
        "//api/v1/memories",
        "/api//v1/memories",
        "/api/v1//memories",
        "/api/v1/memories/",
        "/api/v1/memories//",
        "/api/v1/./memories",
        "/api/v1/x/../memories",
        "/api/v1/%2e/memories",
        "/api/v1/%6demories",
        "/API/V1/MEMORIES",
        "/api/v1/memories;tenant=x",
        "/api/v1/memories;/",
        "/api/v1;/memories",
        "/api/v1/memories%00",
        "/api/v1/memories%20",
        "/api/v1/memories%3flimit=1",
        "/api/v1/memories%23",
        "/api/v1%2fmemories",
        "/api%2fv1%2fmemories",
        "\\api\\v1\\memories",
        "/health/../api/v1/memories",
        "/health/%2e%2e/api/v1/memories",
        "/health;/../api/v1/memories",
        "/metrics",
        "/readyz",
        "/healthz",
        "/api/v1/../../metrics",
        "/api/v2/memories",
        "/api/v1/sync",
        "/.env",
        "/api/v1/store/../memories",
        "/api/v1/forget/%2e%2e/memories",
        "/api/v1/forget/..%2fmemories",
        "/api/v1/forget/..;/memories",
        "/api/v1/forget/%2e%2e%2fmemories",
        "/api/v1/forget/%252e%252e%252fmemories",
        "/api/v1/forget/..%5cmemories",
        "/api/v1/forget/..%c0%afmemories",
        "/api/v1/auth/api-keys/..%2fusage",
        "/api/v1/auth/../memories",
        "http://victim.example/api/v1/nothing",
        "*",
        "victim.example:443",
    ]
    .map(str::to_owned)
    .to_vec();
    for from in ["forget", "auth/api-keys"] {
        paths.extend([
            format!("/api/v1/{from}/{memory}%2f"),
            format!("/api/v1/{from}/{memory}/"),
            format!("/api/v1/{from}/{memory};a"),
            format!("/api/v1/{from}/{memory}%00"),
            format!("/api/v1/{from}/%7b{memory}%7d"),
            format!("/api/v1/{from}/{memory}%0a"),
            format!("/api/v1/{from}/../{victim}/forget/{memory}"),
            format!("/api/v1/{victim}/{from}/{memory}"),
            format!("/api/v1/{from}/..%2f..%2f{victim}%2fforget%2f{memory}"),
            format!("//{victim}/api/v1/{from}/{memory}"),
        ]);
    }
    let cases: Vec<(&str, &String)> = ["GET", "DELETE", "POST", "OPTIONS", "TRACE", "CONNECT"]
        .iter()
        .flat_map(|m| paths.iter().map(move |p| (*m, p)))
        .collect();
    let mut replies = stream::iter(cases.iter().map(|(method, path)| async move {
        (method, path, ground.raw(&format!("{method} {path} HTTP/1.1"), "").await)
    }))
    .buffer_unordered(8);
    while let Some((method, path, reply)) = replies.next().await {
        let Some(reply) = reply else { continue };
        assert!((400..500).contains(&reply.status), "{method} {path} was answered {reply:?}");
        // What is no HTTP is refused before there is a handler, and so without a body.
        assert!(reply.body.is_empty() || reply.body.contains("/problems/"), "{method} {path} was answered {reply:?}");
        assert!(!reply.body.contains(SECRET), "{method} {path} was answered {reply:?}");
    }
    println!("{} odd requests", cases.len());
    ground.victim_is_whole().await;
    // The whole address in the request line is the honest form for a proxy, and names no tenant.
    let whole = ground.raw("GET http://victim.example/api/v1/memories HTTP/1.1", "").await.unwrap();
    assert!(
        whole.status == 200 && whole.body.contains("the attacker's own") && !ground.knows(&whole.body),
        "{whole:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_answered_twice_and_none_reaches_another_client() {
    let ground = ground().await;
    let (port, cases) = (ground.plane.gateway.port, cases(&ground.attacker.key));
    let (rounds, mut answered, mut cut_off) = (tries(1, 25), 0, 0);
    let victim = &ground.plane.client(&ground.victim);
    for _ in 0..rounds {
        let mut talks = stream::iter(cases.iter().map(|case| async move {
            // Beside each case the victim asks, over connections that share the way to the engine with the attacker's.
            let (replies, list) = tokio::join!(talk(port, &case.bytes), victim.get("/memories"));
            (case, replies, list.unwrap())
        }))
        .buffer_unordered(8);
        while let Some((case, replies, list)) = talks.next().await {
            // Bytes that are no request end the connection with a refusal of the server's own, which reached no handler.
            let is_end = |reply: &Reply| {
                reply.request_id.is_empty()
                    && [400, 431].contains(&reply.status)
                    && reply.head.contains("connection: close")
            };
            let before_end = match replies.split_last() {
                Some((last, before)) if is_end(last) => before,
                _ => &replies[..],
            };
            let own = before_end
                .iter()
                .filter(|reply| reply.status >= 200 && reply.request_id != "last" && reply.request_id != FOLLOWING);
            assert!(own.count() <= 1, "{} was answered {replies:#?}", case.name);
            assert!(replies.iter().all(|reply| reply.request_id != HIDDEN), "{} was answered {replies:#?}", case.name);
            assert!(!replies.iter().any(|reply| ground.knows(&reply.body)), "{} was answered {replies:#?}", case.name);
            assert!(
                list.status == 200 && list.text.contains(SECRET),
                "beside {} the victim read {}",
                case.name,
                list.text
            );
            if replies.iter().any(|reply| reply.request_id == "last") { answered += 1 } else { cut_off += 1 }
        }
    }
    println!("{} messages: {cut_off} connections cut off, {answered} went on", cases.len() * rounds);
    for log in [ground.plane.gateway.log(), ground.plane.engine.log()] {
        assert!(log.contains(FOLLOWING), "an honest request that follows is answered and logged");
        assert!(!log.contains(HIDDEN), "what was hidden has reached a handler");
    }
    ground.victim_is_whole().await;
}
