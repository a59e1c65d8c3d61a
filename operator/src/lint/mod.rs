//! `operator lint-database`: whether a database still isolates its tenants as the migrations made it. Reads the
//! catalog in one read-only transaction, with any login: what is there is compared with the lists of [`expected`],
//! and what must not be there in any release is looked for. Tells names and definitions, never a secret or a row.

/// A pattern of the names of the product's roles, for SQL.
macro_rules! product_roles {
    () => {
        "'^(stellar_(owner|maintainer|role_manager|tenants|pool|gateway|operator)|t_[0-9a-f]{32})$'"
    };
}

/// A pattern of the roles as which SQL of a tenant's own may run: its own and the pool's.
macro_rules! tenant_logins {
    () => {
        "'^(stellar_pool|t_[0-9a-f]{32})$'"
    };
}

/// Who the administrators are, by their ids, for SQL: the owner of the database and who ran the migrations.
macro_rules! administrators {
    () => {
        "(SELECT d.datdba FROM pg_database d WHERE d.datname = current_database() UNION ALL
          SELECT c.relowner FROM pg_class c
          WHERE c.relname = '_sqlx_migrations' AND c.relnamespace = to_regnamespace('public'))"
    };
}

mod compare;
mod expected;
mod functions;
mod grants;
mod objects;
mod report;
mod roles;
mod rows;
mod server;
mod source;

use std::collections::BTreeSet;

use serde::Serialize;
use sqlx::{Connection, PgConnection};

pub use report::{count, json, text};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A layer of the isolation is gone: a tenant may reach what is not its own, or a quota does not hold.
    Error,
    /// Worth mending; isolation holds.
    Warning,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The stable name of the rule.
    pub rule: &'static str,
    /// What breaks it.
    pub object: String,
    /// What is wrong and what to do, as a sentence.
    pub advice: String,
}

/// Why the database could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// This is another database, or the migrations have not run.
    #[error("there is no schema `stellar` in this database: run `operator migrate` first, or name another database")]
    NoSchema,
    /// A query failed.
    #[error("{operation}")]
    Query {
        /// What was being done.
        operation: &'static str,
        /// Postgres' answer.
        source: sqlx::Error,
    },
}

/// One thing that must hold.
struct Rule {
    name: &'static str,
    severity: Severity,
    /// Compares with the lists of this release: where the database has the schema of another one, it only warns.
    listed: bool,
    /// The sentence, with `{object}` and `{detail}`.
    advice: &'static str,
}

impl Rule {
    const fn error(name: &'static str, advice: &'static str) -> Self {
        Self { name, severity: Severity::Error, listed: false, advice }
    }

    const fn warning(name: &'static str, advice: &'static str) -> Self {
        Self { name, severity: Severity::Warning, listed: false, advice }
    }

    const fn listed(self) -> Self {
        Self { listed: true, ..self }
    }

    fn broken_by(&self, object: &str, detail: &str, same_release: bool) -> Finding {
        let severity = if self.listed && !same_release { Severity::Warning } else { self.severity };
        let advice = self.advice.replace("{object}", object).replace("{detail}", detail);
        Finding { severity, rule: self.name, object: object.to_owned(), advice }
    }
}

/// A rule whose query returns what breaks it, as rows of object and detail.
struct Check {
    rule: Rule,
    sql: &'static str,
}

const CHECKS: [&[Check]; 6] =
    [rows::CHECKS, grants::CHECKS, functions::CHECKS, objects::CHECKS, roles::CHECKS, server::CHECKS];

/// The catalog, as one transaction sees it.
struct Catalog<'c> {
    transaction: sqlx::Transaction<'c, sqlx::Postgres>,
    /// The schema is that of this release's migrations.
    same_release: bool,
    findings: Vec<Finding>,
}

impl Catalog<'_> {
    /// The rows of a query: object and detail.
    async fn pairs(&mut self, operation: &'static str, sql: &'static str) -> Result<Vec<(String, String)>, LintError> {
        let rows = sqlx::query_as(sql).persistent(false).fetch_all(&mut *self.transaction).await;
        rows.map_err(|source| LintError::Query { operation, source })
    }

    async fn check(&mut self, check: &Check) -> Result<(), LintError> {
        for (object, detail) in self.pairs(check.rule.name, check.sql).await? {
            self.found(&check.rule, &object, &detail);
        }
        Ok(())
    }

    fn found(&mut self, rule: &Rule, object: &str, detail: &str) {
        self.findings.push(rule.broken_by(object, detail, self.same_release));
    }
}

/// Everything that is wrong, errors first.
///
/// # Errors
/// [`LintError`] when the login cannot read the catalog, or there is no schema to look at.
pub async fn lint(connection: &mut PgConnection) -> Result<Vec<Finding>, LintError> {
    let mut catalog = open(connection).await?;
    for check in CHECKS.into_iter().flatten() {
        catalog.check(check).await?;
    }
    rows::statistics(&mut catalog).await?;
    rows::compare(&mut catalog).await?;
    grants::compare(&mut catalog).await?;
    functions::compare(&mut catalog).await?;
    server::versions(&mut catalog).await?;
    let mut findings = catalog.findings;
    findings.sort();
    Ok(findings)
}

/// The grants that the migrations made and that are gone, each as object and what is not granted. None of another
/// release's schema: this one does not know what it has.
///
/// # Errors
/// As [`lint`].
pub async fn missing_grants(connection: &mut PgConnection) -> Result<BTreeSet<(String, String)>, LintError> {
    let mut catalog = open(connection).await?;
    if catalog.same_release { grants::missing(&mut catalog).await } else { Ok(BTreeSet::new()) }
}

/// Begins to read the catalog.
async fn open(connection: &mut PgConnection) -> Result<Catalog<'_>, LintError> {
    let failed = |source| LintError::Query { operation: "begin to read the catalog", source };
    let transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed)?;
    let mut catalog = Catalog { transaction, same_release: true, findings: Vec::new() };
    // Every name of ours is then printed with its schema.
    sqlx::query("SET LOCAL search_path = pg_catalog")
        .persistent(false)
        .execute(&mut *catalog.transaction)
        .await
        .map_err(failed)?;
    let schema = "SELECT n.nspname::text, '' FROM pg_namespace n WHERE n.nspname = 'stellar'";
    if catalog.pairs("find the schema", schema).await?.is_empty() {
        return Err(LintError::NoSchema);
    }
    server::schema_version(&mut catalog).await?;
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Every rule with its severity.
    fn rules() -> BTreeMap<&'static str, &'static str> {
        let others = [rows::RULES, grants::RULES, functions::RULES, server::RULES];
        let rules = CHECKS.into_iter().flatten().map(|check| &check.rule).chain(others.into_iter().flatten());
        rules.map(|rule| (rule.name, if rule.severity == Severity::Error { "error" } else { "warning" })).collect()
    }

    #[test]
    fn the_readme_lists_every_rule_with_its_severity() {
        let readme = include_str!("../../../README.md");
        let rows = readme.lines().filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let rule = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            let severity = cells.next().filter(|cell| ["error", "warning"].contains(cell))?;
            Some((rule, severity))
        });
        assert_eq!(rows.collect::<BTreeMap<_, _>>(), rules());
    }
}
