//! How a value of the frontmatter is read: text as it was written, lists without repetitions, each mistake at its own
//! place.
//!
//! serde_yaml gives an error the place of the node whose visitor raised it. So every check runs inside a visitor, not
//! after it; and text is asked for as text, because a number read as a number has lost how it was written.

use crate::ui::printable;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor, value},
};
use std::{fmt, marker::PhantomData};

/// What was made of a value, or what is wrong with it: a message, and after a line break what to type.
pub(super) type Checked<T> = Result<T, String>;

/// A mistake and what to type instead.
pub(super) fn wrong<T>(message: impl fmt::Display, hint: impl fmt::Display) -> Checked<T> {
    Err(format!("{message}\n{hint}"))
}

/// Text of the file inside a message: one short line.
pub(super) fn quoted(text: &str) -> String {
    const MAX: usize = 60;
    if text.is_empty() {
        return "an empty text".into();
    }
    let cut = if text.chars().count() > MAX { "…" } else { "" };
    format!("`{}{cut}`", printable(&text.chars().take(MAX).collect::<String>()))
}

/// Reads a scalar as written.
pub(super) struct Text<F>(pub F);

impl<'de, T, F: Fn(&str) -> Checked<T>> DeserializeSeed<'de> for Text<F> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        d.deserialize_str(self)
    }
}

impl<T, F: Fn(&str) -> Checked<T>> Visitor<'_> for Text<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

/// One text.
pub(super) fn text<'de, D: Deserializer<'de>, T>(d: D, parse: impl Fn(&str) -> Checked<T>) -> Result<T, D::Error> {
    Text(parse).deserialize(d)
}

/// One word of a set.
pub(super) fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<T, D::Error> {
    text(d, parse_word)
}

/// One word of a set, where it is declared.
pub(super) fn some_word<'de, D: Deserializer<'de>, T: DeserializeOwned>(d: D) -> Result<Option<T>, D::Error> {
    word(d).map(Some)
}

/// A word as serde knows the set.
pub(super) fn parse_word<T: DeserializeOwned>(word: &str) -> Checked<T> {
    T::deserialize(word.into_deserializer()).map_err(|error: value::Error| error.to_string())
}

/// A list of texts, none of them twice.
pub(super) fn texts<'de, D, T>(d: D, parse: impl Fn(&str) -> Checked<T>) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: PartialEq,
{
    d.deserialize_seq(Texts { parse, empty: None })
}

/// The same with one entry at least; `empty` says what to do about none.
pub(super) fn some_texts<'de, D, T>(
    d: D,
    parse: impl Fn(&str) -> Checked<T>,
    empty: &'static str,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: PartialEq,
{
    d.deserialize_seq(Texts { parse, empty: Some(empty) })
}

pub(super) struct Texts<F> {
    pub(super) parse: F,
    pub(super) empty: Option<&'static str>,
}

impl<'de, T: PartialEq, F: Fn(&str) -> Checked<T>> Visitor<'de> for Texts<F> {
    type Value = Vec<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut all: Vec<T> = vec![];
        let new = |all: &[T], text: &str| match (self.parse)(text)? {
            value if all.contains(&value) => {
                wrong(format!("{} stands twice in the list", quoted(text)), "Take one of them out.")
            }
            value => Ok(value),
        };
        while let Some(value) = seq.next_element_seed(Text(|text: &str| new(&all, text)))? {
            all.push(value);
        }
        match self.empty {
            Some(empty) if all.is_empty() => Err(A::Error::custom(format!("the list is empty\n{empty}"))),
            _ => Ok(all),
        }
    }
}

/// A list of mappings, each being what `expecting` says; `check` sees each with those before it.
pub(super) fn items<'de, D, T>(
    d: D,
    expecting: &'static str,
    check: fn(&T, &[T]) -> Checked<()>,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    d.deserialize_seq(Items(expecting, check))
}

struct Items<T>(&'static str, fn(&T, &[T]) -> Checked<()>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
    type Value = Vec<T>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut all = vec![];
        while let Some(item) = seq.next_element_seed(Item(self.0, |item: &T| (self.1)(item, &all), PhantomData))? {
            all.push(item);
        }
        Ok(all)
    }
}

/// Reads a mapping, which is what the text says, and judges it as a whole.
pub(super) struct Item<T, F>(pub &'static str, pub F, pub PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: Fn(&T) -> Checked<()>> DeserializeSeed<'de> for Item<T, F> {
    type Value = T;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>, F: Fn(&T) -> Checked<()>> Visitor<'de> for Item<T, F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        let item = T::deserialize(value::MapAccessDeserializer::new(map))?;
        (self.1)(&item).map_err(A::Error::custom)?;
        Ok(item)
    }
}

/// Is it what it would be if it were not written? Then it is not printed.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
