//! Ways to weaken the database, each with what mends it and the rule that must find it.

mod durability;
mod functions;
mod grants;
mod objects;
mod roles;
mod rows;

/// Who sees the fault.
#[derive(Clone, Copy)]
pub enum Sees {
    /// Every login; the test asks as the operator's.
    AnyLogin,
    /// Every login, on this major release of Postgres and later ones.
    AnyLoginFrom(i32),
    /// Every login, on major releases of Postgres before this one.
    AnyLoginBefore(i32),
    /// Only a superuser.
    Superuser,
}

/// A fault. `{ROLE}` and `{OTHER}` are roles of tenants, `{ID}` and `{OTHER_ID}` their ids.
/// Where nothing mends it, the test puts all functions back.
pub struct Fault {
    pub name: &'static str,
    pub breaks: &'static str,
    pub mends: &'static str,
    pub severity: &'static str,
    pub rule: &'static str,
    pub seen_by: Sees,
}

const fn error(rule: &'static str, name: &'static str, breaks: &'static str, mends: &'static str) -> Fault {
    Fault { name, breaks, mends, severity: "error", rule, seen_by: Sees::AnyLogin }
}

const fn warning(rule: &'static str, name: &'static str, breaks: &'static str, mends: &'static str) -> Fault {
    Fault { severity: "warning", ..error(rule, name, breaks, mends) }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    [rows::FAULTS, grants::FAULTS, functions::FAULTS, objects::FAULTS, roles::FAULTS, durability::FAULTS]
        .into_iter()
        .flatten()
}
