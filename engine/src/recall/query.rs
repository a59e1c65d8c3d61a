//! A query, analysed once.

use super::analysis;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Query {
    terms: Vec<String>,
    emotion: Option<String>,
}

impl Query {
    /// Analyses a query's text as contents are analysed. A word that is said twice counts once.
    pub fn new(text: &str, emotion: Option<&str>) -> Self {
        let mut terms = Vec::new();
        analysis::terms(text, |term| {
            if !terms.iter().any(|known| known == term) {
                terms.push(term.to_owned());
            }
        });
        Self { terms, emotion: emotion.map(|word| word.trim().to_lowercase()) }
    }

    pub(super) fn terms(&self) -> &[String] {
        &self.terms
    }

    pub(super) fn emotion(&self) -> Option<&str> {
        self.emotion.as_deref()
    }
}
