//! `git:` and `git_user:`: the remotes that an agent may use, and as whom it commits.

use super::{
    names::{NAME, VARIABLE, ip_address, plain_name, token_variable},
    read::{Checked, is_default, items, quoted, text, texts, wrong},
    upstream::{Transport, Upstream},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The longest name of a remote.
const LONGEST_NAME: usize = 64;

/// A remote. What reaches it stands beside the bottle, never in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping with `Name` and `Upstream`")]
#[schemars(transform = add_aliases)]
pub struct GitEntry {
    /// What the agent calls it.
    #[serde(rename = "Name", alias = "name", deserialize_with = "name")]
    #[schemars(length(max = LONGEST_NAME), regex(pattern = NAME))]
    pub name: String,
    /// `ssh://user@host[:port]/path` or `https://host[:port]/path`.
    #[serde(rename = "Upstream", alias = "upstream")]
    #[schemars(with = "String", regex(pattern = "^(ssh|https)://"))]
    pub upstream: Upstream,
    /// ssh: the private key's file, absolute or below `~/`.
    #[serde(default, rename = "IdentityFile", alias = "identity_file")]
    #[serde(deserialize_with = "identity_file", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^(/|~/)"))]
    pub identity_file: Option<String>,
    /// ssh: the only key that the host may show, `ssh-ed25519 AAAA…` say.
    #[serde(default, rename = "KnownHostKey", alias = "known_host_key")]
    #[serde(deserialize_with = "known_host_key", skip_serializing_if = "Option::is_none")]
    pub known_host_key: Option<String>,
    /// https: the host's variable that holds the token.
    #[serde(default, rename = "TokenRef", alias = "token_ref")]
    #[serde(deserialize_with = "token_ref", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = VARIABLE))]
    pub token_ref: Option<String>,
    /// The refs that may be pushed to; an empty list: none.
    #[serde(default = "default_refs", deserialize_with = "refs", skip_serializing_if = "is_default_refs")]
    #[schemars(inner(regex(pattern = "^refs/")))]
    pub allow_refs: Vec<String>,
    /// A push may delete refs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_delete: bool,
    /// A push may take commits away from a branch, and move a tag.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_force: bool,
    /// Dial this address and no other.
    #[serde(default, deserialize_with = "address", skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Private addresses may be dialled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_private: bool,
}

/// `git_user:`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a mapping with `name` and `email`")]
pub struct GitUser {
    /// The author's name.
    #[serde(deserialize_with = "person", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[^<>\u0000-\u001f\u007f]+$"))]
    pub name: Option<String>,
    /// The author's address.
    #[serde(deserialize_with = "person", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[^<>\u0000-\u001f\u007f]+$"))]
    pub email: Option<String>,
}

impl GitUser {
    /// This one with another's fields over it.
    #[must_use]
    pub fn under(self, child: &Self) -> Self {
        Self { name: child.name.clone().or(self.name), email: child.email.clone().or(self.email) }
    }

    /// `Name <email>`, as far as it is declared.
    pub fn shown(&self) -> Option<String> {
        let email = self.email.as_ref().map(|email| format!("<{email}>"));
        let parts: Vec<String> = [self.name.clone(), email].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }

    /// As git's configuration file says it; nothing where nothing is declared.
    pub fn config(&self) -> Option<String> {
        let quoted = |text: &String| text.replace('\\', r"\\").replace('"', "\\\"");
        let line = |key, value: &Option<String>| value.as_ref().map(|v| format!("\t{key} = \"{}\"\n", quoted(v)));
        let lines = [line("name", &self.name), line("email", &self.email)].into_iter().flatten().collect::<String>();
        (!lines.is_empty()).then(|| format!("[user]\n{lines}"))
    }
}

fn person<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let parse = |text: &str| {
        if text.trim().is_empty() {
            return wrong("it is empty", "Take the key out: git then has none.");
        }
        if text.chars().any(char::is_control) || text.contains(['<', '>']) || text.len() > 200 {
            return wrong(
                format!("{} cannot stand in a commit", quoted(text)),
                "Write one line of 200 bytes at most, without `<` and `>`.",
            );
        }
        Ok(Some(text.to_owned()))
    };
    text(d, parse)
}

/// The remotes of a bottle, each name once.
pub(super) fn entries<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<GitEntry>>, D::Error> {
    items(d, "a mapping with `Name` and `Upstream`", check).map(Some)
}

fn check(entry: &GitEntry, earlier: &[GitEntry]) -> Checked<()> {
    let name = &entry.name;
    if earlier.iter().any(|other| other.name == *name) {
        return wrong(format!("two entries have the Name {name}"), "Give one of them another name.");
    }
    if let Some(other) = earlier.iter().find(|other| other.upstream == entry.upstream) {
        return wrong(
            format!("{} and {name} have the same Upstream, and git could not tell which is meant", other.name),
            "Take one of them out.",
        );
    }
    let declared = [
        ("IdentityFile", entry.identity_file.is_some()),
        ("KnownHostKey", entry.known_host_key.is_some()),
        ("TokenRef", entry.token_ref.is_some()),
    ];
    let (needed, useless) = match entry.upstream.transport {
        Transport::Ssh(_) => (&["IdentityFile", "KnownHostKey"][..], &["TokenRef"][..]),
        Transport::Https => (&[][..], &["IdentityFile", "KnownHostKey"][..]),
    };
    for (key, is_declared) in declared {
        if useless.contains(&key) && is_declared {
            let other = if key == "TokenRef" { "https://" } else { "ssh://" };
            return wrong(
                format!("{name}: `{key}` is for {other} upstreams, and this one is {}", entry.upstream),
                format!("Take `{key}` out."),
            );
        }
        if needed.contains(&key) && !is_declared {
            let how = if key == "KnownHostKey" {
                format!(
                    "Nobody is trusted at first sight. `{}` shows the key; compare it with what the host's owner \
                     publishes, and add the line `KnownHostKey: ssh-ed25519 AAAA…`.",
                    keyscan(&entry.upstream)
                )
            } else {
                "Name the private key's file: ~/.ssh/id_ed25519 say. It never enters the bottle.".into()
            };
            return wrong(format!("{name}: an ssh:// upstream needs `{key}`"), how);
        }
    }
    Ok(())
}

