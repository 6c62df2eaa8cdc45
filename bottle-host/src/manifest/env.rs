//! `env:` of a bottle: what the agent finds in its environment.

use super::{
    names::{VARIABLE, host_name, is_variable},
    read::{Checked, Item, Text, quoted, some_texts, wrong},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, EnumAccess, MapAccess, Visitor},
};
use std::{borrow::Cow, cell::Cell, collections::BTreeMap, fmt, marker::PhantomData};

/// The host's variables that hold the model's credential: no other host and no agent gets their values.
pub const MODEL_CREDENTIALS: [&str; 2] = ["CLAUDE_BOTTLE_OAUTH_TOKEN", "ANTHROPIC_API_KEY"];
/// Lead every client to the sidecar.
pub const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"];
/// Lead past it, to loopback and the sidecar's own names.
pub const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Trust the sidecar's certificates.
pub const CA_VARIABLES: [&str; 5] =
    ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"];
/// Keep the client from talking to anybody but the model.
pub const SWITCHES: [(&str, &str); 3] = [
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
];
/// The same of a bottle whose agent has an operator to ask, unless its manifest says otherwise: the client waits for the
/// operator's server before its first turn, and shows the model the tools without being asked for them.
pub const SUPERVISE_SWITCHES: [(&str, &str); 2] =
    [("MCP_CONNECTION_NONBLOCKING", "0"), ("ENABLE_TOOL_SEARCH", "false")];
/// Holds the capability for the client's own configuration: a file does not.
pub const SUPERVISE_TOKEN: &str = "BOTTLE_SUPERVISE_TOKEN";
/// Others that a manifest may not set: they would lead the client, or a credential, elsewhere.
const RESERVED: [&str; 9] = [
    SUPERVISE_TOKEN,
    "HOME",
    "ALL_PROXY",
    "all_proxy",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "SSL_CERT_DIR",
];

/// The agent's environment, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Env(pub BTreeMap<String, EnvValue>);

/// A value of `env:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// As written.
    Literal(String),
    /// Known on the host or asked for; never in a file.
    Secret {
        /// Where the value comes from.
        from: SecretSource,
        /// The hosts that it may be sent to; none: it never leaves the bottle.
        hosts: Vec<String>,
    },
}

/// A variable of the agent as it is shown: without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// `literal`, `host` or `asked`.
    pub source: &'static str,
    /// The host's variable that the value is read from.
    pub variable: Option<String>,
    /// The hosts that a secret may be sent to.
    pub hosts: Vec<String>,
}

impl Env {
    /// All of them, without a value.
    pub fn shown(&self) -> Vec<Variable> {
        let shown = |(name, value): (&String, &EnvValue)| {
            let (source, variable, hosts) = match value {
                EnvValue::Literal(_) => ("literal", None, vec![]),
                EnvValue::Secret { from: SecretSource::Host(variable), hosts } => {
                    ("host", Some(variable.clone()), hosts.clone())
                }
                EnvValue::Secret { from: SecretSource::Asked(_), hosts } => ("asked", None, hosts.clone()),
            };
            Variable { name: name.clone(), source, variable, hosts }
        };
        self.0.iter().map(shown).collect()
    }
}

impl Variable {
    /// In a few words.
    pub fn line(&self) -> String {
        let from = match (self.source, &self.variable) {
            (_, Some(variable)) => format!(" (secret, from ${variable})"),
            ("asked", _) => " (secret, asked for)".into(),
            _ => String::new(),
        };
        let to = if self.hosts.is_empty() { String::new() } else { format!(" to {}", self.hosts.join(", ")) };
        format!("{}{from}{to}", self.name)
    }
}

/// Where a secret's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `${NAME}`: the host's variable.
    Host(String),
    /// `?` or `?text`: asked for on the terminal, after the y/N.
    Asked(String),
}

/// The long form of a secret.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename = "EnvSecret")]
struct SecretForm {
    /// `?`, `?question`, or `${NAME}`.
    #[schemars(regex(pattern = r"^(\?|\$\{[A-Za-z_][A-Za-z0-9_]*\}$)"))]
    secret: String,
    /// The hosts that it may be sent to.
    #[serde(default, deserialize_with = "hosts", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1))]
    hosts: Vec<String>,
}

/// May a manifest set this variable? Not where bottle sets it itself.
pub fn is_reserved(name: &str) -> bool {
    let own = PROXY_VARIABLES.iter().chain(&NO_PROXY_VARIABLES).chain(&CA_VARIABLES).chain(&RESERVED);
    own.chain(&MODEL_CREDENTIALS).chain(SWITCHES.iter().map(|(switch, _)| switch)).any(|reserved| *reserved == name)
}

fn variable(name: &str) -> Checked<String> {
    if !is_variable(name) {
        return wrong(
            format!("{} is no name of a variable", quoted(name)),
            "A variable's name is letters, digits and underscores, and does not begin with a digit.",
        );
    }
    if is_reserved(name) {
        return wrong(
            format!("bottle sets {name} itself"),
            "Take it out; the model's credential and the way to the sidecar come from the host.",
        );
    }
    Ok(name.into())
}

