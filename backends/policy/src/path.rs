//! Which paths may be judged at all.
//!
//! A path that some server would read as another one (dot segments, empty segments, encoded separators) cannot be
//! judged by its bytes, so it is refused instead of normalised: the bytes judged are the bytes sent.

/// Why a path is refused, if it is.
pub fn ambiguity(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("the path does not begin with `/`");
    }
    if path.contains("//") {
        return Some("the path has an empty segment (`//`)");
    }
    if path.bytes().any(|b| matches!(b, b'\\' | b';' | b'#' | b' ') || b.is_ascii_control() || !b.is_ascii()) {
        return Some("the path has a backslash, a `;`, a `#`, a space, a control character or a byte beyond ASCII");
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Some("the path has a dot segment");
    }
    let bytes = path.as_bytes();
    // Some decoders read `%c0%ae` as a dot: what is no UTF-8 has no single reading.
    if std::str::from_utf8(&decoded_bytes(path)).is_err() {
        return Some("the path's encoded bytes are not UTF-8");
    }
    for (i, _) in bytes.iter().enumerate().filter(|(_, b)| **b == b'%') {
        let decoded = match bytes[i + 1..] {
            [high, low, ..] => hex_pair(high, low),
            _ => None,
        };
        match decoded {
            None => return Some("the path has a `%` without two hexadecimal digits"),
            Some(b'/' | b'\\' | b'.' | b'%' | b';') => {
                return Some("the path has an encoded `/`, `\\`, `.`, `;` or `%`");
            }
            Some(b) if b.is_ascii_control() => return Some("the path has an encoded control character"),
            Some(_) => {}
        }
    }
    None
}

/// Does `path` lie at or below `prefix`? On segment boundaries: `/a` covers `/a` and `/a/b`, not `/ab`.
pub fn covers(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Is this a push over git's HTTP protocol, or an upload of large files for one? As the most lenient server would read it.
pub fn is_git_push(method: &str, path: &str, query: Option<&str>) -> bool {
    let path = wholly_decoded(path).to_ascii_lowercase();
    let segments = path.split(|c: char| matches!(c, '/' | '\\' | ';') || c.is_control()).map(str::trim);
    let segments: Vec<&str> = segments.filter(|segment| !matches!(*segment, "" | ".")).collect();
    let query = wholly_decoded(query.unwrap_or_default()).to_ascii_lowercase();
    let mut pairs = query.split(['&', ';']).filter_map(|pair| pair.split_once('='));
    segments.contains(&"git-receive-pack")
        || pairs.any(|(name, value)| name.trim() == "service" && value.contains("git-receive-pack"))
        || segments.windows(2).any(|pair| pair == ["info", "lfs"]) && !matches!(method, "GET" | "HEAD")
}

/// The text with every `%XX` undone until none is left, however often it was encoded. In one pass: what was undone may
/// end another `%XX`, and two of them never overlap, so the order makes no difference.
fn wholly_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        out.push(byte);
        while let [.., b'%', high, low] = out[..]
            && let Some(byte) = hex_pair(high, low)
        {
            out.truncate(out.len() - 3);
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The byte that two hexadecimal digits write.
fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// The text with every `%XX` undone, once; for comparing, never for sending.
pub fn percent_decoded(text: &str) -> String {
    String::from_utf8_lossy(&decoded_bytes(text)).into_owned()
}

fn decoded_bytes(text: &str) -> Vec<u8> {
    let (mut rest, mut out) = (text.as_bytes(), vec![]);
    while let [byte, after @ ..] = rest {
        let decoded = match rest {
            [b'%', high, low, ..] => hex_pair(*high, *low),
            _ => None,
        };
        out.push(decoded.unwrap_or(*byte));
        rest = if decoded.is_some() { &rest[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_judged() {
        for path in ["/", "/a/b", "/a%20b", "/b%C3%BCcher", "/v1/messages", "/a.b/..c", "/a-_~!$&'()*+,=:@"] {
            assert_eq!(ambiguity(path), None, "{path}");
        }
        for path in [
            "",
            "a",
            "//a",
            "/a//b",
            "/a/../b",
            "/./a",
            "/..",
            "/a\\b",
            "/a%2fb",
            "/a%2Fb",
            "/%2e%2e/b",
            "/a%5cb",
            "/a%00",
            "/a%0d",
            "/%252e",
            "/a%",
            "/a%g1",
            "/a;b",
            "/a%3bb",
            "/%c0%ae%c0%ae/b",
            "/%e0%80%af",
            "/%ff",
            "/\u{e9}",
        ] {
            assert!(ambiguity(path).is_some(), "{path}");
        }
    }

    #[test]
    fn prefixes_end_on_segments() {
        assert!(covers("/v1", "/v1") && covers("/v1", "/v1/x") && covers("/v1/", "/v1/x") && covers("/", "/x"));
        assert!(!covers("/v1", "/v10") && !covers("/v1/x", "/v1"));
    }

    #[test]
    fn git_pushes_are_known_in_every_spelling() {
        for (method, path, query) in [
            ("POST", "/o/r.git/git-receive-pack", None),
            ("POST", "/o/r/Git-Receive-Pack/", None),
            ("POST", "/o/r/git%2dreceive-pack", None),
            ("GET", "/o/r/info/refs", Some("service=git-receive-pack")),
            ("GET", "/o/r/info/refs", Some("a=b&service=git%2Dreceive-pack")),
            ("POST", "/o/r.git/info/lfs/objects/batch", None),
            ("PUT", "/o/r.git/info/lfs/objects/abc", None),
        ] {
            assert!(is_git_push(method, path, query), "{method} {path} {query:?}");
        }
        for (method, path, query) in [
            ("POST", "/o/r.git/git-upload-pack", None),
            ("GET", "/o/r/info/refs", Some("service=git-upload-pack")),
            ("GET", "/o/r.git/info/lfs/objects/abc", None),
        ] {
            assert!(!is_git_push(method, path, query), "{method} {path} {query:?}");
        }
    }
}
