//! A secret is a type of its own: wiped when dropped, never printed, never serialised by accident.

use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Bytes that must not be seen. No `Debug`, no `Display`, no `Serialize`: whoever wants the bytes calls
/// [`Secret::expose`], which a reader of the code can search for.
///
/// ```compile_fail,E0277
/// println!("{:?}", bottle_api::Secret::new("x"));
/// ```
/// ```compile_fail,E0277
/// println!("{}", bottle_api::Secret::new("x"));
/// ```
/// ```compile_fail,E0277
/// serde_json::to_string(&bottle_api::Secret::new("x"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; they are wiped when the secret is dropped.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, where they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Secrets by name, as they cross to a backend at `launch`.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// Adds or replaces one.
    pub fn insert(&mut self, name: impl Into<String>, secret: Secret) {
        self.0.insert(name.into(), secret);
    }

    /// The secret of that name.
    pub fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(n, s)| (n.as_str(), s))
    }
}
