//! Keys of every kind in a real agent, with a passphrase and without, and nowhere else.

use crate::world::program;
use bottle_gate::{Git, KeyAgent, agent::AgentError};
use std::{env, fs, os::unix::fs::symlink, path::Path, process::Command};

fn run(program: &str, args: &[&str], agent: Option<&Path>) -> String {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", env::var_os("PATH").unwrap());
    let out = command.envs(agent.map(|socket| ("SSH_AUTH_SOCK", socket))).output();
    let out = out.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install openssh-client"));
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn an_agent_has_the_key_and_no_file_has_it() {
    let programs = Git::in_path(env::var_os("PATH").unwrap());
    for (kind, passphrase) in
        [("ed25519", ""), ("ed25519", "pass 'phrase\" ключ"), ("ecdsa", "another one"), ("rsa", "")]
    {
        let made = tempfile::tempdir().unwrap();
        let file = made.path().join("key");
        run("ssh-keygen", &["-q", "-t", kind, "-N", passphrase, "-f", file.to_str().unwrap()], None);
        let (key, public) = (fs::read(&file).unwrap(), fs::read_to_string(made.path().join("key.pub")).unwrap());
        let start = |passphrase: &str| {
            let dir = tempfile::tempdir().unwrap();
            symlink(program(), dir.path().join("askpass")).unwrap();
            let agent = KeyAgent::start(&programs, dir.path(), &key, passphrase.as_bytes());
            (agent, dir)
        };
        let (agent, dir) = start(passphrase);
        let agent = agent.unwrap_or_else(|error| panic!("{kind}: {error}"));
        let listed = run("ssh-add", &["-L"], Some(agent.socket()));
        assert_eq!(listed.split(' ').nth(1), public.split(' ').nth(1), "{kind}");
        // Its socket and our program's name are all there is.
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert_eq!(names, ["agent.sock", "askpass"]);
        let socket = agent.socket().to_owned();
        drop(agent);
        assert!(run("ssh-add", &["-L"], Some(&socket)).contains("Error connecting to agent"), "{kind}: it lives on");
        if !passphrase.is_empty() {
            assert!(matches!(start("wrong").0, Err(AgentError::Key)), "{kind}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    symlink(program(), dir.path().join("askpass")).unwrap();
    assert!(matches!(KeyAgent::start(&programs, dir.path(), b"no key\n", b""), Err(AgentError::Key)));
}
