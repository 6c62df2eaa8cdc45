//! Frontmatter as YAML: read with serde_yaml, twice.
//!
//! The first reading holds what serde does not: keys that stand twice, keys without a value (to serde the same as no
//! key at all), merge keys and tags, and how much an alias may unfold to. Anchors and aliases are allowed within that
//! bound: they say no more than what they unfold to. The second reading makes the typed value.

use serde::{
    Serialize,
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
    },
};
use std::{cell::Cell, collections::BTreeSet, fmt};

/// Keys and values of one file, aliases unfolded; a text counts once more for each [`CHARGED`] bytes.
const MAX_NODES: usize = 10_000;
const CHARGED: usize = 32;

/// A kind of frontmatter.
pub trait Frontmatter: DeserializeOwned + Serialize {
    /// Top-level keys whose values are none of our business.
    const IGNORED: &'static [&'static str] = &[];
}

/// Reads it. An empty text is an empty mapping.
pub(super) fn read<T: Frontmatter>(yaml: &str) -> Result<T, serde_yaml::Error> {
    let yaml =
        if yaml.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) { "{}" } else { yaml };
    let left = Cell::new(MAX_NODES);
    Plain { left: &left, ignored: T::IGNORED, opaque: false }.deserialize(serde_yaml::Deserializer::from_str(yaml))?;
    serde_yaml::from_str(yaml)
}

/// The whole file that says this. Not the frontmatter alone: a line more before the fence can be a line more of a value.
pub fn print<T: Frontmatter>(fields: &T, body: &str) -> anyhow::Result<String> {
    Ok(format!("---\n{}---\n{body}", serde_yaml::to_string(fields)?))
}

/// The first reading.
#[derive(Clone, Copy)]
struct Plain<'a> {
    left: &'a Cell<usize>,
    /// At the top: the keys below which everything goes.
    ignored: &'a [&'a str],
    opaque: bool,
}

impl Plain<'_> {
    fn inside(self) -> Self {
        Self { ignored: &[], ..self }
    }

    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| {
            E::custom(format!(
                "there are more than {MAX_NODES} values\nWrite fewer; an alias, `*name`, counts as what it stands for."
            ))
        })?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Plain<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.count()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.count()
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.count()
    }
    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.count()
    }
    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.count()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.count()
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        (0..=text.len() / CHARGED).try_for_each(|_| self.count())
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.opaque {
            return self.count();
        }
        Err(E::custom(
            "no value stands here\nWrite one, or take the key out; what is empty on purpose is `[]`, `{}` or `\"\"`.",
        ))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let (tag, _) = tagged.variant::<String>()?;
        let message = format!("YAML tags such as {} mean nothing here", super::read::quoted(&format!("!{tag}")));
        Err(A::Error::custom(format!("{message}\nTake the tag out, or put text that begins with `!` in quotes.")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.count()?;
        while seq.next_element_seed(self.inside())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.count()?;
        let mut keys = BTreeSet::new();
        loop {
            let new = |key: &str| match key {
                "<<" => super::read::wrong(
                    "`<<` is no key here: mappings are not merged",
                    "Write the keys out; whole bottles are merged by `extends`.",
                ),
                key if keys.contains(key) => super::read::wrong(
                    format!("the key {} stands twice", super::read::quoted(key)),
                    "Take one of them out.",
                ),
                key => Ok(key.to_owned()),
            };
            let Some(key) = map.next_key_seed(super::read::Text(new))? else { return Ok(()) };
            let opaque = self.opaque || self.ignored.contains(&key.as_str());
            map.next_value_seed(Self { opaque, ..self.inside() })?;
            keys.insert(key);
        }
    }
}

/// One step to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A key of a mapping.
    Key(&'a str),
    /// An entry of a list.
    Index(usize),
}

impl Step<'_> {
    /// `egress.routes[0].host`
    pub fn joined(steps: &[Step<'_>]) -> String {
        let mut out = String::new();
        for step in steps {
            match step {
                Step::Key(key) if out.is_empty() => out += key,
                Step::Key(key) => out += &format!(".{key}"),
                Step::Index(i) => out += &format!("[{i}]"),
            }
        }
        out
    }
}

/// Line and column of a value. serde_yaml tells a place by an error alone, so one is raised there.
pub(super) fn place(yaml: &str, steps: &[Step<'_>]) -> Option<(usize, usize)> {
    const FOUND: &str = "found";
    let error = Find(steps).deserialize(serde_yaml::Deserializer::from_str(yaml)).err()?;
    let at = error.location().filter(|_| error.to_string().contains(FOUND))?;
    return Some((at.line(), at.column()));

    struct Find<'a>(&'a [Step<'a>]);

    impl<'de> DeserializeSeed<'de> for Find<'_> {
        type Value = ();
        fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
            d.deserialize_any(self)
        }
    }

    impl Find<'_> {
        fn found<E: Error>(&self) -> Result<(), E> {
            if self.0.is_empty() { Err(E::custom(FOUND)) } else { Ok(()) }
        }
    }

    impl<'de> Visitor<'de> for Find<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(FOUND)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            self.found()?;
            while let Some(key) = map.next_key::<String>()? {
                match self.0.split_first() {
                    Some((Step::Key(wanted), rest)) if *wanted == key => map.next_value_seed(Find(rest))?,
                    _ => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            self.found()?;
            let Some((Step::Index(index), rest)) = self.0.split_first() else { return Ok(()) };
            for _ in 0..*index {
                seq.next_element::<IgnoredAny>()?;
            }
            seq.next_element_seed(Find(rest))?;
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_where_it_stands() {
        let yaml = "\nbottle: b\nskills: [one, two]\negress:\n  routes:\n    - host: a\n      auth: {x: 1}\n";
        use Step::{Index, Key};
        for (steps, place_of) in [
            (&[Key("bottle")][..], Some((2, 9))),
            (&[Key("skills"), Index(1)], Some((3, 15))),
            (&[Key("egress"), Key("routes"), Index(0), Key("auth")], Some((7, 13))),
            (&[Key("egress"), Key("routes"), Index(1)], None),
            (&[Key("missing")], None),
        ] {
            assert_eq!(place(yaml, steps), place_of, "{}", Step::joined(steps));
        }
    }
}
