//! What holds of every manifest: nothing panics, nothing is dropped without a word, what is printed is read again, and
//! what the parser takes the schema takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

use bottle_host::manifest::{AgentFields, BottleFields, EnvValue, Frontmatter, Kind, parse_text, print, schema};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::{Index, select},
};
use serde_json::{Map, Value, json};
use std::{fmt::Debug, fs, path::Path};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn read<T: Frontmatter>(yaml: &str) -> anyhow::Result<T> {
    parse_text("x.md", &format!("---\n{}\n---\n", yaml.strip_suffix('\n').unwrap_or(yaml)))
}

fn accepts(kind: Kind, value: &Value) -> bool {
    jsonschema::is_valid(&serde_json::to_value(schema(kind)).unwrap(), value)
}

/// A mapping with those of its keys that are there.
fn object<const N: usize>(keys: [(&str, Option<Value>); N]) -> Value {
    keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect::<Map<_, _>>().into()
}

/// Text of every kind that a person may write or paste.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,20}", "[ -~]{0,20}", "(?s).{0,12}", "[-+.0-9a-fox_:]{1,8}", "( |\n|a|#|:|'|\"|-){0,12}"]
        .prop_filter("no NUL", |text: &String| !text.contains('\0'))
}

fn literal() -> impl Strategy<Value = String> {
    let is_secret = |text: &String| text.starts_with('?') || text.starts_with("${") && text.ends_with('}');
    any_text().prop_filter("a secret", move |text| !is_secret(text))
}

fn names() -> impl Strategy<Value = Vec<String>> {
    btree_set("[a-z][a-z0-9-]{0,8}", 2..4).prop_map(|names| names.into_iter().collect())
}

fn env() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        literal().prop_map(Value::from),
        "[A-Z]{1,8}".prop_map(|name| json!(format!("${{{name}}}"))),
        "[a-z ]{0,8}".prop_map(|question| json!(format!("?{}", question.trim()))),
        "[A-Z]{1,8}".prop_map(|name| json!({ "secret": format!("${{{name}}}"), "hosts": ["a.example"] })),
    ];
    btree_map("T_[A-Za-z0-9_]{0,6}", value, 0..5).prop_map(|env| json!(env))
}

fn person() -> impl Strategy<Value = Value> {
    let text = || option::of("[a-zA-Z\"\\\\'@.#;]{1,12}");
    (text(), text())
        .prop_map(|(name, email)| object([("name", name.map(Value::from)), ("email", email.map(Value::from))]))
}

/// A route; its host is given by its place in the list.
fn route() -> impl Strategy<Value = Value> {
    let auth = select(vec!["Bearer", "token", "Basic", "x-api-key"])
        .prop_map(|scheme| json!({ "scheme": scheme, "token_ref": "FORGE_TOKEN" }));
    let paths = btree_set("/[a-z0-9._-]{1,6}x", 1..3).prop_map(|paths| json!(paths));
    let methods = btree_set(select(vec!["GET", "POST", "PROPFIND"]), 1..3).prop_map(|methods| json!(methods));
    let ports = btree_set(prop_oneof![Just(443u16), 1024u16..], 1..3).prop_map(|ports| json!(ports));
    let responses = select(vec!["warn", "block"]).prop_map(Value::from);
    let address = select(vec!["192.0.2.7", "2001:db8::7"]).prop_map(Value::from);
    let of = (
        option::of(auth),
        option::of(paths),
        option::of(methods),
        option::of(ports),
        option::of(responses),
        option::of(address),
        any::<bool>(),
    );
    of.prop_map(|(auth, paths, methods, ports, responses, address, private)| {
        object([
            ("auth", auth),
            ("path_allowlist", paths),
            ("methods", methods),
            ("ports", ports),
            ("responses", responses),
            ("address", address),
            ("allow_private", private.then_some(json!(true))),
        ])
    })
}

