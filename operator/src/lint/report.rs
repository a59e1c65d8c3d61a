//! Findings for people and for programs.

use std::fmt::Write as _;

use serde_json::json;

use super::{Finding, Severity};

/// How many errors and warnings there are.
pub fn count(findings: &[Finding]) -> (usize, usize) {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    (errors, findings.len() - errors)
}

/// One line a finding, and a last line with their number.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { severity, rule, object, advice } in findings {
        let severity = if *severity == Severity::Error { "error" } else { "warning" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{severity} {rule}: {object}: {advice}");
    }
    let (errors, warnings) = count(findings);
    let _ = writeln!(text, "{errors} errors, {warnings} warnings");
    text
}

/// `{"findings": [{"severity", "rule", "object", "advice"}], "errors": n, "warnings": n}`
pub fn json(findings: &[Finding]) -> String {
    let (errors, warnings) = count(findings);
    format!("{:#}\n", json!({ "findings": findings, "errors": errors, "warnings": warnings }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_and_the_last_counts_them() {
        let finding = |severity, rule| Finding {
            severity,
            rule,
            object: "stellar.memories".to_owned(),
            advice: "do this".to_owned(),
        };
        let findings = [finding(Severity::Error, "a"), finding(Severity::Warning, "b")];
        let text = text(&findings);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            ["error a: stellar.memories: do this", "warning b: stellar.memories: do this", "1 errors, 1 warnings"]
        );
        let json: serde_json::Value = serde_json::from_str(&json(&findings)).expect("JSON");
        assert_eq!(json["findings"][0]["severity"], "error");
        assert_eq!((json["errors"].as_u64(), json["warnings"].as_u64()), (Some(1), Some(1)));
    }
}
