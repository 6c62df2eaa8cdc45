//! Processes of smolvm that outlive what they were started for: a client that still boots a machine, and a machine without
//! a record. Both are found by the machine's name, which has a bottle's identity in it and is nobody else's.

use rustix::process::{Pid, Signal, kill_process};
use std::{fs, path::Path, thread, time::Duration};

/// The argument that makes smolvm a machine's process; its directory has a file with the machine's name.
const BOOT: &str = "_boot-vm";
const NAME_FILE: &str = "name";
/// How often, and how far apart, one that was ended is looked for.
const LOOKS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);

/// What a process of smolvm is to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It creates or boots it.
    Client,
    /// It is the machine.
    Machine,
}

/// Ends whoever still creates or boots a machine of that name; their processes. What they have begun ends with them: by
/// SIGKILL alone, for at another signal they leave a machine behind.
pub(crate) fn end_clients(machine: &str) -> Vec<u32> {
    end(machine, Part::Client).unwrap_or_else(|ended| ended)
}

/// Ends the machine itself. `true`: it is gone.
pub(crate) fn end_machine(machine: &str) -> bool {
    end(machine, Part::Machine).is_ok()
}

/// Those that were there; an error where one is there still.
fn end(machine: &str, part: Part) -> Result<Vec<u32>, Vec<u32>> {
    let mut ended = vec![];
    for _ in 0..LOOKS {
        let found = processes(machine, part);
        if found.is_empty() {
            return Ok(ended);
        }
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
            ended.push(pid.as_raw_pid().unsigned_abs());
        }
        thread::sleep(PAUSE);
    }
    Err(ended)
}

/// Processes of this user, by their command lines: another's cannot be ended anyway.
fn processes(machine: &str, part: Part) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let name = |dir: &Path| fs::read_to_string(dir.join(NAME_FILE)).ok();
        (part_of(&words, machine, name) == Some(part)).then_some(pid)
    });
    found.collect()
}

/// `… machine create|start … --name NAME …`, and `… _boot-vm DIRECTORY/boot-config.json`.
fn part_of(words: &[&str], machine: &str, name: impl Fn(&Path) -> Option<String>) -> Option<Part> {
    let at = |word: &str| words.iter().position(|w| *w == word);
    if let Some(place) = at(BOOT) {
        let dir = Path::new(words.get(place + 1)?).parent()?;
        return (name(dir)?.trim() == machine).then_some(Part::Machine);
    }
    let verb = words.get(at("machine")? + 1)?;
    let named = words.get(at("--name")? + 1)?;
    (["create", "start"].contains(verb) && *named == machine).then_some(Part::Client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_by_verb_and_name() {
        let name = |dir: &Path| (dir == Path::new("/c/vms/ca0d")).then(|| "ours\n".to_owned());
        for (line, part) in [
            ("/x/smolvm --error-format json machine start --name ours", Some(Part::Client)),
            ("/x/smolvm machine create --name ours --image i", Some(Part::Client)),
            ("/x/smolvm machine start --name theirs", None),
            ("/x/smolvm machine exec --name ours -- true", None),
            ("/x/smolvm machine ls", None),
            ("/proc/self/exe _boot-vm /c/vms/ca0d/boot-config.json", Some(Part::Machine)),
            ("/proc/self/exe _boot-vm /c/vms/beef/boot-config.json", None),
            ("/proc/self/exe _boot-vm", None),
            ("bash", None),
        ] {
            assert_eq!(part_of(&line.split(' ').collect::<Vec<_>>(), "ours", name), part, "{line}");
        }
    }
}
