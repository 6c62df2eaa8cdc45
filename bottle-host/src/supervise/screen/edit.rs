//! A proposal in the operator's own editor: what of it may be changed, as YAML in a private file.

use crate::{signals::Cancellation, ui};
use anyhow::{Context, Result, ensure};
use bottle_policy::Proposal;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_yaml::{Mapping, Value};
use std::{
    fs::{File, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    process::Command,
};

/// What is not the operator's to change.
const FIXED: [&str; 2] = ["tool", "justification"];
/// More than any proposal has.
const MAX_BYTES: u64 = 1 << 20;
/// Before and after what an agent wrote: editors obey what stands in the first and the last five lines of a file.
const FOOT: &str = "#\n#\n#\n#\n#\n";

/// What the editor is given.
pub(super) fn text_of(identity: &str, proposal: &Proposal) -> Result<String, String> {
    let value = serde_yaml::to_value(proposal).map_err(|error| error.to_string())?;
    let Value::Mapping(mut fields) = value else { return Err("a proposal has fields".into()) };
    FIXED.iter().for_each(|name| drop(fields.remove(*name)));
    let yaml = serde_yaml::to_string(&fields).map_err(|error| error.to_string())?;
    if !yaml.chars().all(|c| matches!(c, '\n' | '\t') || ui::is_seen(c)) {
        return Err("it has characters that nobody would see in an editor: reject it, and say so".into());
    }
    let tool = proposal.tool();
    let head = format!(
        "# {identity} asks for this ({tool}). Save what it may have instead.\n\
         # Nothing is decided yet: you are asked once more. An empty file changes nothing.\n\
         # What no agent may ask for (credentials, private addresses, TLS unseen) cannot be given here:\n\
         # that is the manifest's.\n#\n"
    );
    Ok(format!("{head}{yaml}{FOOT}"))
}

/// What the editor has left of a proposal, held to the rules for any; none, where nothing is changed.
pub(super) fn proposal_of(original: &Proposal, text: &str) -> Result<Option<Proposal>, String> {
    let said = |error: serde_yaml::Error| error.to_string();
    let fields: Option<Mapping> = serde_yaml::from_str(text).map_err(said)?;
    let Some(mut fields) = fields.filter(|fields| !fields.is_empty()) else { return Ok(None) };
    let Value::Mapping(own) = serde_yaml::to_value(original).map_err(said)? else { return Ok(None) };
    fields.extend(own.into_iter().filter(|(name, _)| name.as_str().is_some_and(|name| FIXED.contains(&name))));
    let proposal: Proposal = serde_yaml::from_value(Value::Mapping(fields)).map_err(said)?;
    proposal.check()?;
    Ok(Some(proposal).filter(|proposal| proposal != original))
}

/// Has the operator's editor change a text. The terminal is as the editor expects it.
pub(super) fn run(text: &str, cancel: &Cancellation) -> Result<String> {
    let mut dir = tempfile::Builder::new();
    let dir = dir.prefix("bottle-").permissions(Permissions::from_mode(0o700)).tempdir()?;
    let path = dir.path().join("proposal.yaml");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    let named = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".into());
    // As git does: it may have arguments.
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{editor} \"$@\"")).arg(&editor).arg(&path);
    let mut child = command.spawn().with_context(|| format!("start the editor `{editor}`"))?;
    let pid = Pid::from_child(&child);
    let waited = pidfd_open(pid, PidfdFlags::empty()).map_err(Into::into).and_then(|fd| cancel.wait_readable(fd));
    if waited.is_err() {
        let _ = kill_process(pid, Signal::TERM);
    }
    let status = child.wait()?;
    waited?;
    ensure!(status.success(), "the editor `{editor}` ended with {status}: set VISUAL or EDITOR to another one");
    let mut text = String::new();
    File::open(&path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn proposal(value: &Json) -> Proposal {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn asked() -> [Proposal; 3] {
        [
            json!({"tool": "egress-block", "justification": "x", "routes": [
                {"host": "a.example", "ports": [8443], "paths": ["/a", "/b"], "methods": ["GET"]}]}),
            json!({"tool": "pipelock-block", "justification": "x", "url": "https://a.example/b"}),
            json!({"tool": "capability-block", "justification": "x", "dockerfile": "RUN a\n# vim: set x:\nRUN b\n"}),
        ]
        .map(|value| proposal(&value))
    }

    #[test]
    fn what_is_saved_as_it_was_changes_nothing() {
        for original in asked() {
            let text = text_of("dev-12345", &original).unwrap();
            assert_eq!(proposal_of(&original, &text), Ok(None), "{text}");
            assert_eq!(proposal_of(&original, ""), Ok(None));
            assert_eq!(proposal_of(&original, "# all of it taken out\n"), Ok(None));
            let ours = |lines: Vec<&str>| lines.iter().all(|line| line.starts_with('#') && !line.contains("vim"));
            let lines: Vec<&str> = text.lines().collect();
            assert!(ours(lines[..5].to_vec()) && ours(lines[lines.len() - 5..].to_vec()), "{text}");
        }
    }

    #[test]
    fn what_is_changed_is_held_to_what_an_agent_may_ask_for() {
        let [egress, pipelock, image] = asked();
        for (original, text, expected) in [
            (&egress, "routes: [{host: a.example, paths: [/a]}]", Ok("/a")),
            (&egress, "routes: [{host: b.example}]\njustification: another\ntool: pipelock-block", Ok("b.example")),
            (&pipelock, "url: https://a.example/c", Ok("https://a.example/c")),
            (&image, "dockerfile: RUN c", Ok("RUN c")),
            (&egress, "routes: [{host: a.example, auth: {scheme: Bearer, secret: x}}]", Err("auth")),
            (&egress, "routes: [{host: a.example, tls_passthrough: true}]", Err("tls_passthrough")),
            (&egress, "routes: [{host: 10.0.0.1}]", Err("private address")),
            (&egress, "routes: []", Err("no route")),
            (&egress, "routes: [{host: '*'}]", Err("character")),
            (&egress, "url: https://a.example/", Err("url")),
            (&egress, "routes: [", Err("line")),
            (&egress, "yes", Err("invalid type")),
            (&pipelock, "url: https://127.0.0.1/", Err("loopback")),
            (&image, "dockerfile: ''", Err("empty")),
        ] {
            match (proposal_of(original, text), expected) {
                (Ok(Some(changed)), Ok(word)) => {
                    assert!(serde_json::to_string(&changed).unwrap().contains(word), "{changed:?}");
                    assert_eq!((changed.tool(), changed.justification()), (original.tool(), "x"));
                }
                (Err(why), Err(word)) => assert!(why.contains(word), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_nobody_would_see_reaches_no_editor() {
        let image = json!({"tool": "capability-block", "justification": "x", "dockerfile": "RUN a \u{202e}b\nRUN c"});
        assert!(text_of("dev-12345", &proposal(&image)).unwrap_err().contains("nobody would see"));
    }
}
