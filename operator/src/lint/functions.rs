//! The functions that decide and that act with their owner's rights, and the triggers that call them.

use std::collections::BTreeMap;

use super::{
    Catalog, Check, LintError, Rule,
    compare::Listed,
    expected::{FUNCTIONS, TRIGGERS},
    source,
};
use crate::migrate::migrations;

pub(super) const CHECKS: &[Check] = &[
    Check {
        rule: Rule::error(
            "function-search-path",
            "it acts with its owner's rights and finds names by {detail}, so a caller can put objects of its own \
             in front: ALTER FUNCTION {object} SET search_path = pg_catalog, pg_temp",
        ),
        sql: "SELECT p.oid::regprocedure::text, coalesce(array_to_string(p.proconfig, ' '), 'the search_path of its caller')
              FROM pg_proc p
              WHERE p.pronamespace = 'stellar'::regnamespace AND p.prosecdef
                  AND p.proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp']",
    },
    Check {
        rule: Rule::error(
            "trigger-disabled",
            "the trigger {detail} does not fire, so quotas, the log or foreign keys do not hold: ALTER TABLE \
             {object} ENABLE TRIGGER",
        ),
        sql: "SELECT t.tgrelid::regclass::text, quote_ident(t.tgname)
              FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
              WHERE c.relnamespace = 'stellar'::regnamespace AND t.tgenabled <> 'O'",
    },
];

const UNEXPECTED: Rule = Rule::error(
    "function-unexpected",
    "no migration makes this function ({detail}): drop it, or move it to a schema of your own",
)
.listed();
const MISSING: Rule =
    Rule::error("function-missing", "the function is gone: create it again as the migrations do").listed();
const ATTRIBUTES: Rule =
    Rule::error("function-attributes", "is {detail}: alter it back, or create it again as the migrations do").listed();
const BODY: Rule =
    Rule::error("function-body", "does something else than the migrations wrote: CREATE OR REPLACE it as they do")
        .listed();
const TRIGGER_UNEXPECTED: Rule =
    Rule::error("trigger-unexpected", "no migration makes this trigger ({detail}): DROP TRIGGER").listed();
const TRIGGER_MISSING: Rule = Rule::error(
    "trigger-missing",
    "the trigger is gone, so quotas, the log or the gateways' notices do not hold: CREATE TRIGGER … {detail}",
)
.listed();
const TRIGGER_CHANGED: Rule =
    Rule::error("trigger-changed", "the trigger is {detail}: drop it and create it again").listed();

#[cfg(test)]
pub(super) const RULES: &[Rule] =
    &[UNEXPECTED, MISSING, ATTRIBUTES, BODY, TRIGGER_UNEXPECTED, TRIGGER_MISSING, TRIGGER_CHANGED];

/// What a definer function finds names by has a rule of its own.
const FOUND_ATTRIBUTES: &str = "
SELECT p.oid::regprocedure::text,
    concat_ws(' ', 'owner', r.rolname, 'is', l.lanname,
        CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
        CASE WHEN p.prosecdef THEN 'definer' ELSE array_to_string(p.proconfig, ' ') END,
        CASE WHEN p.proleakproof THEN 'leakproof' END,
        CASE WHEN p.prokind <> 'f' THEN 'no plain function' END,
        CASE WHEN p.prosupport <> 0 THEN 'planned by ' || p.prosupport END)
FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'stellar'::regnamespace";

const FOUND_BODIES: &str = "
SELECT p.oid::regprocedure::text, p.prosrc FROM pg_proc p WHERE p.pronamespace = 'stellar'::regnamespace";

const FOUND_TRIGGERS: &str = "
SELECT 'trigger ' || quote_ident(t.tgname) || ' on ' || t.tgrelid::regclass,
    regexp_replace(pg_get_triggerdef(t.oid, true), '^CREATE (CONSTRAINT )?TRIGGER \\S+ ', '\\1')
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'stellar'::regnamespace AND NOT t.tgisinternal";

/// Functions and triggers against the lists, and bodies against the embedded migrations.
pub(super) async fn compare(catalog: &mut Catalog<'_>) -> Result<(), LintError> {
    let found = catalog.pairs("read the functions", FOUND_ATTRIBUTES).await?;
    let expected: Vec<_> = FUNCTIONS
        .iter()
        .map(|(signature, owner, attributes, _)| {
            (format!("stellar.{signature}"), format!("owner {owner} is {attributes}"))
        })
        .collect();
    Listed { unexpected: &UNEXPECTED, missing: &MISSING, changed: &ATTRIBUTES }.compare(catalog, &expected, &found);

    let migrations = migrations();
    let bodies = source::bodies(migrations.iter().map(|migration| migration.sql.as_str()));
    let running: BTreeMap<String, String> =
        catalog.pairs("read the functions' bodies", FOUND_BODIES).await?.into_iter().collect();
    for (signature, body) in &running {
        let name = signature.trim_start_matches("stellar.").split('(').next().unwrap_or_default();
        // One that no migration makes is found by its signature.
        if bodies.get(name).is_some_and(|written| written != body) {
            catalog.found(&BODY, signature, "");
        }
    }

    let found = catalog.pairs("read the triggers", FOUND_TRIGGERS).await?;
    let expected: Vec<_> = TRIGGERS
        .iter()
        .map(|(table, name, definition)| (format!("trigger {name} on stellar.{table}"), (*definition).to_owned()))
        .collect();
    Listed { unexpected: &TRIGGER_UNEXPECTED, missing: &TRIGGER_MISSING, changed: &TRIGGER_CHANGED }
        .compare(catalog, &expected, &found);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_function_has_its_body_in_the_migrations() {
        let migrations = migrations();
        let bodies = source::bodies(migrations.iter().map(|migration| migration.sql.as_str()));
        let written: Vec<&str> = bodies.keys().copied().collect();
        let listed: Vec<&str> = FUNCTIONS.iter().filter_map(|(signature, ..)| signature.split('(').next()).collect();
        assert_eq!(written, listed, "both sorted by name, and each name once");
    }
}
