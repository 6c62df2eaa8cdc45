//! Turns the packs of `rules/` into static data: a start reads no YAML.

#![allow(clippy::expect_used, clippy::panic)] // a build that fails says why

use std::{env, fmt::Write, fs, path::Path};

#[allow(dead_code, unreachable_pub)] // the crate uses the rest
#[path = "src/rule.rs"]
mod rule;

fn main() {
    println!("cargo::rerun-if-changed=rules");
    println!("cargo::rerun-if-changed=src/rule.rs");
    let mut files: Vec<_> = fs::read_dir("rules").expect("rules/").map(|e| e.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    let mut out = String::from("pub(crate) static BUILTIN: &[Static] = &[\n");
    for path in files {
        let text = fs::read_to_string(&path).expect("a pack");
        let pack = rule::Pack::parse(&path.display().to_string(), &text).unwrap_or_else(|error| panic!("{error}"));
        for rule in pack.rules {
            let shape = rule::Shape::of(&rule).unwrap_or_else(|error| panic!("{}: {error}", rule.id));
            writeln!(
                out,
                "Static {{ id: {:?}, severity: Severity::{:?}, keywords: &{:?}, run: {:?}, pattern: {:?}, \
                 check: Check::{:?}, entropy: {:?}, begins: &{:?}, assigned: {}, back: {}, ahead: {} }},",
                rule.id,
                rule.severity,
                rule.keywords,
                rule.run,
                rule.pattern(),
                rule.check,
                rule.entropy,
                shape.begins,
                shape.assigned,
                shape.back,
                shape.ahead
            )
            .expect("a string");
        }
    }
    out.push_str("];\n");
    let to = Path::new(&env::var_os("OUT_DIR").expect("OUT_DIR")).join("rules.rs");
    fs::write(to, out).expect("OUT_DIR can be written to");
}
