//! The copy's git configuration: what is on this list, and nothing that runs a program, names a file or is a credential.

use super::ui::hinted;
use anyhow::Result;

/// Keys that come along as they are, with what they may say.
const PLAIN: [(&str, &[&str]); 5] = [
    ("core.filemode", &["true", "false"]),
    ("core.ignorecase", &["true", "false"]),
    ("core.symlinks", &["true", "false"]),
    ("core.autocrlf", &["true", "false", "input"]),
    ("core.eol", &["lf", "crlf", "native"]),
];
/// Schemes of remotes that mean something elsewhere, too.
const SCHEMES: [&str; 4] = ["https", "http", "ssh", "git"];

/// Renders a configuration from what `git config --list --null` says of another.
pub(super) fn rebuild(listed: &[u8]) -> Result<String> {
    let mut format = "sha1";
    let (mut core, mut sections) = (String::new(), String::new());
    for entry in String::from_utf8_lossy(listed).split('\0').filter(|entry| !entry.is_empty()) {
        let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
        if let Some((_, allowed)) = PLAIN.iter().find(|(name, _)| *name == key) {
            if allowed.contains(&value) {
                core += &format!("\t{} = {value}\n", &key["core.".len()..]);
            }
            continue;
        }
        let Some((section, rest)) = key.split_once('.') else { continue };
        match (section, rest.rsplit_once('.')) {
            ("extensions", None) => format = extension(rest, value, format)?,
            ("remote", Some((name, "url" | "pushurl"))) => {
                if let (Some(url), false) = (clean_url(value), name.contains('\n')) {
                    sections += &setting("remote", name, &rest[name.len() + 1..], &url);
                }
            }
            ("remote", Some((name, "fetch"))) | ("branch", Some((name, "remote" | "merge" | "rebase")))
                if !key.contains('\n') && !value.contains('\n') =>
            {
                sections += &setting(section, name, &rest[name.len() + 1..], value);
            }
            _ => {}
        }
    }
    let version = u8::from(format != "sha1");
    let format = if version == 1 { format!("[extensions]\n\tobjectformat = {format}\n") } else { String::new() };
    Ok(format!("[core]\n\trepositoryformatversion = {version}\n\tbare = false\n{core}{format}{sections}"))
}

/// What git must understand to read a repository.
fn extension(name: &str, value: &str, format: &'static str) -> Result<&'static str> {
    match (name, value) {
        ("objectformat", "sha256") => Ok("sha256"),
        ("objectformat", "sha1") | ("refstorage", "files") => Ok(format),
        ("worktreeconfig" | "preciousobjects" | "noop" | "relativeworktrees", _) => Ok(format),
        _ => Err(hinted(
            format!("its repository has the extension `{name}`, which cannot be copied yet"),
            "Clone it without that, and start bottle in the clone.",
        )),
    }
}

fn setting(section: &str, name: &str, key: &str, value: &str) -> String {
    let quoted = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
    format!("[{section} \"{}\"]\n\t{key} = \"{}\"\n", quoted(name), quoted(value))
}

/// A remote's address without whatever may be a credential; none where it leads to this machine, or runs a program. The
/// user of ssh is part of the address.
fn clean_url(url: &str) -> Option<String> {
    if url.contains(char::is_control) || url.starts_with('-') {
        return None;
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        // `user@host:path`; a colon after a slash is a path of this machine, and two of them are a program's.
        let (host, path) = url.split_once(':')?;
        let remote = !host.contains('/') && !host.is_empty() && !path.starts_with(':') && !path.is_empty();
        return remote.then(|| url.to_owned());
    };
    if !SCHEMES.contains(&scheme) {
        return None;
    }
    let rest = rest.split(['?', '#']).next()?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = match (scheme, user.split(':').next()) {
        ("ssh", Some(user)) if !user.is_empty() => format!("{user}@"),
        _ => String::new(),
    };
    Some(format!("{scheme}://{user}{host}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_keeps_its_address_and_loses_its_credentials() {
        for (url, clean) in [
            ("https://github.com/a/b.git", Some("https://github.com/a/b.git")),
            ("https://TOKEN@github.com/a/b", Some("https://github.com/a/b")),
            ("https://user:TOKEN@github.com:8443/a@b", Some("https://github.com:8443/a@b")),
            ("https://u:p@x@host/a", Some("https://host/a")),
            ("https://host/a?private_token=TOKEN#x", Some("https://host/a")),
            ("ssh://git:TOKEN@host:22/a", Some("ssh://git@host:22/a")),
            ("git@github.com:a/b.git", Some("git@github.com:a/b.git")),
            ("/home/me/secret", None),
            ("../other", None),
            ("file:///home/me", None),
            ("ext::sh -c evil", None),
            ("https://host/a\nb", None),
            ("--upload-pack=evil", None),
        ] {
            assert_eq!(clean_url(url).as_deref(), clean, "{url}");
        }
    }

    #[test]
    fn only_what_is_listed_comes_along() {
        let listed = "core.fsmonitor\nevil\0core.filemode\nfalse\0core.autocrlf\n\"evil\0include.path\n/x\0\
             remote.origin.url\nhttps://u:p@host/a\0remote.a\"]b.fetch\n+refs/*:refs/*\0remote.origin.uploadpack\nevil\0\
             branch.main.remote\norigin\0filter.x.clean\nevil\0http.extraheader\nAuthorization: x\0user.name\nme\0\
             alias.x\n!evil\0extensions.objectformat\nsha256\0bare";
        let expected = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n\tfilemode = false\n\
             [extensions]\n\tobjectformat = sha256\n[remote \"origin\"]\n\turl = \"https://host/a\"\n\
             [remote \"a\\\"]b\"]\n\tfetch = \"+refs/*:refs/*\"\n[branch \"main\"]\n\tremote = \"origin\"\n";
        assert_eq!(rebuild(listed.as_bytes()).unwrap(), expected);
        assert!(rebuild(b"extensions.partialclone\norigin\0").is_err());
    }
}
