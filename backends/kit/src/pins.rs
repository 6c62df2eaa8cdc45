//! Which Claude Code goes into the agent's image: the one that is pinned by hash, or a version that somebody asked for.

use bottle_api::{Error, ErrorKind, Result};
use std::collections::HashMap;

/// `version V`, then `ARCH PACKAGE SHA512 SHA256` per platform.
const PINS: &str = include_str!("../recipes/claude.pins");

/// A version of Claude Code for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// `2.1.329`
    pub version: String,
    /// npm's name of the platform's package.
    package: &'static str,
    /// SHA-512 of the package's tarball, hexadecimal: npm's `dist.integrity`. Empty: npm alone vouches for it.
    integrity: &'static str,
    /// SHA-256 of the program inside, hexadecimal; empty with `integrity`.
    sha256: &'static str,
}

impl Pin {
    /// The pinned one for an engine's platform.
    pub fn of(arch: &str) -> Result<Self> {
        Self::find(arch).ok_or_else(|| {
            let message = format!("the engine runs on {arch}; Claude Code is pinned for amd64 and arm64");
            Error::new(ErrorKind::UNSUPPORTED, message)
        })
    }

    fn find(arch: &str) -> Option<Self> {
        let mut lines = PINS.lines().filter(|line| !line.starts_with('#')).map(str::split_whitespace);
        let version = lines.next()?.nth(1)?.to_owned();
        let mut words = lines.find_map(|mut words| (words.next() == Some(arch)).then_some(words))?;
        Some(Self { version, package: words.next()?, integrity: words.next()?, sha256: words.next()? })
    }

    /// Another version of it, whose hashes nobody has written down; the same where it is the pinned one.
    pub fn at(self, version: &str) -> Result<Self> {
        if version == self.version {
            return Ok(self);
        }
        if !is_version(version) {
            let message = format!("`{version}` is no version of Claude Code");
            let hint =
                format!("Write all of it: {}. `npm view @anthropic-ai/claude-code versions` lists them.", self.version);
            return Err(Error::new(ErrorKind::INVALID_SPEC, message).hint(hint));
        }
        Ok(Self { version: version.to_owned(), integrity: "", sha256: "", ..self })
    }

    /// Is it the one whose hashes are known?
    pub fn is_pinned(&self) -> bool {
        !self.integrity.is_empty()
    }

    /// The recipe's arguments.
    pub(crate) fn arguments(&self) -> HashMap<String, String> {
        let pairs = [
            ("CLAUDE_VERSION", self.version.as_str()),
            ("CLAUDE_PACKAGE", self.package),
            ("CLAUDE_INTEGRITY", self.integrity),
            ("CLAUDE_SHA256", self.sha256),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

/// `1.2.3`, and what a semantic version may add to that. Never a tag: what `latest` means changes.
fn is_version(text: &str) -> bool {
    let (numbers, rest) = text.split_at(text.find('-').unwrap_or(text.len()));
    let numbers: Vec<&str> = numbers.split('.').collect();
    numbers.len() == 3
        && numbers.iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
        && rest.len() != 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_platforms_are_pinned_by_whole_hashes() {
        for arch in ["amd64", "arm64"] {
            let pin = Pin::of(arch).unwrap();
            assert!(pin.package.starts_with("@anthropic-ai/claude-code-linux-"), "{pin:?}");
            assert_eq!((pin.integrity.len(), pin.sha256.len()), (128, 64), "{pin:?}");
        }
        assert!(Pin::of("riscv64").is_err());
    }

    #[test]
    fn another_version_has_no_hashes_and_is_a_whole_version() {
        let pin = Pin::of("amd64").unwrap();
        assert_eq!(pin.clone().at(&pin.version).unwrap(), pin);
        for good in ["1.2.3", "10.20.30-beta.1"] {
            assert!(!pin.clone().at(good).unwrap().is_pinned(), "{good}");
        }
        for bad in ["latest", "", "1.2", "1.2.3.4", "1.2.x", "1.2.3-", "1.2.3;id", "1.2.3-$(id)", "v1.2.3", "1.2.3 "] {
            assert!(pin.clone().at(bad).is_err(), "{bad}");
        }
    }
}
