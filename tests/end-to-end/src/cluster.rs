//! kubectl, and the tenants that a test makes with it.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    time::Duration,
};

use harness::{Client, eventually_within};
use serde_json::{Value, json};

/// The namespace of the installation.
pub const SYSTEM: &str = "stellar-system";

/// What was deleted or edited is as it was within this time.
pub const BACK: Duration = Duration::from_secs(10);
/// Long enough for a pod to be scheduled, started and ready on a busy machine.
pub const POD: Duration = Duration::from_mins(3);

/// Runs kubectl; what it printed, whether it succeeded or not.
pub fn kubectl(args: &[&str], stdin: Option<&str>) -> Output {
    let mut child = Command::new("kubectl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is on the PATH: `. .local/env`");
    child.stdin.take().unwrap().write_all(stdin.unwrap_or_default().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs kubectl, which must succeed; its standard output.
pub fn done(args: &[&str]) -> String {
    let output = kubectl(args, None);
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Applies an object; the error text when the API server refuses it.
pub fn apply(object: &Value) -> Result<(), String> {
    let output = kubectl(&["apply", "-f", "-"], Some(&object.to_string()));
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// An object as JSON, or nothing if there is none.
pub fn get(kind: &str, name: &str, namespace: Option<&str>) -> Option<Value> {
    let mut args = vec!["get", kind, name, "-o", "json", "--ignore-not-found"];
    if let Some(namespace) = namespace {
        args.extend(["-n", namespace]);
    }
    serde_json::from_str(&done(&args)).ok()
}

/// A text of a Secret, or nothing if there is none.
pub fn secret(name: &str, key: &str, namespace: &str) -> Option<String> {
    get("secret", name, Some(namespace))?["data"][key].as_str().map(decode)
}

/// One value of one SQL statement, run by the administrator inside the Postgres pod.
pub fn sql(statement: &str) -> String {
    let shell = r#"PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") exec psql -h 127.0.0.1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -qtAf -"#;
    let args = ["exec", "-i", "-n", SYSTEM, "stellar-memory-postgres-0", "--", "sh", "-c", shell];
    let output = kubectl(&args, Some(statement));
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A tenant of one test. Deleted, rows and all, when the test ends.
pub struct Tenant {
    pub name: String,
}

impl Tenant {
    /// Applies a Tenant whose request rate no test meets by chance. Not yet Ready.
    pub fn apply(name: &str, spec: &Value) -> Self {
        let mut whole = json!({ "deletionPolicy": "Delete", "limits": { "requestsPerMinute": 1_000_000 } });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        apply(&object(name, &whole)).unwrap();
        Self { name: name.to_owned() }
    }

    /// Applies a Tenant and waits as the README says: `kubectl wait --for=condition=Ready`.
    pub fn ready(name: &str, spec: &Value) -> Self {
        let tenant = Self::apply(name, spec);
        tenant.wait_ready();
        tenant
    }

    pub fn wait_ready(&self) {
        done(&["wait", "--for=condition=Ready", &format!("tenant/{}", self.name), "--timeout=180s"]);
    }

    pub fn object(&self) -> Value {
        get("tenant", &self.name, None).expect("the Tenant exists")
    }

    pub fn user_id(&self) -> String {
        self.object()["status"]["userId"].as_str().unwrap().to_owned()
    }

    /// Its namespace, were it dedicated.
    pub fn namespace(&self) -> String {
        format!("stellar-tenant-{}", self.name)
    }

    pub fn patch(&self, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        done(&["patch", "tenant", &self.name, "--type", "merge", "-p", &patch]);
    }

    /// A client with the key that the operator put into the Secret.
    pub fn client(&self) -> Client {
        let key = secret(&format!("{}-api-key", self.name), "api-key", SYSTEM).expect("the key is in its Secret");
        Client::new(&gateway_url(), &key)
    }

    pub async fn placed(&self, placement: &str) {
        let what = format!("{} is {placement} and Ready", self.name);
        eventually_within(POD, &what, || async {
            let object = self.object();
            let ready = condition(&object, "Ready") == Some("True");
            let settled = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            (object["status"]["placement"] == placement && ready && settled).then_some(())
        })
        .await;
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        // A test that failed must not leave its tenant to the others; a second failure here would hide the first.
        kubectl(&["delete", "tenant", &self.name, "--ignore-not-found", "--wait=false"], None);
    }
}

pub fn object(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "stellar-memory.dev/v1alpha1", "kind": "Tenant", "metadata": { "name": name }, "spec": spec })
}

/// The status of a condition: `True`, `False`, `Unknown`, or nothing if there is no such condition.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    of_condition(object, kind, "status")
}

/// Since when a condition has its status.
pub fn since<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    of_condition(object, kind, "lastTransitionTime")
}

fn of_condition<'a>(object: &'a Value, kind: &str, field: &str) -> Option<&'a str> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?[field].as_str()
}

