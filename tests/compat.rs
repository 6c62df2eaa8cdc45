//! Older and newer hosts and plugins, in every pair and mixed in one process: what `cargo xtask compat` builds, loaded
//! by bottle's own loader.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{Home, Run, report},
    lab::{output, stage},
};
use serde_json::Value;
use std::{path::PathBuf, process::Command};

/// What is asked of a plugin; the middle five are the verbs that 1.1 appends, one per object.
const ASKED: [&str; 9] = [
    "verbs of 1.0",
    "backend",
    "plan",
    "cleanup plan",
    "bottle",
    "process",
    "host's service",
    "field",
    "required setting",
];
/// Built as 1.0, as 1.1, and as 1.0 for size (`opt-level = "z"`) with an older lockfile.
const PLUGINS: [&str; 3] = ["1_0", "1_1", "small"];

/// Host, plugin; then what the plugin's 1.0 verbs, its appended verbs, its call of the host's appended service, the
/// appended field and a setting that only 1.1 understands come to.
const MATRIX: [(&str, &str, [&str; 5]); 6] = [
    ("1_0", "1_0", ["all answer", "not called", "not called", "not known", "UNSUPPORTED"]),
    ("1_0", "1_1", ["all answer", "not called", "UNSUPPORTED", "not known", "answers"]),
    ("1_0", "small", ["all answer", "not called", "not called", "not known", "UNSUPPORTED"]),
    ("1_1", "1_0", ["all answer", "UNSUPPORTED", "not called", "default", "UNSUPPORTED"]),
    ("1_1", "1_1", ["all answer", "answers", "answers", "appended", "answers"]),
    ("1_1", "small", ["all answer", "UNSUPPORTED", "not called", "default", "UNSUPPORTED"]),
];

fn dir() -> PathBuf {
    let dir = stage().with_file_name("compat");
    assert!(dir.join("host_1_1").exists(), "there is nothing to compare with; run `cargo xtask compat` first");
    dir
}

/// What a host says of these plugins, loaded into one process in this order.
fn load(host: &str, plugins: &[&str]) -> Result<Vec<Value>> {
    let files = plugins.iter().map(|plugin| dir().join(format!("libbottle_backend_compat_{plugin}.so")));
    let said = output(Command::new(dir().join(format!("host_{host}"))).args(files))?;
    said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn expected(host: &str, plugin: &str) -> Result<Vec<&'static str>> {
    let row = MATRIX.iter().find(|(h, p, _)| (*h, *p) == (host, plugin)).context("a row of the matrix")?;
    let [verbs, appended, service, field, required] = row.2;
    Ok(vec![verbs, appended, appended, appended, appended, appended, service, field, required])
}

fn answers(said: &Value) -> Vec<&str> {
    ASKED.iter().map(|asked| said[asked].as_str().unwrap_or("?")).collect()
}

#[test]
fn every_host_works_with_every_plugin_alone_and_beside_the_others() -> Result<()> {
    let row = |host, plugin, cells: &[&str]| -> String {
        [&[host, plugin], cells].concat().iter().map(|cell| format!("{cell:<17}")).collect()
    };
    let mut table = vec![row("host", "plugin", &ASKED)];
    for (host, plugin, _) in MATRIX {
        let said = load(host, &[plugin])?;
        ensure!(answers(&said[0]) == expected(host, plugin)?, "host {host}, plugin {plugin}: {said:?}");
        ensure!(said[0]["name"] == format!("compat_{plugin}"), "{said:?}");
        table.push(row(host, plugin, &answers(&said[0])));
    }
    for (host, order) in ["1_0", "1_1"].iter().flat_map(|host| orders().map(move |order| (host, order))) {
        let said = load(host, &order)?;
        for (plugin, said) in order.iter().zip(&said) {
            ensure!(answers(said) == expected(host, plugin)?, "host {host}, {order:?}, plugin {plugin}: {said}");
        }
    }
    report(format!("{}\nthe same of all three in one process, in every order", table.join("\n")));
    Ok(())
}

fn orders() -> impl Iterator<Item = [&'static str; 3]> {
    let [a, b, c] = PLUGINS;
    [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]].into_iter()
}

#[test]
fn an_abi_that_was_changed_and_not_appended_to_is_refused_in_one_line() -> Result<()> {
    let changed = "it was built with a changed bottle-api: AbiStdio: size ";
    for host in ["1_0", "1_1"] {
        // Beside a good one, which still answers.
        let said = load(host, &["changed", "1_0"])?;
        let refused = said[0]["refused"].as_str().unwrap_or_default();
        ensure!(refused.contains(changed) && refused.len() < 300 && !refused.contains('\n'), "{said:?}");
        ensure!(answers(&said[1]) == expected(host, "1_0")?, "{said:?}");
    }
    let home = Home::bare()?;
    let probed: Run = home.command(&["backends", "--probe"]).env("CLAUDE_BOTTLE_PLUGIN_PATH", dir()).output()?.into();
    let status =
        |name: &str| probed.stdout.lines().find(|line| line.starts_with(&format!("compat_{name} "))).unwrap_or("");
    ensure!(
        status("changed").contains("broken: its ABI differs from this bottle's ")
            && status("changed").contains(changed)
    );
    ensure!(PLUGINS.iter().all(|plugin| status(plugin).contains("  loads, ")), "{probed:?}");
    Ok(())
}
