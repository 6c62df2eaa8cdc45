//! What of its user's own a bottle has: Claude Code, be it a program or a script; no socket, and no word of a strong group
//! left unsaid.

use anyhow::Result;
use bottle_tests::{
    bare::{USER, Who},
    bottle::{Home, Run},
    lab::{Lab, output},
    standin::Standin,
    target::Target,
    wire::Authority,
};
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    process::{Command, Stdio},
};

fn home(who: Who) -> Result<Home> {
    let (lab, authority) = (Lab::get(), Authority::new()?);
    let standin = Standin::start(&authority, &["api.anthropic.com"], "")?;
    Home::on(Target::Namespace(who), lab, &authority, &standin)
}

#[test]
fn a_claude_of_npms_runs_with_its_package_and_its_node() -> Result<()> {
    for who in Who::ALL {
        let home = home(who)?;
        let package = "node/lib/node_modules/@anthropic-ai/claude-code";
        home.write(&format!("{package}/package.json"), "{\"name\": \"@anthropic-ai/claude-code\"}")?;
        home.write(&format!("{package}/lib/word.js"), "module.exports = 'a word of the package';\n")?;
        let script = "#!/usr/bin/env node\nconsole.log(require('./lib/word.js'), process.argv.includes('-p'));\n";
        home.write(&format!("{package}/cli.js"), script)?;
        // Beside the system's node one of the user's own, as version managers have it; and what looks like a package.
        home.write("package.json", "{}")?;
        home.write("node/bin/mine", "")?;
        let (bin, cli) = (home.path().join("node/bin"), home.path().join(package).join("cli.js"));
        fs::set_permissions(&cli, fs::Permissions::from_mode(0o755))?;
        symlink(&cli, bin.join("claude"))?;
        let node = output(Command::new("sh").args(["-c", "command -v node"]))?;
        fs::copy(node.trim(), bin.join("node"))?;
        let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
        let home = home.with_env("CLAUDE_BOTTLE_CLAUDE", "").with_env("PATH", &path);
        let run = home.run(&["start", "dev", "--yes", "--prompt", "x"])?;
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "a word of the package true\n"), "{who:?}: {run:?}");
        assert!(run.stderr.contains(&cli.display().to_string()), "the preflight names it: {run:?}");
    }
    Ok(())
}

#[test]
fn what_would_bring_a_socket_along_is_refused() -> Result<()> {
    let home = home(Who::Root)?;
    home.write(".rustup/toolchains/only/bin/cargo", "")?;
    assert_eq!(home.run(&["start", "dev", "--dry-run"])?.code, Some(0));
    let socket = home.path().join(".rustup/toolchains/only/agent.sock");
    let _listener = UnixListener::bind(&socket)?;
    let run = home.run(&["start", "dev", "--dry-run"])?;
    let said = format!("{} is a socket", socket.display());
    assert!(run.code == Some(125) && run.stderr.contains(&said) && run.stderr.contains("hint: Remove it"), "{run:?}");
    Ok(())
}

#[test]
fn a_strong_group_of_its_users_is_told_of_and_the_bottle_starts() -> Result<()> {
    let home = home(Who::User)?;
    let table = fs::read_to_string("/etc/group")?;
    let disk = table
        .lines()
        .find_map(|line| line.strip_prefix("disk:")?.split(':').nth(1))
        .expect("Debian has the group disk");
    let with_disk = format!("--groups={USER},{disk}");
    let claude = home.path().join("claude");
    fs::write(&claude, "#!/bin/bash\ngrep Groups /proc/self/status\n")?;
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755))?;
    let home = home.with_env("CLAUDE_BOTTLE_CLAUDE", &claude.display().to_string());
    for (groups, said, warned) in [("--clear-groups", "Groups:\t \n", false), (&with_disk, "65534", true)] {
        // As `Home` does it, with these groups.
        let plain = home.command(&["start", "dev", "--yes", "--prompt", "x"]);
        let args = plain.get_args().map(|arg| if arg == "--clear-groups" { groups.as_ref() } else { arg });
        let mut command = Command::new(plain.get_program());
        command.args(args).env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let run: Run = command.current_dir(home.path()).stdin(Stdio::null()).output()?.into();
        assert!(run.code == Some(0) && run.stdout.contains(said), "{groups}: {run:?}");
        assert_eq!(run.stderr.contains("you are in disk"), warned, "{groups}: {run:?}");
    }
    Ok(())
}
