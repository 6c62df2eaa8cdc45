//! Which secrets the scanner does not know again by their value: what is short or easily guessed would be found where it
//! is not. The preflight says so.

use bottle_api::Secret;
use bottle_scan::ExactSet;

/// A warning for each of these that is not looked for.
pub fn warnings<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a Secret)>) -> Vec<String> {
    let set = ExactSet::new(secrets.into_iter().map(|(name, secret)| (name, secret.expose())));
    let warning = |name: &str, why: &str| format!("{name} is not recognised where it leaves; its value is {why}");
    set.skipped().iter().map(|skipped| warning(&skipped.name, skipped.why)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_or_easily_guessed_is_named_and_its_value_is_not() {
        let secrets = [("A", "hunter2"), ("$B", "aaaaaaaaaaaaaaaa"), ("C", "tok-5Jx9QvLm2RzT8wKb")];
        let secrets = secrets.map(|(name, value)| (name, Secret::new(value)));
        let said = warnings(secrets.iter().map(|(name, secret)| (*name, secret)));
        assert!(said.len() == 2 && said[0].starts_with("A is ") && said[1].starts_with("$B is "), "{said:?}");
        assert!(said[0].ends_with("12 bytes") && !said.concat().contains("hunter2"), "{said:?}");
    }
}
