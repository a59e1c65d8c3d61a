//! Compares what the catalog shows with a list of what it should show.

use std::collections::{BTreeMap, BTreeSet};

use super::{Catalog, Rule};

/// The rules of a list.
pub(super) struct Listed {
    /// An object that the list does not have.
    pub unexpected: &'static Rule,
    /// An object of the list that is not there.
    pub missing: &'static Rule,
    /// An object that is there in another form; the detail is that form and the expected one.
    pub changed: &'static Rule,
}

impl Listed {
    /// Both are rows of object and detail; of an object there is one.
    pub(super) fn compare(&self, catalog: &mut Catalog<'_>, expected: &[(String, String)], found: &[(String, String)]) {
        let expected: BTreeMap<&str, &str> = expected.iter().map(pair).collect();
        let found: BTreeMap<&str, &str> = found.iter().map(pair).collect();
        for (object, detail) in &found {
            match expected.get(object) {
                None => catalog.found(self.unexpected, object, detail),
                Some(wanted) if wanted != detail => {
                    catalog.found(self.changed, object, &format!("`{detail}` instead of `{wanted}`"));
                }
                Some(_) => {}
            }
        }
        for (object, detail) in expected.iter().filter(|(object, _)| !found.contains_key(*object)) {
            catalog.found(self.missing, object, detail);
        }
    }
}

/// Object and detail.
type Row<'a> = (&'a str, &'a str);

/// The rows that only the catalog has, and those that only the list has; an object may be there with many details.
pub(super) fn differences<'a>(
    expected: &'a [(String, String)],
    found: &'a [(String, String)],
) -> (Vec<Row<'a>>, Vec<Row<'a>>) {
    let expected: BTreeSet<Row<'_>> = expected.iter().map(pair).collect();
    let found: BTreeSet<Row<'_>> = found.iter().map(pair).collect();
    (found.difference(&expected).copied().collect(), expected.difference(&found).copied().collect())
}

fn pair(row: &(String, String)) -> Row<'_> {
    (&row.0, &row.1)
}
