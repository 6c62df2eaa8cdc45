//! The files that go into a bottle: prompt, skills, and what makes the client's first-run screens go away.

use super::{credential::ModelCredential, environment::CA_PATHS};
use crate::{
    manifest::{Agent, Bottle},
    paths::Paths,
};
use anyhow::{Context, Result, bail};
use bottle_api::{FileEntry, HOME, Provision, WORKSPACE};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// The system prompt, in the bottle.
pub const PROMPT_PATH: &str = "/home/agent/.bottle/prompt.md";
/// A skill is text and small scripts; more than this is a mistake.
const MAX_SKILL_BYTES: u64 = 4 << 20;
const MAX_SKILL_FILES: usize = 1000;

/// Renders them all.
pub fn render(paths: &Paths, agent: &Agent, bottle: &Bottle, credential: &ModelCredential) -> Result<Provision> {
    let mut prompt = first_run(*credential)?;
    if !agent.prompt.trim().is_empty() {
        prompt.push(FileEntry::agent(PROMPT_PATH, agent.prompt.as_str()).own_parents(1));
    }
    let mut skills = vec![];
    for (name, dir) in agent.skill_dirs(paths)? {
        add_skill(&dir, name, &mut skills).with_context(|| format!("skill `{name}`"))?;
    }
    let git_user = bottle.git_user.clone().under(&agent.fields.git_user.clone().unwrap_or_default());
    let git = git_user.config().map(|config| FileEntry::agent(format!("{HOME}/.gitconfig"), config));
    Ok(Provision {
        ca_paths: CA_PATHS.map(str::to_owned).to_vec(),
        prompt,
        skills,
        git: git.into_iter().collect(),
        ..Provision::default()
    })
}

/// Onboarding is done, the workspace is trusted, and what full permissions mean was read.
fn first_run(credential: ModelCredential) -> Result<Vec<FileEntry>> {
    let (_, placeholder) = credential.placeholder();
    let approved = &placeholder[placeholder.len() - 20..];
    let state = json!({
        "hasCompletedOnboarding": true,
        "projects": { WORKSPACE: { "hasTrustDialogAccepted": true } },
        "customApiKeyResponses": { "approved": [approved] },
    });
    let settings = json!({ "skipDangerousModePermissionPrompt": true, "theme": "dark" });
    Ok(vec![
        FileEntry::agent(format!("{HOME}/.claude.json"), serde_json::to_vec_pretty(&state)?),
        FileEntry::agent(format!("{HOME}/.claude/settings.json"), serde_json::to_vec_pretty(&settings)?).own_parents(1),
    ])
}

/// Every file of a skill. A link that leads out of it is an error.
fn add_skill(root: &Path, name: &str, out: &mut Vec<FileEntry>) -> Result<()> {
    let (mut dirs, mut bytes, mut files) = (vec![root.to_owned()], 0, 0);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let real = path.canonicalize().with_context(|| format!("resolve {}", path.display()))?;
            if !real.starts_with(root) {
                bail!("{} leads out of the skill", path.display());
            }
            let metadata = fs::metadata(&real)?;
            if metadata.is_dir() {
                if path.is_symlink() {
                    bail!("{} is a link to a directory", path.display());
                }
                dirs.push(path);
                continue;
            }
            (bytes, files) = (bytes + metadata.len(), files + 1);
            if !metadata.is_file() || bytes > MAX_SKILL_BYTES || files > MAX_SKILL_FILES {
                bail!(
                    "{}: a skill is plain files, {MAX_SKILL_FILES} and {MAX_SKILL_BYTES} bytes at most",
                    path.display()
                );
            }
            let inside = path.strip_prefix(root)?;
            let shown = inside.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            let mode = if metadata.permissions().mode() & 0o100 != 0 { 0o700 } else { 0o600 };
            // The skill's own directories, and `.claude/skills` above it, are the agent's.
            let depth = u32::try_from(inside.components().count())?;
            let entry = FileEntry::agent(format!("{HOME}/.claude/skills/{name}/{shown}"), fs::read(&real)?);
            out.push(entry.mode(mode).own_parents(depth + 2));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skill_comes_whole_and_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("s");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("SKILL.md"), "x").unwrap();
        fs::write(root.join("sub/run.sh"), "y").unwrap();
        fs::set_permissions(root.join("sub/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut out = vec![];
        add_skill(&root, "s", &mut out).unwrap();
        let mut found: Vec<_> = out.iter().map(|f| (f.path.as_str(), f.mode, f.own_parents)).collect();
        found.sort();
        let path = "/home/agent/.claude/skills/s/";
        assert_eq!(found, [(format!("{path}SKILL.md").as_str(), 0o600, 3), (&format!("{path}sub/run.sh"), 0o700, 4)]);
        fs::write(dir.path().join("outside"), "z").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        assert!(add_skill(&root, "s", &mut vec![]).is_err());
    }
}
