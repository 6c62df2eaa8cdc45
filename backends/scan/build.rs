//! Turns the packs of `rules/` into static data: a start reads no YAML.

use anyhow::{Context, Result, anyhow};
use std::{env, fmt::Write, fs, path::Path};

#[allow(dead_code, unreachable_pub)] // the crate uses the rest
#[path = "src/rule.rs"]
mod rule;

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=rules");
    println!("cargo::rerun-if-changed=src/rule.rs");
    let entries = fs::read_dir("rules").context("read backends/scan/rules, where the packs are")?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    let mut out = String::from("pub(crate) static BUILTIN: &[Static] = &[\n");
    for path in files {
        let name = path.display().to_string();
        let text = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
        for rule in rule::Pack::parse(&name, &text).map_err(|wrong| anyhow!(wrong))?.rules {
            write_rule(&mut out, &rule).with_context(|| format!("{name}: rule {}", rule.id))?;
        }
    }
    out.push_str("];\n");
    let to = Path::new(&env::var_os("OUT_DIR").context("cargo sets OUT_DIR for a build script")?).join("rules.rs");
    fs::write(&to, out).with_context(|| format!("write {}", to.display()))
}

fn write_rule(out: &mut String, rule: &rule::Rule) -> Result<()> {
    let shape = rule::Shape::of(rule).map_err(|wrong| anyhow!(wrong))?;
    writeln!(
        out,
        "Static {{ id: {:?}, severity: Severity::{:?}, keywords: &{:?}, beside: &{:?}, run: {:?}, pattern: {:?}, check: Check::{:?}, \
         entropy: {:?}, begins: &{:?}, assigned: {}, back: {}, ahead: {}, \
         least: {}, letters: {:?} }},",
        rule.id,
        rule.severity,
        rule.keywords,
        rule.beside,
        rule.run,
        rule.pattern(),
        rule.check,
        rule.entropy,
        shape.begins,
        shape.assigned,
        shape.back,
        shape.ahead,
        shape.least,
        shape.letters
    )?;
    Ok(())
}
