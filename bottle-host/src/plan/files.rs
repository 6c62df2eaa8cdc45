//! The files that go into a bottle: prompt, skills, and what makes the client's first-run screens go away.

use super::{credential::ModelCredential, environment::CA_PATHS, git};
use crate::{
    manifest::{Agent, Bottle, Step, env::SUPERVISE_TOKEN},
    paths::Paths,
    ui::hinted,
};
use anyhow::{Context, Result};
use bottle_api::{
    FileEntry, HOME, Provision, WORKSPACE,
    control::{SUPERVISE_DAEMON, SUPERVISE_PORT},
};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// The system prompt, in the bottle.
pub const PROMPT_PATH: &str = "/home/agent/.bottle/prompt.md";
/// Where the client learns of its operator's server, in the bottle.
pub const SUPERVISE_PATH: &str = "/home/agent/.bottle/supervise.json";
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
    for (i, name) in agent.fields.skills.iter().enumerate() {
        Agent::skill_dir(paths, name)
            .and_then(|dir| add_skill(&dir, name, &mut skills))
            .with_context(|| agent.place(paths, &[Step::Key("skills"), Step::Index(i)]))?;
    }
    let git = git::config(bottle, bottle.git_user_of(agent).config());
    Ok(Provision {
        ca_paths: CA_PATHS.map(str::to_owned).to_vec(),
        prompt,
        skills,
        git: git.into_iter().collect(),
        supervise: if bottle.supervise { vec![supervise()?] } else { vec![] },
    })
}

/// The operator's server, as the client's own configuration has it. The capability is in the environment, not in a file.
fn supervise() -> Result<FileEntry> {
    let server = json!({
        "type": "http",
        "url": format!("http://{SUPERVISE_DAEMON}:{SUPERVISE_PORT}/"),
        "headers": { "Authorization": format!("Bearer ${{{SUPERVISE_TOKEN}}}") },
    });
    let servers = json!({ "mcpServers": { SUPERVISE_DAEMON: server } });
    Ok(FileEntry::agent(SUPERVISE_PATH, serde_json::to_vec_pretty(&servers)?).own_parents(1))
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
            let inside = path.strip_prefix(root)?;
            let shown = inside.to_str().with_context(|| format!("{} is not UTF-8", inside.display()))?;
            let real = path.canonicalize().with_context(|| format!("{shown} leads nowhere"))?;
            if !real.starts_with(root) {
                return Err(hinted(format!("{} leads out of the skill", shown), "Copy the file instead."));
            }
            let metadata = fs::metadata(&real)?;
            if metadata.is_dir() {
                if path.is_symlink() {
                    let hint = "Make it a directory of its own, or take it out.";
                    return Err(hinted(format!("{} is a link to a directory", shown), hint));
                }
                dirs.push(path);
                continue;
            }
            if !metadata.is_file() {
                return Err(hinted(format!("{} is no plain file", shown), "Take it out."));
            }
            let mut data = vec![];
            File::open(&real)?.take(MAX_SKILL_BYTES - bytes + 1).read_to_end(&mut data)?;
            (bytes, files) = (bytes + data.len() as u64, files + 1);
            if bytes > MAX_SKILL_BYTES || files > MAX_SKILL_FILES {
                return Err(hinted(
                    format!("it is larger than {} MiB, or more than {MAX_SKILL_FILES} files", MAX_SKILL_BYTES >> 20),
                    "A skill is text and small scripts: keep what they work on elsewhere.",
                ));
            }
            let mode = if metadata.permissions().mode() & 0o100 != 0 { 0o700 } else { 0o600 };
            // The skill's own directories, and `.claude/skills` above it, are the agent's.
            let depth = u32::try_from(inside.components().count())?;
            let entry = FileEntry::agent(format!("{HOME}/.claude/skills/{name}/{shown}"), data);
            out.push(entry.mode(mode).own_parents(depth + 2));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

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

    #[test]
    fn the_agents_git_user_goes_over_its_bottles_into_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { home: dir.path().join("home"), cwd: dir.path().join("work") };
        for (file, text) in [
            ("bottles/b.md", "---\ngit_user: {name: B, email: b@example.com}\n---\n"),
            ("agents/a.md", "---\nbottle: b\ngit_user: {name: A}\n---\n"),
        ] {
            let path = paths.root().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let manifest = Manifest::load(&paths).unwrap();
        let (agent, bottle, _) = manifest.resolve(&paths, "a").unwrap();
        let files = render(&paths, agent, &bottle, &ModelCredential::ApiKey).unwrap().git;
        let [file] = files.as_slice() else { panic!("{} files", files.len()) };
        assert_eq!((file.path.as_str(), file.mode, file.uid), ("/home/agent/.gitconfig", 0o600, bottle_api::AGENT_UID));
        assert_eq!(String::from_utf8_lossy(&file.data), "[user]\n\tname = \"A\"\n\temail = \"b@example.com\"\n");
    }
}
