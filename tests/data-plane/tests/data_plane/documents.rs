//! What the programs say of themselves and what `docs/` says of them is the same.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf, process::Command};

use harness::binary;

use crate::{shared, tenant};

fn document(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// The names of metrics on a page, without the endings of samples.
fn names(page: &str) -> BTreeSet<String> {
    let declared = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    declared
        .filter_map(|line| {
            let (name, kind) = line.split_once(' ')?;
            Some(if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented() {
    let plane = shared().await;
    let client = plane.client(&tenant("measured").await);
    assert_eq!(client.store("something to measure").await.unwrap().status, 201);
    assert_eq!(client.recall("measure").await.unwrap().status, 200);
    let documented = fs::read_to_string(document("metrics.md")).unwrap();
    for program in [&plane.gateway, &plane.engine] {
        let found = names(&program.metrics().await.unwrap());
        assert!(found.len() > 8, "{found:?}");
        for name in &found {
            assert!(documented.contains(&format!("`{name}`")), "docs/metrics.md says nothing of {name}");
        }
    }
}

/// The names of metrics that a crate registers under a prefix, without the ending of counters.
fn registered(prefix: &str, package: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(package).join("src/metrics.rs");
    let source = fs::read_to_string(path).unwrap();
    let name = |call: &str| {
        let arguments = call.split(");").next()?;
        let name = arguments.split('"').nth(1)?;
        let unit = arguments.split_once("Unit::").map(|(_, rest)| rest.split(',').next().unwrap_or_default());
        let unit = unit.map(|unit| format!("_{}", unit.to_lowercase())).unwrap_or_default();
        Some(format!("{prefix}_{name}{unit}"))
    };
    source.split(".register").skip(1).filter_map(name).collect()
}

/// A page of metrics leaves out what has labels and was not counted yet: the source does not.
#[test]
fn the_documented_metrics_are_those_that_the_programs_register() {
    let packages = [
        ("stellar_gateway", "gateway"),
        ("stellar_gateway", "sync"),
        ("stellar_engine", "engine"),
        ("stellar_operator", "operator"),
    ];
    let registered: BTreeSet<String> =
        packages.into_iter().flat_map(|(prefix, package)| registered(prefix, package)).collect();
    let page = fs::read_to_string(document("metrics.md")).unwrap();
    let names = page.split('`').filter(|word| word.starts_with("stellar_"));
    let documented: BTreeSet<String> = names.map(|name| name.trim_end_matches("_total").to_owned()).collect();
    assert_eq!(&documented ^ &registered, BTreeSet::new(), "only in docs/metrics.md, or only in a program");
}

/// `docs/configuration.md` is what the programs answer to `--help`. `UPDATE_GENERATED=1` writes it.
#[test]
fn the_configuration_is_documented_as_the_programs_tell_it() {
    let mut text = String::from(
        "# Configuration of the programs\n\nWhat each program answers to `--help`. On Kubernetes the chart sets all of it: see \
         its [README](../charts/stellar-memory/README.md).\n\nThe log is set by `LOG_FORMAT` (`json` or `text`) and \
         `RUST_LOG` or `LOG_LEVEL` (a filter such as `info` or `info,engine=debug`). Traces are set by OpenTelemetry's own \
         variables and leave by OTLP over HTTP when an endpoint is given: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or \
         `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, \
         `OTEL_TRACES_SAMPLER` and its `_ARG`, `OTEL_BSP_SCHEDULE_DELAY`, `OTEL_BSP_MAX_QUEUE_SIZE`, \
         `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`; `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none` switch them off.\n",
    );
    let programs: [&[&str]; 6] = [
        &["gateway"],
        &["engine"],
        &["operator", "run"],
        &["operator", "migrate"],
        &["operator", "lint-database"],
        &["operator", "smoke-test"],
    ];
    for words in programs {
        let output =
            Command::new(binary(words[0]).unwrap()).args(&words[1..]).arg("--help").env_clear().output().unwrap();
        assert!(output.status.success(), "{words:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        write!(text, "\n## {}\n\n```text\n{}\n```\n", words.join(" "), help.join("\n").trim_end()).unwrap();
    }
    is_committed("configuration.md", &text, "documents");
}

/// Compares what was generated with the file of that name in docs. `UPDATE_GENERATED=1` writes it.
pub fn is_committed(name: &str, text: &str, tests: &str) {
    let path = document(name);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/{name} is out of date: UPDATE_GENERATED=1 cargo test --workspace --test data_plane {tests}, and build again"
    );
}
