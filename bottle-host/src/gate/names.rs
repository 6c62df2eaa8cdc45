//! Names as a file system, a person and git see them: three that need not be the same.

use crate::ui;
use unicode_normalization::UnicodeNormalization;

/// Longer than any file system takes.
const MAX_NAME: usize = 4096;

/// A name as the most lenient file system compares it: compatibility forms, case, what has no width, the dots and spaces
/// at an end, streams.
pub(super) fn folded(name: &[u8]) -> String {
    String::from_utf8_lossy(name).split('/').map(folded_part).collect::<Vec<_>>().join("/")
}

/// The directories above a name and the name itself, folded, and where each ends.
pub(super) fn prefixes(name: &[u8]) -> impl Iterator<Item = (String, usize)> {
    let parts = name.split(|byte| *byte == b'/').enumerate();
    parts.scan((String::new(), 0), |(folded, end), (number, part)| {
        if number > 0 {
            folded.push('/');
            *end += 1;
        }
        folded.push_str(&folded_part(&String::from_utf8_lossy(part)));
        *end += part.len();
        Some((folded.clone(), *end))
    })
}

fn folded_part(part: &str) -> String {
    let seen: String = part.chars().filter(|c| ui::is_seen(*c)).collect();
    // Folding may bring forth what is to be folded again: `K` (Kelvin) is a letter.
    let text: String = seen.nfkc().flat_map(char::to_lowercase).nfkc().collect();
    let text = text.split(':').next().unwrap_or_default();
    match text.trim_end_matches(['.', ' ']) {
        // A name of nothing else is `.` or `..`.
        "" => text.to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// Is that git's own directory, on any file system?
fn is_gits(folded: &str) -> bool {
    folded == ".git" || folded == "git~1"
}

/// Why a name can never be taken.
pub(super) fn refused(name: &[u8]) -> Option<&'static str> {
    let parts = || name.split(|byte| *byte == b'/');
    match name {
        [] => Some("no name"),
        [b'/', ..] => Some("an absolute path"),
        _ if name.len() > MAX_NAME => Some("a name that is too long"),
        _ if name.contains(&0) => Some("a name with a NUL"),
        _ if parts().any(|part| part.is_empty() || part == b"." || part == b"..") => {
            Some("a path that leads elsewhere")
        }
        // On another system the other slash is one, too.
        _ if name.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| matches!(part, b"." | b"..")) => {
            Some("a path that leads elsewhere")
        }
        _ if parts().next().is_some_and(|part| is_gits(&folded_part(&String::from_utf8_lossy(part)))) => {
            Some("git's own directory")
        }
        _ => None,
    }
}

/// Is something of another repository's `.git`?
pub(super) fn is_in_git(folded: &str) -> bool {
    folded.split('/').any(is_gits)
}

/// Why a name is not what it looks like.
pub(super) fn deceiving(name: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(name) else { return Some("a name that is no text") };
    if text.chars().any(|c| !ui::is_seen(c) || c == '\t') {
        return Some("characters in its name that are not seen");
    }
    if text.split('/').any(|part| part != part.trim() || part.ends_with('.') || part.contains([':', '\\'])) {
        return Some("a name that another file system takes for another");
    }
    if text.split(['/', '.', '-', '_']).any(is_mixed) {
        return Some("letters of two scripts in one word of its name");
    }
    None
}

/// Latin letters beside Greek, Cyrillic or full-width ones.
fn is_mixed(word: &str) -> bool {
    let lookalike = |c: char| matches!(c, '\u{370}'..='\u{52f}' | '\u{13a0}'..='\u{13ff}' | '\u{ff00}'..='\u{ffef}');
    word.chars().any(|c| c.is_ascii_alphabetic()) && word.chars().any(lookalike)
}

/// Does a link at `name` lead out of the directory, or into a repository's own?
pub(super) fn leads_out(name: &[u8], target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&b'\\') || is_in_git(&folded(target)) {
        return true;
    }
    let (mut depth, mut below) = (name.iter().filter(|byte| **byte == b'/').count(), false);
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            // What is named may be a link itself: what is above it is elsewhere.
            b".." if below || depth == 0 => return true,
            b".." => depth -= 1,
            _ => below = true,
        }
    }
    false
}
