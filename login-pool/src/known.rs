//! The logins that Postgres may take, and which of them is in use.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

pub(crate) struct Known(Mutex<State>);

struct State {
    logins: Vec<PgConnectOptions>,
    current: usize,
    /// Counts the changes of what is in use.
    number: u64,
}

/// What became of a login that was refused.
#[derive(Debug)]
pub(crate) enum Left {
    /// This one is used now.
    For(Box<PgConnectOptions>),
    /// Another one is used already: somebody else was refused too.
    Already,
    /// No other one is known.
    Nothing,
}

impl Known {
    pub(crate) fn new(login: PgConnectOptions) -> Self {
        Self(Mutex::new(State { logins: vec![login], current: 0, number: 0 }))
    }

    /// The number of the one in use, for [`Self::leave`].
    pub(crate) fn used(&self) -> u64 {
        self.lock().number
    }

    /// Others from now on, the first one in use. `None`: they are those that are known.
    pub(crate) fn replace(&self, logins: Vec<PgConnectOptions>) -> Option<PgConnectOptions> {
        let mut state = self.lock();
        if logins.is_empty() || are_same(&state.logins, &logins) {
            return None;
        }
        // One that Postgres takes stays in use for as long as it is written.
        let current = logins.iter().position(|login| is_same(login, &state.logins[state.current])).unwrap_or(0);
        let number = state.number + 1;
        *state = State { logins, current, number };
        Some(state.logins[current].clone())
    }

    /// Another one instead of number `refused`, from what is written now if that is something else than what is known.
    pub(crate) fn leave(&self, refused: u64, written: Option<Vec<PgConnectOptions>>) -> Left {
        let mut state = self.lock();
        if state.number != refused {
            return Left::Already;
        }
        let current = if let Some(logins) = written.filter(|written| !are_same(&state.logins, written)) {
            let refused = state.logins[state.current].clone();
            let Some(other) = logins.iter().position(|login| !is_same(login, &refused)) else { return Left::Nothing };
            state.logins = logins;
            other
        } else if state.logins.len() > 1 {
            (state.current + 1) % state.logins.len()
        } else {
            return Left::Nothing;
        };
        state.current = current;
        state.number += 1;
        Left::For(Box::new(state.logins[current].clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn are_same(some: &[PgConnectOptions], others: &[PgConnectOptions]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| is_same(one, other))
}

fn is_same(one: &PgConnectOptions, other: &PgConnectOptions) -> bool {
    one.to_url_lossy() == other.to_url_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(password: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().host("127.0.0.1").username("u").password(password)
    }

    fn logins(passwords: &[&str]) -> Vec<PgConnectOptions> {
        passwords.iter().map(|password| login(password)).collect()
    }

    fn left(left: Left) -> String {
        match left {
            Left::For(login) => login.to_url_lossy().password().unwrap_or_default().to_owned(),
            Left::Already => "already".to_owned(),
            Left::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn a_refused_login_is_left_once_for_all_who_used_it() {
        let known = Known::new(login("old"));
        let used = known.used();
        assert_eq!(left(known.leave(used, Some(logins(&["old", "new"])))), "new");
        assert_eq!(left(known.leave(used, Some(logins(&["old", "new"])))), "already");
        assert_eq!(left(known.leave(known.used(), Some(logins(&["old", "new"])))), "old", "there and back");
    }

    #[test]
    fn a_second_rotation_is_followed_by_who_has_not_looked_since_the_first() {
        let known = Known::new(login("first"));
        assert_eq!(left(known.leave(known.used(), Some(logins(&["first", "second"])))), "second");
        assert_eq!(left(known.leave(known.used(), Some(logins(&["second", "third"])))), "third");
        assert_eq!(left(known.leave(known.used(), Some(logins(&["fourth"])))), "fourth");
    }

    #[test]
    fn without_another_one_a_refusal_stays_one() {
        let known = Known::new(login("only"));
        assert_eq!(left(known.leave(known.used(), None)), "nothing");
        assert_eq!(left(known.leave(known.used(), Some(logins(&["only"])))), "nothing");
        assert_eq!(left(known.leave(known.used(), Some(logins(&["other"])))), "other");
    }

    #[test]
    fn what_is_written_anew_is_used_unless_what_is_in_use_is_written_too() {
        let known = Known::new(login("a"));
        assert!(known.replace(vec![login("a")]).is_none());
        let used = |changed: Option<PgConnectOptions>| changed.map(|login| left(Left::For(Box::new(login))));
        assert_eq!(used(known.replace(vec![login("a"), login("b")])).as_deref(), Some("a"));
        assert_eq!(left(known.leave(known.used(), None)), "b");
        assert_eq!(used(known.replace(vec![login("b")])).as_deref(), Some("b"));
        assert_eq!(used(known.replace(vec![login("c")])).as_deref(), Some("c"));
    }
}
