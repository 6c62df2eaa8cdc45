//! Where plugins are looked for. Nothing here runs any of their code.

use crate::ui::hinted;
use anyhow::Result;
use bottle_api::descriptor::is_name;
use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Beginning of a plugin's file name.
pub const PREFIX: &str = "libbottle_backend_";
/// Its end.
pub const SUFFIX: &str = ".so";
/// Directories to look in first, absolute, separated by colons.
pub const PATH_ENV: &str = "CLAUDE_BOTTLE_PLUGIN_PATH";

/// The directories, best first: the variable's, beside the program, the user's, the system's. Never the working one.
pub fn search_path() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::var_os(PATH_ENV)
        .map(|list| std::env::split_paths(&list).filter(|dir| dir.is_absolute()).collect())
        .unwrap_or_default();
    dirs.extend(beside_program("lib/bottle/backends"));
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    dirs.extend(data.map(|dir| dir.join("claude-bottle/backends")));
    dirs.extend(["/usr/local/lib/bottle/backends", "/usr/lib/bottle/backends"].map(PathBuf::from));
    let mut distinct = vec![];
    dirs.retain(|dir| {
        !distinct.contains(dir) && {
            distinct.push(dir.clone());
            true
        }
    });
    dirs
}

/// A path below the prefix that this program is installed in: `<prefix>/bin/bottle`.
pub fn beside_program(path: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.canonicalize().ok()?;
    Some(program.parent()?.parent()?.join(path))
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The names of the installed backends, or the one that was asked for; an unknown one is an error.
pub fn names(only: Option<&str>) -> Result<Vec<String>> {
    let found = discover();
    match only {
        Some(name) if !found.contains_key(name) => Err(unknown(name, &found)),
        Some(name) => Ok(vec![name.to_owned()]),
        None => Ok(found.into_keys().collect()),
    }
}

/// No backend of that name.
pub(super) fn unknown(name: &str, found: &BTreeMap<String, Vec<PathBuf>>) -> anyhow::Error {
    let known: Vec<&str> = found.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "none is installed".into() } else { known.join(", ") };
    hinted(
        format!("unknown backend `{name}`; known backends: {known}"),
        "Choose one with --backend or CLAUDE_BOTTLE_BACKEND; `bottle backends` shows where they are looked for.",
    )
}

/// Every backend's name with the files that provide it, best first.
pub fn discover() -> BTreeMap<String, Vec<PathBuf>> {
    named(plugin_files(&search_path()))
}

/// Files that look like plugins and can be none: what stands where the name should is no name.
pub fn misnamed() -> Vec<PathBuf> {
    plugin_files(&search_path()).into_iter().filter(|file| name_of(file).is_none()).collect()
}

fn named(files: Vec<PathBuf>) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        if let Some(name) = name_of(&file) {
            found.entry(name.to_owned()).or_default().push(file);
        }
    }
    found
}

fn plugin_files(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = vec![];
    for dir in dirs {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut here: Vec<PathBuf> = entries.filter(|file| middle(file).is_some()).collect();
        here.sort();
        files.extend(here);
    }
    files
}

/// The backend's name that a file's name promises.
pub fn name_of(file: &Path) -> Option<&str> {
    std::str::from_utf8(middle(file)?).ok().filter(|name| is_name(name))
}

fn middle(file: &Path) -> Option<&[u8]> {
    file.file_name()?.as_bytes().strip_prefix(PREFIX.as_bytes())?.strip_suffix(SUFFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_wins_and_other_files_are_not_plugins() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths: Vec<PathBuf> = dirs.iter().map(|d| d.path().to_owned()).collect();
        for (dir, file) in [
            (0, "libbottle_backend_b.so"),
            (1, "libbottle_backend_b.so"),
            (1, "libbottle_backend_a1.so"),
            (0, "libbottle_backend_.so"),
            (0, "libbottle_backend_UP.so"),
            (0, "libother.so"),
            (0, "libbottle_backend_c.so.1"),
        ] {
            std::fs::write(paths[dir].join(file), "").unwrap();
        }
        let files = plugin_files(&paths);
        let misnamed: Vec<_> = files.iter().filter(|f| name_of(f).is_none()).map(|f| f.file_name().unwrap()).collect();
        assert_eq!(misnamed, ["libbottle_backend_.so", "libbottle_backend_UP.so"]);
        let found = named(files);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a1", "b"]);
        assert_eq!(found["b"], [paths[0].join("libbottle_backend_b.so"), paths[1].join("libbottle_backend_b.so")]);
    }
}
