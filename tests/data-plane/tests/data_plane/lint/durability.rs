//! What was acknowledged is on disk, whatever the database is set to.

use harness::{DataPlane, TenantSpec, eventually};
use serde_json::json;

/// Notes for each write with what its transaction is committed, and what its session would do by itself.
const OBSERVE: &str = "
    CREATE TABLE public.observed (relation text, transaction text, session text);
    CREATE FUNCTION public.observe() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        INSERT INTO public.observed SELECT TG_TABLE_NAME, current_setting(s.name), s.reset_val
        FROM pg_settings s WHERE s.name = 'synchronous_commit';
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER observe AFTER INSERT ON stellar.memories DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION public.observe();
    CREATE CONSTRAINT TRIGGER observe AFTER INSERT OR UPDATE OF revoked_at ON stellar.api_keys DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION public.observe()";

/// The sessions that began with another setting.
const END_SESSIONS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE usename IN ('stellar_pool', 'stellar_gateway')";

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_database_still_commits_writes_durably() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("durable", TenantSpec::default()).await.unwrap();
    let mut superuser = plane.postgres.superuser("stellar").await.unwrap();
    for statement in ["ALTER DATABASE stellar SET synchronous_commit = off", OBSERVE, END_SESSIONS] {
        sqlx::raw_sql(statement).execute(&mut superuser).await.unwrap();
    }
    let client = plane.client(&tenant);
    client.opens().await;
    // A request that meets an ended session is asked again.
    let made = eventually("a memory is stored and a key made", || async {
        let stored = client.store("acknowledged").await.unwrap();
        let made = client.post("/auth/api-keys", &json!({ "agent": "default" })).await.unwrap();
        (stored.status == 201 && made.status == 201).then_some(made)
    })
    .await;
    let revoke = format!("/auth/api-keys/{}", made.body["id"].as_str().unwrap());
    assert_eq!(client.delete(&revoke).await.unwrap().status, 200);

    let observed = "SELECT DISTINCT relation, transaction, session FROM public.observed ORDER BY relation";
    let observed: Vec<(String, String, String)> = sqlx::query_as(observed).fetch_all(&mut superuser).await.unwrap();
    let durable = |relation: &str| (relation.to_owned(), "on".to_owned(), "off".to_owned());
    assert_eq!(observed, [durable("api_keys"), durable("memories")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_keeps_a_stricter_commit() {
    let plane = DataPlane::start().await.unwrap();
    let tenant = plane.tenant("stricter", TenantSpec::default()).await.unwrap();
    let mut pool = plane.login("pool").await.unwrap();
    for (session, expected) in
        [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
    {
        let set = sqlx::query("SELECT set_config('synchronous_commit', $1, false)").bind(session);
        set.execute(&mut pool).await.unwrap();
        let mut transaction = sqlx::Connection::begin(&mut pool).await.unwrap();
        let entered = sqlx::query("SELECT FROM stellar.enter($1, $2, 'default', true)")
            .bind(tenant.id.uuid())
            .bind(plane.master().capability(tenant.id, 1).as_bytes().as_slice())
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
        assert_eq!(entered.len(), 1, "it is served");
        let shown = sqlx::query_scalar("SELECT pg_catalog.current_setting('synchronous_commit')");
        let shown: String = shown.fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(shown, expected, "in a session with {session}");
    }
}