fn egress() -> impl Strategy<Value = Value> {
    (any::<bool>(), any::<bool>(), vec(route(), 0..4)).prop_map(|(audit, preset, mut routes)| {
        for (i, route) in routes.iter_mut().enumerate() {
            route["host"] = json!(format!("h{i}.example"));
        }
        object([
            ("mode", audit.then_some(json!("audit"))),
            ("presets", preset.then_some(json!(["claude-full"]))),
            ("blocklist", preset.then_some(json!(["bad.example", "*.worse.example"]))),
            ("routes", (!routes.is_empty()).then_some(json!(routes))),
        ])
    })
}

fn git() -> impl Strategy<Value = Value> {
    let entry = |(i, is_ssh): (usize, bool)| {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        let mut entry = if is_ssh {
            json!({ "Upstream": format!("ssh://git@forge.example:22/a{i}.git"), "IdentityFile": "~/.ssh/id", "KnownHostKey": key })
        } else {
            json!({ "Upstream": format!("https://forge.example/a{i}.git"), "TokenRef": "FORGE_TOKEN", "allow_refs": [],
                    "allow_delete": true, "allow_force": true, "address": "10.0.0.1", "allow_private": true })
        };
        entry["Name"] = json!(format!("r{i}"));
        entry
    };
    vec(any::<bool>(), 0..3).prop_map(move |kinds| kinds.into_iter().enumerate().map(entry).collect())
}

fn limits() -> impl Strategy<Value = Value> {
    let memory =
        prop_oneof![(1u32..900).prop_map(|n| format!("{n}g")), (32u32..500).prop_map(|n| format!("{}m", 2 * n + 1))];
    let of = (option::of(memory), option::of(10u32..64_000), option::of(1u32..));
    of.prop_map(|(memory, milli, pids)| {
        let cpus = milli.map(|milli| json!(f64::from(milli) / 1000.0));
        object([("memory", memory.map(Value::from)), ("cpus", cpus), ("pids", pids.map(Value::from))])
    })
}

/// A bottle, as it would be printed.
fn bottle() -> impl Strategy<Value = Value> {
    let isolation = select(vec!["process", "container", "vm"]).prop_map(Value::from);
    let agents = select(vec!["ask", "deny"]).prop_map(Value::from);
    let of = (
        (option::of(names()), option::of(env()), option::of(git()), option::of(person()), option::of(egress())),
        (option::of(any::<bool>()), option::of(isolation), option::of(limits()), option::of(agents)),
    );
    of.prop_map(|((extends, env, git, git_user, egress), (supervise, isolation, limits, agents))| {
        object([
            ("extends", extends.map(Value::from)),
            ("env", env),
            ("git", git),
            ("git_user", git_user),
            ("egress", egress),
            ("supervise", supervise.map(Value::from)),
            ("isolation", isolation),
            ("limits", limits),
            ("project_agents", agents),
        ])
    })
}

/// An agent, as it would be printed.
fn agent() -> impl Strategy<Value = Value> {
    (option::of(names()), option::of(person()), option::of(any_text())).prop_map(|(skills, git_user, description)| {
        object([
            ("bottle", Some(json!("b"))),
            ("skills", skills.map(Value::from)),
            ("git_user", git_user),
            ("description", description.map(Value::from)),
        ])
    })
}

/// Read whole, printed, and read again; taken by the schema.
fn survives<T: Frontmatter + PartialEq + Debug>(kind: Kind, value: &Value) {
    let yaml = serde_yaml::to_string(value).unwrap();
    let fields: T = read(&yaml).unwrap_or_else(|error| panic!("{error:#}\n{yaml}"));
    assert_eq!(serde_json::to_value(&fields).unwrap(), *value, "something was dropped or changed");
    assert_eq!(parse_text::<T>("x.md", &print(&fields, "body").unwrap()).unwrap(), fields);
    assert!(accepts(kind, value), "the schema refuses {yaml}");
}

