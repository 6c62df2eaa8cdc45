//! The preflight as a person reads it: on standard error, in eighty columns, what is weaker than the default last.

use super::{Preflight, RouteShown};
use crate::{
    manifest::{Remote, approval::State},
    ui::{self, layout},
};
use bottle_policy::Mode;

/// Paths of a route that are shown one by one, unless all are asked for.
const FEW: usize = 3;

impl Preflight<'_> {
    /// Says it; `full` with the whole prompt, every path and every file.
    pub fn show(&self, full: bool) {
        for (label, values) in self.rows(full) {
            layout::lines(label, &values, ui::WIDTH).iter().for_each(ui::say);
        }
        let theirs = self.backend.says.warnings.iter().map(|warning| format!("{} says: {warning}", self.backend.name));
        for weaker in self.warnings.iter().cloned().chain(theirs) {
            layout::lines("WEAKER", &[weaker], ui::WIDTH).iter().for_each(ui::stand_out);
        }
    }

    fn rows(&self, full: bool) -> Vec<(&str, Vec<String>)> {
        let mut agent = vec![format!("{}  {}", self.agent.name, self.agent.file)];
        agent.extend(self.agent.shadows.as_ref().map(|file| format!("shadows {file}")));
        agent.extend(match self.agent.approval {
            State::NotNeeded => None,
            State::Approved => Some("comes with the working directory, and is approved".into()),
            State::Needed => Some("comes with the working directory, and is not approved yet".into()),
            State::Denied => Some("comes with the working directory, and its bottle lets none of those in".into()),
        });
        let limits = self.limits.shown();
        let limits = if limits.is_empty() { "the backend's own".into() } else { limits.join(", ") };
        let backend = format!("{}, isolation {}", self.backend.name, self.backend.isolation);
        let model = format!("${}, injected by the sidecar; the bottle has a placeholder", self.model_credential);
        let mut egress: Vec<String> = self.routes.iter().map(|route| route.line(full)).collect();
        egress.extend(self.upstream_proxy.as_ref().map(|proxy| format!("all of it through the proxy {proxy}")));
        if !self.blocklist.is_empty() {
            egress.push(format!("never {}", self.blocklist.join(", ")));
        }
        egress.push(match self.egress_mode {
            Mode::Enforce => "everything else is refused".into(),
            Mode::Audit => "AUDIT: everything else is written down and sent".into(),
        });
        let mut workspace = vec![self.workspace.clone()];
        workspace.extend(self.cwd.iter().flat_map(|cwd| cwd.lines()));
        let mut rows = vec![
            ("agent", agent),
            ("bottle", vec![format!("{}  {}", self.bottle, self.bottle_files.join(", "))]),
            ("identity", vec![self.identity.clone()]),
            ("backend", vec![format!("{backend}; the bottle's floor is {}", self.isolation_floor)]),
            ("image", self.image.clone().into_iter().collect()),
            ("sidecar", vec![self.daemons.join(", ")]),
            ("workspace", workspace),
            ("limits", vec![limits]),
            ("prompt", self.prompt_lines(full)),
            ("skills", vec![listed(&self.skills)]),
            ("env", vec![listed(&self.env.iter().map(|variable| variable.line()).collect::<Vec<_>>())]),
            ("git user", self.git_user.shown().into_iter().collect()),
            ("model", vec![model]),
            ("egress", egress),
            ("git", self.git.iter().flat_map(Remote::lines).collect()),
        ];
        if full {
            rows.push(("command", vec![self.command.join(" ")]));
            let file = |f: &super::FileShown| format!("{} {} {} bytes", f.mode, f.path, f.bytes);
            rows.push(("files", self.files.iter().map(file).collect()));
        }
        let own: Vec<String> =
            self.backend.says.lines.iter().map(|(label, value)| format!("{label}: {value}")).collect();
        rows.push(("plugin", own));
        rows
    }

    fn prompt_lines(&self, full: bool) -> Vec<String> {
        let lines: Vec<&str> = self.prompt.lines().collect();
        let characters = self.prompt.chars().count();
        match lines[..] {
            [] => vec!["none".into()],
            _ if full => lines.into_iter().map(str::to_owned).collect(),
            [first, ..] => vec![format!("{first} ({characters} characters)")],
        }
    }
}

impl RouteShown {
    fn line(&self, full: bool) -> String {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let mut line = format!("{}:{}", self.host, ports.join(","));
        if !self.methods.is_empty() {
            line += &format!(" {}", self.methods.join(","));
        }
        match self.paths.len() {
            0 => {}
            n if full || n <= FEW => line += &format!(" {}", self.paths.join(" ")),
            n => line += &format!(" {} and {} more paths", self.paths[0], n - 1),
        }
        if let Some(credential) = &self.credential {
            line += &format!(" with {credential}");
        }
        if let Some(address) = self.address {
            line += &format!(" at {address}");
        }
        if self.tls_passthrough {
            line += " UNSEEN";
        }
        if let Some(preset) = &self.preset {
            line += &format!(" ({preset})");
        }
        line
    }
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}
