//! The functions as this release's migrations write them, to compare with what the database runs.

use std::collections::BTreeMap;

const CREATE: [&str; 2] = ["CREATE FUNCTION stellar.", "CREATE OR REPLACE FUNCTION stellar."];
const QUOTE: &str = "$$";

/// Name and body of every function in these texts. Of several with one name the last counts, as it does when they run.
/// Every migration quotes bodies with `$$` and gives each function a name of its own.
pub(super) fn bodies<'a>(migrations: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, &'a str> {
    let mut bodies = BTreeMap::new();
    for sql in migrations {
        let mut starts: Vec<usize> =
            CREATE.iter().flat_map(|word| sql.match_indices(word).map(|(at, _)| at + word.len())).collect();
        starts.sort_unstable();
        bodies.extend(starts.into_iter().filter_map(|start| {
            let (name, rest) = sql[start..].split_once('(')?;
            let (_, quoted) = rest.split_once(QUOTE)?;
            let (body, _) = quoted.split_once(QUOTE)?;
            Some((name, body))
        }));
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_body_of_a_name_counts() {
        let first = "CREATE FUNCTION stellar.a(x int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;\n
            CREATE FUNCTION stellar.b() RETURNS int LANGUAGE sql AS $$\n SELECT 2\n$$;";
        let second = "CREATE OR REPLACE FUNCTION stellar.a(x int) RETURNS int LANGUAGE sql AS $$ SELECT 3 $$;";
        let found = bodies([first, second].into_iter());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("a", " SELECT 3 "), ("b", "\n SELECT 2\n")]);
    }
}