/// The mappings in a value whose keys are ours.
fn mappings(value: &mut Value) -> Vec<&mut Map<String, Value>> {
    match value {
        Value::Object(map) => {
            // Borrowed twice otherwise: the key goes into one of them.
            let inner = map.iter().any(|(key, value)| key != "env" && (value.is_object() || value.is_array()));
            if !inner {
                return vec![map];
            }
            map.iter_mut().filter(|(key, _)| *key != "env").flat_map(|(_, value)| mappings(value)).collect()
        }
        Value::Array(list) => list.iter_mut().flat_map(mappings).collect(),
        _ => vec![],
    }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn a_bottle_is_read_whole_and_printed_as_it_is_read(value in bottle()) {
        survives::<BottleFields>(Kind::Bottle, &value);
    }

    #[test]
    fn an_agent_is_read_whole_and_printed_as_it_is_read(value in agent()) {
        survives::<AgentFields>(Kind::Agent, &value);
    }

    #[test]
    fn a_key_that_is_not_known_is_an_error_that_names_it_wherever_it_is(value in bottle(), at: Index) {
        let mut value = value;
        let mut maps = mappings(&mut value);
        if !maps.is_empty() {
            let at = at.index(maps.len());
            maps[at].insert("zz_unknown".into(), json!(1));
            let error = read::<BottleFields>(&serde_yaml::to_string(&value).unwrap()).unwrap_err().to_string();
            prop_assert!(error.contains("`zz_unknown` is no key here"), "{}", error);
            prop_assert!(!accepts(Kind::Bottle, &value));
        }
    }

    #[test]
    fn a_line_that_stands_twice_is_never_passed_over(value in bottle(), at: Index) {
        let yaml = serde_yaml::to_string(&value).unwrap();
        let keys: Vec<&str> = yaml.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())).collect();
        if !keys.is_empty() && value.as_object().is_some_and(|map| !map.is_empty()) {
            let again = keys[at.index(keys.len())].split(':').next().unwrap();
            let error = read::<BottleFields>(&format!("{yaml}{again}: 1\n")).unwrap_err().to_string();
            prop_assert!(error.contains(&format!("the key `{again}` stands twice")), "{}", error);
        }
    }

    #[test]
    fn a_quoted_value_survives_byte_for_byte(text in literal()) {
        let escaped: String = text
            .chars()
            .map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' { c.into() } else { format!("\\U{:08x}", c as u32) })
            .collect();
        let fields: BottleFields = read(&format!("env:\n  A: \"{escaped}\"")).unwrap();
        prop_assert_eq!(&fields.env.unwrap().0["A"], &EnvValue::Literal(text));
    }

    #[test]
    fn a_plain_value_survives_byte_for_byte(text in "[A-Za-z0-9+./][A-Za-z0-9+./_-]{0,10}") {
        let fields = read::<BottleFields>(&format!("env:\n  A: {text}"));
        if text.eq_ignore_ascii_case("null") && fields.is_err() {
            return Ok(());
        }
        prop_assert_eq!(&fields.unwrap().env.unwrap().0["A"], &EnvValue::Literal(text));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any_text(), words in vec(
        select(vec!["env", "egress", "routes", "host", "git", "limits", ": ", "\n", "  ", "- ", "{", "}", "[", "]", ",", "'",
            "\"", "&a", "*a", "<<", "!x ", "|", ">", "?", "~", "a", "1", "true", "#", "%", "@", "\t", "---", "...", "\r"]), 0..40
    )) {
        for text in [text, words.concat()] {
            let _ = (read::<BottleFields>(&text), read::<AgentFields>(&text));
            let _ = parse_text::<BottleFields>("x.md", &text);
        }
    }
}

#[test]
fn the_schemas_are_schemas_and_take_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for (name, kind) in [("bottle", Kind::Bottle), ("agent", Kind::Agent)] {
        let schema = serde_json::to_value(schema(kind)).unwrap();
        assert!(jsonschema::meta::is_valid(&schema));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        for file in fs::read_dir(corpus.join(name)).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let yaml = text.split("---\n").nth(1).unwrap();
            let value: Option<Value> = serde_yaml::from_str(yaml).unwrap();
            let shown = path.display();
            assert!(accepts(kind, &value.unwrap_or_else(|| json!({}))), "{shown}");
            let read = match kind {
                Kind::Bottle => read::<BottleFields>(yaml).map(drop),
                Kind::Agent => read::<AgentFields>(yaml).map(drop),
            };
            read.unwrap_or_else(|error| panic!("{shown}: {error:#}"));
        }
    }
}
