//! What the rows and the role of each tenant looked like when it was settled. Whatever differs from that later was changed
//! by somebody else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// The fingerprint of each tenant's rows and role after its last successful reconciliation. None while a
/// reconciliation runs or after one that failed. No call takes longer for there being more tenants, but `drifted`,
/// which takes as long as the pass.
#[derive(Default)]
pub struct Settled(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    by_id: BTreeMap<Uuid, (String, Option<String>)>,
    /// Whoever changes the identity of a Tenant is refused, so a name has one.
    by_name: HashMap<String, Uuid>,
}

/// Some of the tenants: those whose id is in a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// The first id.
    pub from: Uuid,
    /// The last one.
    pub to: Uuid,
}

impl Pass {
    /// All of them.
    pub const ALL: Self = Self { from: Uuid::nil(), to: Uuid::max() };

    /// Those after this pass; from the first again if there are none.
    pub fn next(self) -> Self {
        self.to.as_u128().checked_add(1).map_or(Self::ALL, |from| Self { from: Uuid::from_u128(from), ..Self::ALL })
    }
}

impl Settled {
    /// Notes a tenant's name and fingerprint.
    pub fn note(&self, id: Uuid, name: &str, fingerprint: String) {
        let mut noted = self.lock();
        if let Some((before, _)) = noted.by_id.insert(id, (name.to_owned(), Some(fingerprint)))
            && before != name
        {
            noted.by_name.remove(&before);
        }
        if let Some(before) = noted.by_name.insert(name.to_owned(), id)
            && before != id
        {
            noted.by_id.remove(&before);
        }
    }

    /// From now on this operator itself may change the tenant.
    pub fn unsettle(&self, name: &str) {
        let mut noted = self.lock();
        if let Some(id) = noted.by_name.get(name).copied()
            && let Some((_, fingerprint)) = noted.by_id.get_mut(&id)
        {
            *fingerprint = None;
        }
    }

    /// Forgets a tenant.
    pub fn forget(&self, name: &str) {
        let mut noted = self.lock();
        if let Some(id) = noted.by_name.remove(name) {
            noted.by_id.remove(&id);
        }
    }

    /// The name of a tenant.
    pub fn name_of(&self, id: Uuid) -> Option<String> {
        self.lock().by_id.get(&id).map(|(name, _)| name.clone())
    }

    /// How many tenants there are.
    pub fn count(&self) -> usize {
        self.lock().by_id.len()
    }

    /// The names of tenants of a pass whose fingerprint is not what `present` says.
    pub fn drifted(&self, pass: Pass, present: &HashMap<Uuid, &str>) -> Vec<String> {
        let differs = |id: &Uuid, noted: &Option<String>| {
            noted.as_ref().is_some_and(|noted| present.get(id).is_none_or(|found| found != noted))
        };
        let noted = self.lock();
        let of_pass = noted.by_id.range(pass.from..=pass.to);
        of_pass.filter(|(id, (_, noted))| differs(id, noted)).map(|(_, (name, _))| name.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn settled(tenants: u128) -> Settled {
        let settled = Settled::default();
        for number in 1..=tenants {
            settled.note(id(number), &format!("tenant-{number}"), "as left".to_owned());
        }
        settled
    }

    #[test]
    fn what_was_changed_or_is_gone_is_told_by_the_pass_that_it_is_in() {
        let settled = settled(5);
        let present = HashMap::from([(id(1), "as left"), (id(2), "changed"), (id(3), "as left"), (id(5), "as left")]);
        assert_eq!(settled.drifted(Pass::ALL, &present), ["tenant-2", "tenant-4"]);
        assert_eq!(settled.drifted(Pass { from: id(1), to: id(3) }, &present), ["tenant-2"]);
        assert_eq!(settled.drifted(Pass { from: id(3), to: Uuid::max() }, &present), ["tenant-4"]);
    }

    #[test]
    fn what_the_operator_itself_may_change_is_no_drift() {
        let settled = settled(2);
        settled.unsettle("tenant-1");
        assert_eq!(settled.drifted(Pass::ALL, &HashMap::new()), ["tenant-2"]);
        assert_eq!(settled.name_of(id(1)).as_deref(), Some("tenant-1"));
        settled.forget("tenant-2");
        assert_eq!((settled.name_of(id(2)), settled.count()), (None, 1));
        settled.note(id(1), "tenant-1", "as left".to_owned());
        assert_eq!(settled.drifted(Pass::ALL, &HashMap::new()), ["tenant-1"]);
    }

    #[test]
    fn an_identity_has_one_name_and_a_name_one_identity() {
        let settled = settled(2);
        settled.note(id(1), "heir", "as left".to_owned());
        settled.unsettle("tenant-1");
        settled.forget("tenant-1");
        assert_eq!(settled.name_of(id(1)).as_deref(), Some("heir"));
        settled.note(id(9), "heir", "as left".to_owned());
        assert_eq!(settled.name_of(id(1)), None);
        assert_eq!(settled.count(), 2);
    }

    #[test]
    fn passes_follow_one_another_without_a_gap_and_begin_anew() {
        let first = Pass { to: id(7), ..Pass::ALL };
        assert_eq!(first.next(), Pass { from: id(8), to: Uuid::max() });
        assert_eq!(first.next().next(), Pass::ALL);
    }
}