/// What shows a host's key.
fn keyscan(upstream: &Upstream) -> String {
    let port = upstream.port.map(|port| format!(" -p {port}")).unwrap_or_default();
    format!("ssh-keyscan -t ed25519{port} {}", upstream.host)
}

fn name<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    let parse = |name: &str| {
        let name = plain_name(name)?;
        if let Some(bare) = name.strip_suffix(".git") {
            return wrong(
                format!("the name {name} ends with `.git`, as its URL does anyway"),
                format!("Write {bare}."),
            );
        }
        if name.len() > LONGEST_NAME {
            return wrong("the name is too long", format!("A remote's name has {LONGEST_NAME} characters at most."));
        }
        Ok(name)
    };
    text(d, parse)
}

fn address<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpAddr>, D::Error> {
    text(d, ip_address).map(Some)
}

fn token_ref<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    text(d, token_variable).map(Some)
}

fn identity_file<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    let parse = |path: &str| {
        if (path.starts_with("~/") || path.starts_with('/')) && !path.contains('\0') && !path.ends_with('/') {
            return Ok(Some(path.to_owned()));
        }
        wrong(
            format!("{} is no absolute path of a file", quoted(path)),
            "Write ~/.ssh/id_ed25519, or a path that begins with `/`.",
        )
    };
    text(d, parse)
}

fn known_host_key<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    const KINDS: [&str; 5] =
        ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];
    let parse = |text: &str| {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let key = words.windows(2).position(|pair| {
            // The key's bytes begin with their own kind, its length before it.
            KINDS.contains(&pair[0])
                && BASE64_STANDARD.decode(pair[1]).is_ok_and(|bytes| {
                    bytes.get(..4) == Some(&(pair[0].len() as u32).to_be_bytes()[..])
                        && bytes.get(4..4 + pair[0].len()) == Some(pair[0].as_bytes())
                })
        });
        match key {
            Some(0) => Ok(Some(words[..2].join(" "))),
            Some(at) => {
                wrong("the key has something before it", format!("Write the key alone, from {} on.", words[at]))
            }
            None => wrong(
                format!("{} is no public key of a host", quoted(text)),
                "Write its kind and its base64, as `ssh-keyscan` shows them: ssh-ed25519 AAAA…",
            ),
        }
    };
    text(d, parse)
}

/// schemars does not know of aliases.
fn add_aliases(schema: &mut Schema) {
    const ALIASES: [(&str, &str); 5] = [
        ("Name", "name"),
        ("Upstream", "upstream"),
        ("IdentityFile", "identity_file"),
        ("KnownHostKey", "known_host_key"),
        ("TokenRef", "token_ref"),
    ];
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (name, alias) in ALIASES {
            let property = properties.get(name).cloned();
            properties.extend(property.map(|property| (alias.to_owned(), property)));
        }
    }
    let one_of = |(name, alias)| json!({ "oneOf": [{ "required": [name] }, { "required": [alias] }] });
    schema.insert("allOf".into(), ALIASES[..2].iter().copied().map(one_of).collect());
    schema.remove("required");
}

fn default_refs() -> Vec<String> {
    ["refs/heads/*", "refs/tags/*"].map(str::to_owned).into()
}

fn is_default_refs(refs: &[String]) -> bool {
    refs == default_refs()
}

fn refs<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let parse = |pattern: &str| {
        let plain = pattern.strip_prefix("refs/").is_some_and(|rest| {
            rest.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"))
        });
        let strange = |c: char| c.is_control() || c.is_whitespace() || "~^:?[\\".contains(c);
        if plain && !pattern.contains(strange) && !pattern.contains("..") && !pattern.contains("@{") {
            return Ok(pattern.to_owned());
        }
        wrong(
            format!("{} is no pattern of refs", quoted(pattern)),
            "Write whole names, `refs/heads/agent/*` say; `*` stands for anything.",
        )
    };
    texts(d, parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_reads_back_whose_commits_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let user = GitUser { name: Some(r#"A "quoted" \ name; # x"#.into()), email: Some("a@example.com".into()) };
        let file = dir.path().join("config");
        std::fs::write(&file, user.config().unwrap()).unwrap();
        for (key, value) in [("user.name", &user.name), ("user.email", &user.email)] {
            let out = std::process::Command::new("git").arg("config").arg("--file").arg(&file).arg(key).output();
            assert_eq!(String::from_utf8(out.unwrap().stdout).unwrap().trim_end(), value.as_ref().unwrap());
        }
        assert_eq!(GitUser::default().config(), None);
    }
}
