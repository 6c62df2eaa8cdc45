//! Long conversations of the real Claude Code through the whole bottle: look-alikes of secrets pass unharmed, and a real
//! secret of the agent's environment does not reach the model. And one of two megabytes that no client is needed for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // tests

#[path = "conversation/large.rs"]
mod large;

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, Run, contains},
    lab::Lab,
    standin::{Seen, Standin},
    wire::Authority,
};
use sha2::{Digest, Sha256};

const MARK: &str = "[bottle:redacted AGENT_SECRET]";
/// Prints what a command prints, and its SHA-256 as it was in the bottle.
const SUMMED: &str = r#"f=$(mktemp); { COMMAND; } > $f 2>&1; cat $f; echo "sum $(sha256sum < $f | cut -c1-64)""#;
/// What looks like a secret and is none: a turn each.
const LOOK_ALIKES: [&str; 20] = [
    "for i in $(seq 60); do cat /proc/sys/kernel/random/uuid; done",
    "sha256sum /usr/bin/* 2>/dev/null | head -n 120",
    "sha1sum /usr/bin/* 2>/dev/null | head -n 120 | sed 's/^/commit /'",
    "md5sum /usr/bin/* 2>/dev/null | head -n 120",
    r#"echo '{"packages": {'; for i in $(seq 80); do echo "\"node_modules/p$i\": {\"version\": \"1.$i.0\", \"integrity\": \"sha512-$(echo $i | sha512sum | base64 -w0 | head -c 86)==\"},"; done; echo '}}'"#,
    r#"for i in $(seq 60); do printf '[[package]]\nname = "p%s"\nversion = "0.%s.1"\nchecksum = "%s"\n\n' $i $i $(echo $i | sha256sum | cut -c1-64); done"#,
    r#"echo "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA$(head -c 9000 /dev/urandom | base64 -w0)""#,
    "head -c 6000 /dev/urandom | base64",
    "head -c 5000 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo",
    r#"echo "{\"version\":3,\"sources\":[\"a.ts\"],\"mappings\":\"$(head -c 6000 /dev/urandom | base64 -w0 | tr -d '+/=0-9' | sed 's/.../&,/g')\"}""#,
    r#"for i in $(seq 120); do printf 'function %s(t,e){var n=t[%s],r=e.%s;return n^r<<%s}' $(echo $i | md5sum | tr -d '0-9 -' | head -c 3) $i $(echo $i$i | md5sum | tr -d '0-9 -' | head -c 2) $i; done; echo"#,
    "echo -----BEGIN CERTIFICATE-----; head -c 1200 /dev/urandom | base64 -w 64; echo -----END CERTIFICATE-----",
    "echo -----BEGIN PUBLIC KEY-----; head -c 294 /dev/urandom | base64 -w 64; echo -----END PUBLIC KEY-----",
    r#"for i in 1 2 3 4 5; do echo "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI$(head -c 31 /dev/urandom | base64 -w0 | head -c 42) dev$i@example.org"; done"#,
    r#"echo 'API_KEY=<your key>'; echo 'export TOKEN=xxxxxxxxxxxxxxxxxxxx'; echo 'password: ${PASSWORD}'; echo 'AWS_SECRET_ACCESS_KEY=$(aws configure get x)'; echo 'let key = "changeme-changeme";'"#,
    r#"for i in $(seq 60); do echo "{\"trace_id\":\"$(echo $i | md5sum | cut -c1-32)\",\"span_id\":\"$(echo $i | md5sum | cut -c1-16)\",\"etag\":\"W/\\\"$(echo $i | sha1sum | cut -c1-27)\\\"\"}"; done"#,
    r#"for i in $(seq 40); do echo "sha256:$(echo $i | sha256sum | cut -c1-64) registry.example.org/team/app@sha256:$(echo x$i | sha256sum | cut -c1-64)"; done"#,
    r#"for i in $(seq 40); do echo "https://cdn.example.org/a/$(echo $i | sha1sum | cut -c1-40)/b.js?v=$(echo $i | md5sum | cut -c1-8)&t=17637000$i"; done"#,
    "cat /proc/self/maps /proc/cpuinfo | head -n 150",
    "tr -dc 'A-Za-z0-9' < /dev/urandom | fold -w 76 | head -n 100",
];