/// The columns of a Tenant, in their order.
const COLUMNS: [&str; 9] = ["NAME", "TIER", "PLACEMENT", "READY", "MEMORIES", "AGE", "PHASE", "REASON", "USER-ID"];

/// What `kubectl get tenants -o wide` shows of a Tenant.
#[derive(Debug)]
pub struct Row {
    pub name: String,
    pub tier: String,
    pub placement: String,
    pub ready: String,
    pub memories: String,
    pub age: String,
    pub phase: String,
    pub reason: String,
    pub user_id: String,
}

/// The row of a Tenant, read from the table that a user sees: custom columns would be the test's own.
pub fn row(name: &str) -> Row {
    Row::of(&done(&["get", "tenant", name, "-o", "wide"]))
}

impl Row {
    /// Cells are told apart by where their headings begin. An empty one is as blank as the gap between two, so the
    /// words of the line alone do not tell which one it is.
    fn of(table: &str) -> Self {
        let (headings, line) = table.split_once('\n').expect("headings and a row");
        assert_eq!(headings.split_whitespace().collect::<Vec<_>>(), COLUMNS);
        let starts = COLUMNS.map(|column| headings.find(column).unwrap());
        let cell = |n: usize| {
            let end = starts.get(n + 1).map_or(line.len(), |next| line.len().min(*next));
            line.get(starts[n]..end).unwrap_or_default().trim().to_owned()
        };
        let cells: [String; 9] = std::array::from_fn(cell);
        let [name, tier, placement, ready, memories, age, phase, reason, user_id] = cells;
        Self { name, tier, placement, ready, memories, age, phase, reason, user_id }
    }
}

/// Whether an event of this type (`Normal` or `Warning`) and reason is there about this very Tenant, not about a former
/// one of its name. Events about what has no namespace are in `default`.
pub fn told(tenant: &str, kind: &str, reason: &str) -> bool {
    let object = get("tenant", tenant, None).expect("the Tenant exists");
    let uid = object["metadata"]["uid"].as_str().unwrap();
    let about = format!("involvedObject.kind=Tenant,involvedObject.uid={uid},type={kind},reason={reason}");
    !done(&["get", "events", "-n", "default", "--field-selector", &about, "-o", "name"]).trim().is_empty()
}

/// Stops (`stop`) or starts (`start`) a part of the node, such as its API server.
pub fn node(verb: &str, part: &str) {
    let folder = std::env::var("NODE_DIR").expect("NODE_DIR is set: `. .local/env`");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/node");
    let output = Command::new(script).args([verb, &folder, part]).output().unwrap();
    assert!(output.status.success(), "node {verb} {part}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn gateway_url() -> String {
    std::env::var("GATEWAY_URL").expect("GATEWAY_URL is set: `. .local/env`")
}

fn decode(base64: &str) -> String {
    let mut child =
        Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("base64 is there");
    child.stdin.take().unwrap().write_all(base64.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cell_is_empty_and_the_others_stay_in_their_columns() {
        let table = concat!(
            "NAME   TIER   PLACEMENT   READY   MEMORIES   AGE   PHASE     REASON   USER-ID\n",
            "ada    free                                  3s    Pending\n"
        );
        let row = Row::of(table);
        assert_eq!((&*row.name, &*row.tier, &*row.age, &*row.phase), ("ada", "free", "3s", "Pending"));
        assert_eq!([row.placement, row.ready, row.memories, row.reason, row.user_id], [""; 5]);
    }
}
