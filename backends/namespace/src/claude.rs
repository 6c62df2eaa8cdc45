//! Claude Code on this machine: a program of its own, or a script of npm's, which needs its package and what runs it.

use crate::tools::{Env, in_path, is_of_system};
use bottle_api::{Error, ErrorKind, Result, error::Context};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Names Claude Code's program.
pub(crate) const CLAUDE_ENV: &str = "CLAUDE_BOTTLE_CLAUDE";
/// The kernel reads no more of a script's first line.
const FIRST_LINE: u64 = 256;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Claude {
    /// Its file, behind every link.
    pub(crate) program: PathBuf,
    /// The directory of the package that a script is in.
    pub(crate) package: Option<PathBuf>,
    /// The program that a script names for itself.
    pub(crate) runs_it: Option<Interpreter>,
}

/// What runs a script.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// As the script has it.
    pub(crate) name: String,
    /// On this machine, behind every link.
    pub(crate) file: PathBuf,
}

/// What the variable names, or the first in the path.
pub(crate) fn find(env: &Env) -> Result<Claude> {
    let named = env.get(CLAUDE_ENV).filter(|path| !path.is_empty()).map(PathBuf::from);
    let found = match &named {
        Some(path) => path.is_absolute().then(|| path.clone()),
        None => in_path(env, "claude"),
    };
    let real = found.and_then(|path| path.canonicalize().ok()).filter(|path| path.is_file());
    let Some(program) = real else {
        return Err(missing(match named {
            Some(path) => format!("{CLAUDE_ENV}={} names no program", path.display()),
            None => "Claude Code is not on this machine: there is no `claude` in your PATH".into(),
        }));
    };
    let attempt = || format!("look at {}", program.display());
    if fs::metadata(&program).with_context(attempt)?.permissions().mode() & 0o111 == 0 {
        return Err(missing(format!("{} cannot be executed", program.display())));
    }
    let mut start = vec![];
    File::open(&program).with_context(attempt)?.take(FIRST_LINE).read_to_end(&mut start).with_context(attempt)?;
    let Some(words) = interpreter(&start) else { return Ok(Claude { program, package: None, runs_it: None }) };
    let runs_it = resolve(&words, env).map_err(|why| missing(format!("{}: {why}", program.display())))?;
    let package = program.ancestors().skip(1).find(|dir| is_package(dir)).map(Path::to_owned);
    Ok(Claude { program, package, runs_it })
}

/// Is it a package that was installed, `…/node_modules/NAME` or `…/node_modules/@SCOPE/NAME`? Whatever else has a
/// `package.json` may be somebody's project, or a home.
fn is_package(dir: &Path) -> bool {
    let name = |dir: &Path| dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let above: Vec<String> = dir.ancestors().skip(1).take(2).map(name).collect();
    let installed = match &above[..] {
        [modules, ..] if modules == "node_modules" => true,
        [scope, modules] => scope.starts_with('@') && modules == "node_modules",
        _ => false,
    };
    installed && dir.join("package.json").is_file()
}

/// The words of a script's first line; none of a program's own.
fn interpreter(start: &[u8]) -> Option<Vec<String>> {
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).split_whitespace().map(str::to_owned).collect())
}

/// What has to be brought along to run such a script; nothing where every bottle has it.
fn resolve(words: &[String], env: &Env) -> std::result::Result<Option<Interpreter>, String> {
    let path = words.first().map(PathBuf::from).ok_or("its first line names nothing that runs it")?;
    if !is_of_system(&path) {
        return Err(format!("it is run by {}, which is not part of the system", path.display()));
    }
    if path.file_name().is_none_or(|name| name != "env") {
        return Ok(None);
    }
    // `env -S node --flag`: the first that is neither an option nor a variable.
    let name = words.iter().skip(1).find(|word| !word.starts_with('-') && !word.contains('='));
    let name = name.ok_or("its first line names nothing that runs it")?;
    let file = in_path(env, name).and_then(|file| file.canonicalize().ok());
    let file = file.ok_or_else(|| format!("it is run by {name}, which is not in your PATH"))?;
    Ok((!is_of_system(&file)).then(|| Interpreter { name: name.clone(), file }))
}

fn missing(why: String) -> Error {
    Error::new(ErrorKind::PREREQUISITE, why).hint(format!(
        "Install Claude Code for your user, `npm install -g @anthropic-ai/claude-code`; or name its program: \
         {CLAUDE_ENV}=/path/to/claude."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_comes_along_and_a_directory_that_looks_like_one_does_not() {
        let home = std::env::temp_dir().join(format!("bottle-claude-{}", std::process::id())).join("home");
        let package = home.join("lib/node_modules/@anthropic-ai/claude-code");
        fs::create_dir_all(&package).unwrap();
        for (script, expected) in [("claude", None), ("lib/claude", None), ("cli.js", Some(&package))] {
            let script = expected.map_or(home.join(script), |package| package.join(script));
            for dir in [&home, &package] {
                fs::write(dir.join("package.json"), "{}").unwrap();
            }
            fs::write(&script, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let env = Env::from([(CLAUDE_ENV.to_owned(), script.display().to_string())]);
            let found = find(&env).unwrap();
            assert_eq!((found.package.as_ref(), found.runs_it), (expected, None), "{}", script.display());
        }
        fs::remove_dir_all(home.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_scripts_first_line_is_read_as_the_kernel_and_env_do() {
        let env = Env::from([("PATH".to_owned(), "relative:/usr/bin:/bin".to_owned())]);
        for (line, expected) in [
            ("\x7fELF", None),
            ("", None),
            ("#!/bin/bash -e\nrest", Some(Ok(None))),
            ("#!/usr/bin/env bash\n", Some(Ok(None))),
            ("#! /usr/bin/env -S A=b bash --posix\n", Some(Ok(None))),
            ("#!/usr/bin/env no-such-program-here\n", Some(Err("not in your PATH"))),
            ("#!/usr/bin/env\n", Some(Err("names nothing"))),
            ("#!\n", Some(Err("names nothing"))),
            ("#!/opt/own/node\n", Some(Err("not part of the system"))),
            ("#!relative\n", Some(Err("not part of the system"))),
        ] {
            let found = interpreter(line.as_bytes()).map(|words| resolve(&words, &env));
            match (&found, &expected) {
                (Some(Err(why)), Some(Err(part))) => assert!(why.contains(part), "{line:?}: {why}"),
                (Some(Ok(found)), Some(Ok(expected))) => assert_eq!(found, expected, "{line:?}"),
                (None, None) => {}
                _ => panic!("{line:?}: {found:?}"),
            }
        }
    }
}
