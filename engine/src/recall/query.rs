//! A query, analysed once.

use std::collections::HashSet;

use super::{analysis, lexical::Term};

/// The terms and the preference of a search.
#[derive(Clone, Debug)]
pub struct Query {
    terms: Vec<Term>,
    emotion: Option<String>,
}

impl Query {
    /// Analyses a query's text as contents are analysed. A word that is said twice counts once.
    pub fn new(text: &str, emotion: Option<&str>) -> Self {
        let (mut terms, mut known) = (Vec::new(), HashSet::new());
        analysis::terms(text, |term| {
            let term = Term::new(term);
            if known.insert(term) {
                terms.push(term);
            }
        });
        Self { terms, emotion: emotion.map(|word| word.trim().to_lowercase()) }
    }

    pub(super) fn terms(&self) -> &[Term] {
        &self.terms
    }

    pub(super) fn emotion(&self) -> Option<&str> {
        self.emotion.as_deref()
    }
}
