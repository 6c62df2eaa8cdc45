//! What people do with git all day, from inside a bottle, over ssh and over https: and a table of leaks, each with its
//! honest twin.

use crate::{
    forge::{Forge, TOKEN},
    upstream::Upstream,
};
use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::{
    bottle::{Home, REAL_TOKEN, Run, assert_nothing_left, identity_in, report},
    lab::Lab,
    standin::Standin,
    wire::Authority,
};
use std::{fs, os::unix::fs::PermissionsExt};

const SCRIPT: &str = include_str!("day.sh");
const WEB: &str = "web.example";
const KINDS: [&str; 13] = [
    "blob",
    "binary",
    "message",
    "author",
    "tag",
    "note",
    "name",
    "ref",
    "submodule",
    "undone",
    "merge",
    "base64",
    "gzip",
];

#[test]
fn a_day_over_ssh_and_over_https() -> Result<()> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], &format!("Bearer {REAL_TOKEN}"))?;
    let home = Home::new(lab, &authority, &standin)?;
    let upstream = Upstream::start("")?;
    home.write("key", &fs::read_to_string(upstream.key())?)?;
    fs::set_permissions(home.path().join("key"), fs::Permissions::from_mode(0o600))?;
    let (web, root) = (Lab::address()?, upstream.root().to_owned());
    let forge = Lab::inside(move || Forge::start(&authority, &root, web.into(), WEB))?;
    let own = fs::read_to_string(home.path().join(".claude-bottle/bottles/box.md"))?;
    let own = own.split("git_user:").next().context("a bottle")?.trim_end_matches("---\n").to_owned();
    let Upstream { address, host_key, .. } = &upstream;
    let (ssh, https) = (upstream.url(), format!("https://{WEB}/web.git"));
    let refs = "allow_refs: [refs/heads/*, refs/tags/*, refs/notes/*]";
    home.write(
        ".claude-bottle/bottles/box.md",
        &format!(
            "{own}git_user: {{name: Ada, email: ada@example.com}}\ngit:\n  - Name: app\n    Upstream: {ssh}\n    \
             IdentityFile: ~/key\n    KnownHostKey: {host_key}\n    address: {address}\n    {refs}\n  - Name: web\n    \
             Upstream: {https}\n    TokenRef: FORGE_TOKEN\n    address: {web}\n    {refs}\n---\n"
        ),
    )?;
    let mut lines = vec![format!("echo {} | base64 -d >/tmp/day.sh", BASE64_STANDARD.encode(SCRIPT))];
    let leaks: String = KINDS.iter().map(|kind| format!("{kind}: refused\n{kind}: taken\n")).collect();
    // What takes long goes one way; the gate's own tests go both.
    let (both, ssh_only, https_only): (&[usize], &[usize], &[usize]) = (&[0, 1], &[0], &[1]);
    let parts = [
        ("tags", both, "1"),
        ("shallow", both, "1\n3"),
        ("two", both, "2"),
        ("submodule", both, "read me"),
        ("large", ssh_only, "1"),
        ("leaks", https_only, leaks.trim_end()),
    ];
    let ways = [("ssh", &ssh, &https), ("https", &https, &ssh)];
    let played = parts.iter().flat_map(|(part, over, said)| over.iter().map(move |way| (part, ways[*way], said)));
    lines.extend(
        played.clone().map(|(part, (way, url, other), _)| format!("bash /tmp/day.sh {part}-{way} {url} {other} 2>&1")),
    );
    let prompt: String = lines.iter().map(|line| format!("@@bash {line}\n")).collect();
    let run: Run =
        home.command(&["start", "dev", "--yes", "--prompt", &prompt]).env("FORGE_TOKEN", TOKEN).output()?.into();
    let results = run.results().with_context(|| format!("{run:?}"))?;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for (result, (part, (way, ..), said)) in results[1..].iter().zip(played) {
        assert_eq!(result, said, "{part} over {way}");
    }
    assert!(forge.asked().iter().any(|asked| asked.starts_with("POST /web.git/git-receive-pack")));
    report(format!("{} leaks refused, and as many honest twins taken", KINDS.len()));
    assert_nothing_left(lab, &home, &identity_in(&run.stderr)?)
}
