//! Files for a bottle, as the host renders them and a backend puts them in.

use crate::error::Result;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{collections::BTreeSet, fs::File, io::Seek, path::Path};

/// What goes into a bottle before the session, step by step.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Provision {
    /// Absolute paths at which the bottle's certificate authority goes.
    pub ca_paths: Vec<String>,
    /// The system prompt and the client's first-run files.
    pub prompt: Vec<FileEntry>,
    /// The agent's skills.
    pub skills: Vec<FileEntry>,
    /// Git's configuration.
    pub git: Vec<FileEntry>,
    /// The operator's server.
    pub supervise: Vec<FileEntry>,
}

impl Provision {
    /// The certificate authority at each of its paths.
    pub fn ca(&self, ca_pem: &str) -> Vec<FileEntry> {
        self.ca_paths.iter().map(|path| FileEntry::root(path, ca_pem)).collect()
    }

    /// The files of every step, in the order of the steps: for a backend that puts them all at once.
    pub fn in_order(&self, ca_pem: &str) -> Vec<FileEntry> {
        let steps = [&self.prompt, &self.skills, &self.git, &self.supervise];
        self.ca(ca_pem).into_iter().chain(steps.into_iter().flatten().cloned()).collect()
    }
}

/// One file. Directories above it that are missing are made: the nearest `own_parents` of them owned like the file, the
/// others root's.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct FileEntry {
    /// Absolute path in the bottle.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Content; base64 in JSON.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub data: Vec<u8>,
    /// Directories above the file that are the owner's too, counted from the file upwards.
    pub own_parents: u32,
}

impl FileEntry {
    /// A file of root's that everybody may read.
    pub fn root(path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode: 0o644, data: data.into(), ..Self::default() }
    }

    /// A file of the agent's own, which nobody else may read.
    pub fn agent(path: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        let id = crate::AGENT_UID;
        Self { path: path.into(), mode: 0o600, uid: id, gid: id, data: data.into(), own_parents: 0 }
    }

    /// The same with other permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The same with that many directories above it owned alike.
    #[must_use]
    pub fn own_parents(mut self, levels: u32) -> Self {
        self.own_parents = levels;
        self
    }
}

/// The files as a tar archive relative to `/`, in memory, read from its beginning.
pub fn pack(files: &[FileEntry]) -> Result<File> {
    let archive = File::from(rustix::fs::memfd_create("provision", rustix::fs::MemfdFlags::CLOEXEC)?);
    let mut tar = tar::Builder::new(archive);
    let mut made = BTreeSet::new();
    for file in files {
        let path = Path::new(file.path.trim_start_matches('/'));
        let mut parents: Vec<&Path> = path.ancestors().skip(1).take(file.own_parents as usize).collect();
        parents.retain(|p| !p.as_os_str().is_empty());
        for dir in parents.into_iter().rev() {
            if made.insert(dir.to_owned()) {
                let mut header = header(file, 0o755, 0);
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, dir, std::io::empty())?;
            }
        }
        let mut header = header(file, file.mode, file.data.len() as u64);
        tar.append_data(&mut header, path, &file.data[..])?;
    }
    let mut archive = tar.into_inner()?;
    archive.rewind()?;
    Ok(archive)
}

fn header(file: &FileEntry, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(file.uid.into());
    header.set_gid(file.gid.into());
    header.set_size(size);
    header
}

fn to_base64<S: Serializer>(data: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&BASE64_STANDARD.encode(data))
}

fn from_base64<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(d)?;
    BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_owned_parents_once_and_before_their_files() {
        let files = [
            FileEntry::agent("/home/agent/.claude/skills/x/SKILL.md", "a").own_parents(2),
            FileEntry::agent("/home/agent/.claude/skills/x/b", "b").own_parents(2),
        ];
        let mut archive = tar::Archive::new(pack(&files).unwrap());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| {
                let e = e.unwrap();
                (e.path().unwrap().display().to_string(), e.header().uid().unwrap())
            })
            .collect();
        let path = |p: &str| (format!("home/agent/.claude/skills{p}"), 1000);
        assert_eq!(names, [path(""), path("/x"), path("/x/SKILL.md"), path("/x/b")]);
    }

    #[test]
    fn the_steps_files_are_in_the_order_of_the_steps() {
        let step = |name: &str| vec![FileEntry::agent(name, "x")];
        let ca_paths = vec!["ca-1".into(), "ca-2".into()];
        let [prompt, skills, git, supervise] = ["prompt", "skills", "git", "supervise"].map(step);
        let files = Provision { supervise, git, skills, prompt, ca_paths }.in_order("pem");
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["ca-1", "ca-2", "prompt", "skills", "git", "supervise"]);
        assert_eq!((&files[1].data[..], files[1].uid), (&b"pem"[..], 0));
    }

    #[test]
    fn bytes_survive_json() {
        let file = FileEntry::root("/x", vec![0, 159, 255]);
        let back: FileEntry = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(back, file);
    }
}