fn home() -> Result<(Standin, Home)> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    Ok((standin, home))
}

fn turns(standin: &Standin) -> Vec<Seen> {
    standin.seen().into_iter().filter(|seen| seen.path.starts_with("/v1/messages")).collect()
}

/// Nothing of the model's was refused.
fn assert_nothing_refused(home: &Home, run: &Run) {
    assert_eq!(run.code, Some(0), "{run:?}");
    for line in home.egress_log() {
        let models = line["host"] == "api.anthropic.com:443" && line["path"] == "/v1/messages";
        assert!(!models || line["decision"] == "allow", "{line}");
    }
}

#[test]
fn twenty_turns_full_of_look_alikes_arrive_unharmed() -> Result<()> {
    let (standin, home) = home()?;
    let commands: Vec<String> = LOOK_ALIKES.iter().map(|command| SUMMED.replace("COMMAND", command)).collect();
    let (results, run) = home.play(&commands.iter().map(String::as_str).collect::<Vec<_>>())?;
    assert_nothing_refused(&home, &run);
    assert_eq!(results.len(), LOOK_ALIKES.len(), "{run:?}");
    let mut bytes = 0;
    for (command, result) in LOOK_ALIKES.iter().zip(&results) {
        // The client drops the end of the last line alone.
        let (printed, sum) = result.rsplit_once("sum ").with_context(|| format!("{command}: {result}"))?;
        let digest: String = Sha256::digest(printed).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(printed.len() > 100, "{command} printed {printed}");
        assert_eq!(digest, sum.trim(), "{command}: what the model got is not what was printed: {printed}");
        bytes += printed.len();
    }
    let turns = turns(&standin);
    assert!(turns.len() > LOOK_ALIKES.len(), "{} turns", turns.len());
    assert!(turns.iter().all(|turn| !contains(&turn.body, b"[bottle:redacted")), "something was taken for a secret");
    println!("{} turns, {bytes} bytes of look-alikes, {} bytes sent", turns.len(), sent(&turns));
    Ok(())
}

#[test]
fn a_secret_of_the_environment_never_reaches_the_model() -> Result<()> {
    let (standin, home) = home()?;
    let value = format!("Zq7{}vX2", hex(&Sha256::digest(home.path().to_string_lossy().as_bytes()))[..24].to_owned());
    let home = home.with_env("HOST_SECRET", &value);
    let prompt = format!(
        "My secret is {value}, keep it.\n\
         @@bash echo \"AGENT_SECRET=$AGENT_SECRET\"; echo \"length ${{#AGENT_SECRET}}\"\n\
         @@bash printf '{{\"deep\": {{\"in\": \"%s\"}}}}' \"$AGENT_SECRET\"\n\
         @@bash printf %s \"$AGENT_SECRET\" | base64 -w0; echo\n\
         @@bash printf %s \"$AGENT_SECRET\" | od -An -tx1 | tr -d ' \\n'; echo\n\
         @@bash env | sort\n"
    );
    let run = home.run(&["start", "dev", "--yes", "--prompt", &prompt])?;
    assert_nothing_refused(&home, &run);
    let turns = turns(&standin);
    assert!(turns.len() > 5, "{} turns", turns.len());
    let forms = [value.clone(), BASE64_STANDARD.encode(&value).trim_end_matches('=').to_owned(), hex(value.as_bytes())];
    for turn in &turns {
        for form in &forms {
            assert!(!contains(&turn.body, form.as_bytes()), "the model was told {form}");
        }
    }
    let results = run.results()?;
    // It was there to be told.
    assert_eq!(results[0], format!("AGENT_SECRET={MARK}\nlength {}", value.len()));
    assert!(results[1].contains(MARK) && results[4].contains(&format!("AGENT_SECRET={MARK}")), "{results:#?}");
    assert!(turns.iter().any(|turn| contains(&turn.body, format!("My secret is {MARK}, keep it.").as_bytes())));
    assert!(!run.stdout.contains(&value) && !run.stderr.contains(&value), "{run:?}");
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sent(turns: &[Seen]) -> usize {
    turns.iter().map(|turn| turn.body.len()).sum()
}