/// What a text stands for.
fn value(text: &str) -> Checked<EnvValue> {
    if text.contains('\0') {
        return Err("a value cannot hold a NUL character".into());
    }
    let from = match (text.strip_prefix('?'), text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))) {
        (Some(question), _) => SecretSource::Asked(question.trim().into()),
        (_, Some(name)) if MODEL_CREDENTIALS.contains(&name) => {
            return wrong(
                format!("${{{name}}} would hand the model's own credential to the agent"),
                "The sidecar puts it in where it is needed; take it out.",
            );
        }
        (_, Some(name)) if is_variable(name) => SecretSource::Host(name.into()),
        (_, Some(name)) => {
            return wrong(
                format!("{} is no name of a variable", quoted(name)),
                "${NAME} alone stands for a variable of the host; nothing else may be in the braces.",
            );
        }
        _ => return Ok(EnvValue::Literal(text.into())),
    };
    Ok(EnvValue::Secret { from, hosts: vec![] })
}

fn hosts<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    some_texts(d, host_name, "Name a host, or take `hosts` out: then the secret never leaves the bottle.")
}

impl SecretSource {
    /// As a manifest writes it.
    fn written(&self) -> String {
        match self {
            Self::Host(name) => format!("${{{name}}}"),
            Self::Asked(question) => format!("?{question}"),
        }
    }
}

impl Serialize for EnvValue {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Literal(text) => s.serialize_str(text),
            Self::Secret { from, hosts } if hosts.is_empty() => s.serialize_str(&from.written()),
            Self::Secret { from, hosts } => SecretForm { secret: from.written(), hosts: hosts.clone() }.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(EnvVisitor)
    }
}

struct EnvVisitor;

impl<'de> Visitor<'de> for EnvVisitor {
    type Value = Env;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of names and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Env, A::Error> {
        let mut env = BTreeMap::new();
        while let Some(name) = map.next_key_seed(Text(variable))? {
            // A scalar has to be asked for as text, to come as it was written: 0x1F, 1.10, True. serde_yaml looks
            // before it steps when it is asked for an enum, so what turns out to be no scalar can be read again.
            let is_scalar = Cell::new(false);
            let value = match map.next_value_seed(Scalar(&is_scalar)) {
                Err(_) if !is_scalar.get() => map.next_value_seed(LongForm)?,
                value => value?,
            };
            env.insert(name, value);
        }
        Ok(Env(env))
    }
}

struct Scalar<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Scalar<'_> {
    type Value = EnvValue;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<EnvValue, D::Error> {
        d.deserialize_enum("", &[], self)
    }
}

impl<'de> Visitor<'de> for Scalar<'_> {
    type Value = EnvValue;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }
    fn visit_enum<A: EnumAccess<'de>>(self, scalar: A) -> Result<EnvValue, A::Error> {
        self.0.set(true);
        Ok(scalar.variant_seed(Text(value))?.0)
    }
}

struct LongForm;

impl<'de> DeserializeSeed<'de> for LongForm {
    type Value = EnvValue;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<EnvValue, D::Error> {
        let form =
            Item("text, or a mapping with `secret`", |form: &SecretForm| secret(&form.secret).map(drop), PhantomData)
                .deserialize(d)?;
        secret(&form.secret).map(|from| EnvValue::Secret { from, hosts: form.hosts }).map_err(serde::de::Error::custom)
    }
}

fn secret(text: &str) -> Checked<SecretSource> {
    match value(text)? {
        EnvValue::Secret { from, .. } => Ok(from),
        EnvValue::Literal(_) => wrong(
            "`secret` is neither `?` nor `${NAME}`",
            "Write `?`, `?question` or `${NAME}`: the value itself never stands in a manifest.",
        ),
    }
}

impl JsonSchema for Env {
    fn schema_name() -> Cow<'static, str> {
        "Env".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<SecretForm>();
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": VARIABLE },
            "additionalProperties": {
                "description": "Literal text; `?` or `?question`: asked for; `${NAME}`: the host's variable.",
                "anyOf": [{ "type": ["string", "number", "boolean"] }, long],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::bottle_from;

    #[test]
    fn values_come_as_they_were_written() {
        let literal = |t: &str| EnvValue::Literal(t.into());
        let secret = |from| EnvValue::Secret { from, hosts: vec![] };
        for (written, value) in [
            ("plain", literal("plain")),
            ("8080", literal("8080")),
            ("0x1F", literal("0x1F")),
            ("1.10", literal("1.10")),
            ("True", literal("True")),
            ("1_000", literal("1_000")),
            ("$x", literal("$x")),
            ("${x", literal("${x")),
            ("''", literal("")),
            ("\"a\\tb\"", literal("a\tb")),
            ("${HOST_B}", secret(SecretSource::Host("HOST_B".into()))),
            ("'?'", secret(SecretSource::Asked(String::new()))),
            ("?your key", secret(SecretSource::Asked("your key".into()))),
            ("{secret: '?'}", secret(SecretSource::Asked(String::new()))),
            (
                "{secret: '${X}', hosts: [A.example]}",
                EnvValue::Secret { from: SecretSource::Host("X".into()), hosts: vec!["a.example".into()] },
            ),
        ] {
            assert_eq!(bottle_from(&format!("env:\n  A: {written}\n  B: b\n")).env.0["A"], value, "{written}");
        }
    }
}
