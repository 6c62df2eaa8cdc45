//! The user's own packs of rules for the scanner: every YAML file of `~/.claude-bottle/rules`. The sidecar would refuse a
//! bad one too, but by then a bottle is half made.

use crate::{
    paths::Paths,
    ui::{hinted, printable},
};
use anyhow::{Context, Result, bail};
use bottle_policy::Pack;
use bottle_scan::Rules;
use std::{fs, io::ErrorKind};

/// Together with the rest of a policy document they must fit into one frame of the control channel.
const MAX_BYTES: u64 = 1 << 20;

/// The packs, in the order of their names.
pub fn packs(paths: &Paths) -> Result<Vec<Pack>> {
    let dir = paths.root().join("rules");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    let mut files: Vec<_> = entries.collect::<Result<Vec<_>, _>>()?.iter().map(fs::DirEntry::path).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml" || end == "yml"));
    files.sort();
    let (mut packs, mut bytes) = (vec![], 0);
    for file in files {
        bytes += fs::metadata(&file).with_context(|| format!("look at {}", file.display()))?.len();
        if bytes > MAX_BYTES {
            bail!("the rules in {} are more than {} KiB", dir.display(), MAX_BYTES >> 10);
        }
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let pack = Pack { name: paths.short(&file), text };
        check(&pack)?;
        packs.push(pack);
    }
    Ok(packs)
}

/// Can the scanner work by it? The error begins with the file, and with the line where there is one.
fn check(pack: &Pack) -> Result<()> {
    let parsed = bottle_scan::Pack::parse(&pack.name, &pack.text);
    // An expression that can be read may still be too large.
    let compiled =
        parsed.and_then(|parsed| Rules::with_packs(&[parsed]).map_err(|wrong| format!("{}: {wrong}", pack.name)));
    let hint = "A pack is written like those in backends/scan/rules; without the file, the built-in rules hold.";
    compiled.map(drop).map_err(|wrong| hinted(printable(&one_line(&wrong)), hint))
}

/// An expression's error draws it over several lines, of which the last one says what is wrong.
fn one_line(error: &str) -> String {
    match error.split_once('\n') {
        Some((begins, rest)) => {
            let last = rest.lines().last().unwrap_or_default();
            format!("{begins} {}", last.trim_start_matches("error: "))
        }
        None => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_the_yaml_files_of_their_directory() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths { home: home.path().into(), cwd: "/".into() };
        assert_eq!(packs(&paths).unwrap(), []);
        let dir = home.path().join(".claude-bottle/rules");
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in [("b.yaml", "rules: [] # b"), ("a.yml", "rules: [] # a"), ("notes.md", "3")] {
            fs::write(dir.join(name), text).unwrap();
        }
        let found = packs(&paths).unwrap();
        assert_eq!(found.iter().map(|pack| pack.text.as_str()).collect::<Vec<_>>(), ["rules: [] # a", "rules: [] # b"]);
        fs::write(dir.join("c.yaml"), vec![b'x'; MAX_BYTES as usize]).unwrap();
        assert!(packs(&paths).is_err());
    }
}
