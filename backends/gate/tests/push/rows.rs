//! The table of leaks: a credential in every place of a push, each with an honest twin in the very same place.

use crate::work::{SECRET, Work, numbers};
use base64::{Engine, prelude::BASE64_STANDARD};
use bzip2::write::BzEncoder;
use flate2::{Compression, write::GzEncoder};
use lzma_rust2::{XzOptions, XzWriter};
use std::{ffi::OsStr, fs, io::Write, os::unix::ffi::OsStrExt};

/// What looks like a credential, and what only begins like one.
const PATTERN: [&str; 2] = ["AKIAQ3EGRZ7XWVN2KLPT", "AKIA-is-how-they-all"];
/// What is known by its value, and what is not; both twenty bytes long.
const EXACT: [&str; 2] = [SECRET, "tok-is-how-it-begins"];

/// Name, values, where it is told to be, and what is put there and pushed.
pub(crate) type Row = (&'static str, [&'static str; 2], &'static str, fn(&Work, &str) -> Vec<String>);

fn head() -> Vec<String> {
    vec!["HEAD:refs/heads/work".into()]
}

fn file(work: &Work, path: &str, bytes: impl AsRef<[u8]>) -> Vec<String> {
    work.write(path, bytes.as_ref());
    work.commit("a file");
    head()
}

fn lines(value: &str) -> String {
    format!("first\nkey = {value}\nlast\n")
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(text: &str) -> Vec<u8> {
    let mut encoder = BzEncoder::new(vec![], bzip2::Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn xz(text: &str) -> Vec<u8> {
    let mut encoder = XzWriter::new(vec![], XzOptions::with_preset(0)).unwrap();
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

/// A commit by hand: fields before its message.
fn commit_by_hand(work: &Work, fields: &str, message: &str) -> Vec<String> {
    let (tree, parent) = (work.git(&["rev-parse", "HEAD^{tree}"]), work.git(&["rev-parse", "HEAD"]));
    let people = "author A <a@b> 1 +0000\ncommitter C <c@d> 1 +0000";
    let text = format!("tree {tree}\nparent {parent}\n{people}\n{fields}\n{message}\n");
    vec![format!("{}:refs/heads/work", work.object("commit", text.as_bytes()))]
}

/// A second history, merged.
fn merged(work: &Work, side: &str, of_merge: &str) -> Vec<String> {
    work.git(&["checkout", "-q", "-b", "side"]);
    work.write("side.txt", side.as_bytes());
    work.commit("side");
    work.git(&["checkout", "-q", "main"]);
    work.write("own.txt", b"own\n");
    work.commit("own");
    work.git(&["merge", "-q", "--no-ff", "--no-commit", "side"]);
    work.write("merge.txt", of_merge.as_bytes());
    work.commit("merge");
    head()
}

#[rustfmt::skip] // a table
pub(crate) const ROWS: &[Row] = &[
    ("a file", PATTERN, "a.txt, line 2", |w, v| file(w, "a.txt", lines(v))),
    ("a file below", PATTERN, "a/b/c.txt, line 2", |w, v| file(w, "a/b/c.txt", lines(v))),
    ("a secret that is known", EXACT, "a.txt, line 2", |w, v| file(w, "a.txt", lines(v))),
    ("a secret over two lines", EXACT, "a.txt, line 1", |w, v| file(w, "a.txt", format!("{}\\\n{}\n", &v[..9], &v[9..]))),
    ("lines of a carriage return, too", PATTERN, "a.txt, line 2", |w, v| file(w, "a.txt", lines(v).replace('\n', "\r\n"))),
    ("a program's binary", PATTERN, "a.bin, byte 9", |w, v| file(w, "a.bin", [&b"\x7fELF\0\0\0\0\0"[..], v.as_bytes(), b"\0\xff\xfe"].concat())),
    ("the middle of a large file", PATTERN, "big.txt, line 100001", |w, v| {
        file(w, "big.txt", format!("{}{v}\n{}", numbers(100_000), numbers(50_000)))
    }),
    ("a file of a link", PATTERN, "link, line 1", |w, v| {
        std::os::unix::fs::symlink(format!("/tmp/{v}"), w.dir().join("link")).unwrap();
        w.commit("a link");
        head()
    }),
    ("a commit's message", PATTERN, "the commit's message, line 3", |w, v| { w.commit(&format!("one\n\nwith {v}")); head() }),
    ("an author's name", PATTERN, "the commit's author", |w, v| {
        w.git_with(&["commit", "-q", "--allow-empty", "-m", "m"], &[("GIT_AUTHOR_NAME", v)], b"");
        head()
    }),
    ("an author's address", PATTERN, "the commit's author", |w, v| {
        w.git_with(&["commit", "-q", "--allow-empty", "-m", "m"], &[("GIT_AUTHOR_EMAIL", &format!("a@{v}.example"))], b"");
        head()
    }),
    ("a committer's name", EXACT, "the commit's committer", |w, v| {
        w.git_with(&["commit", "-q", "--allow-empty", "-m", "m"], &[("GIT_COMMITTER_NAME", v)], b"");
        head()
    }),
    ("a field that nobody knows", PATTERN, "the commit's head", |w, v| commit_by_hand(w, &format!("note {v}\n"), "m")),
    ("a signature", EXACT, "the commit's gpgsig", |w, v| commit_by_hand(w, &format!("gpgsig -----BEGIN PGP SIGNATURE-----\n {v}\n -----END PGP SIGNATURE-----\n"), "m")),
    ("the name of an encoding", PATTERN, "the commit's encoding", |w, v| commit_by_hand(w, &format!("encoding {v}\n"), "m")),
    ("a tag's message", PATTERN, "the tag's message, line 1", |w, v| {
        w.git(&["tag", "-a", "-m", v, "v1"]);
        vec!["v1".into()]
    }),
    ("a tagger's name", PATTERN, "the tag's tagger", |w, v| {
        w.git_with(&["tag", "-a", "-m", "m", "v1"], &[("GIT_COMMITTER_NAME", v)], b"");
        vec!["v1".into()]
    }),
    ("the name that a tag says", PATTERN, "the tag's tag", |w, v| {
        w.git(&["tag", "-a", "-m", "m", v]);
        vec![format!("refs/tags/{v}:refs/tags/v1")]
    }),
    ("a tag of a tag", PATTERN, "the tag's message, line 1", |w, v| {
        w.git(&["tag", "-a", "-m", v, "inner"]);
        w.git(&["tag", "-a", "-m", "outer", "outer", "inner"]);
        vec!["outer".into()]
    }),
    ("a tag of a blob", PATTERN, ", line 1", |w, v| vec![format!("{}:refs/tags/blob", w.object("blob", v.as_bytes()))]),
    ("a tag of a tree", PATTERN, "t.txt, line 1", |w, v| {
        let blob = w.object("blob", v.as_bytes());
        let tree = w.git_with(&["mktree"], &[], format!("100644 blob {blob}\tt.txt\n").as_bytes());
        vec![format!("{tree}:refs/tags/tree")]
    }),
    ("what only a tag leads to", PATTERN, "a.txt, line 2", |w, v| {
        file(w, "a.txt", lines(v));
        w.git(&["tag", "-a", "-m", "m", "v1"]);
        w.git(&["reset", "-q", "--hard", "HEAD~"]);
        vec!["v1".into(), "HEAD:refs/heads/work".into()]
    }),
    ("a note", PATTERN, ", line 1", |w, v| {
        w.git(&["notes", "add", "-m", v]);
        vec!["refs/notes/commits".into()]
    }),
    ("a file's name", PATTERN, "the name of a file at the top", |w, v| file(w, &format!("{v}.txt"), "x\n")),
    ("a file's name below", EXACT, "the name of a file in a/b", |w, v| file(w, &format!("a/b/{v}"), "x\n")),
    ("a directory's name", PATTERN, "the name of a file in a", |w, v| file(w, &format!("a/{v}/x"), "x\n")),
    ("the name of a file over a directory's", EXACT, "the name of a file in", |w, v| file(w, &format!("a/{}/{}", &v[..9], &v[9..]), "x\n")),
    ("a file's name of two lines", PATTERN, "the name of a file at the top", |w, v| file(w, &format!("one\n{v}"), "x\n")),
    ("a file's name that is no text", PATTERN, "the name of a file at the top", |w, v| {
        fs::write(w.dir().join(OsStr::from_bytes(&[b"\xff\xfe", v.as_bytes()].concat())), "x\n").unwrap();
        w.commit("m");
        head()
    }),
    ("a branch's name", PATTERN, "the name of the ref", |w, v| { w.commit("m"); vec![format!("HEAD:refs/heads/{v}")] }),
    ("a tag's own name", EXACT, "the name of the ref", |_, v| vec![format!("HEAD:refs/tags/{v}")]),
    ("the second of two refs", PATTERN, "a.txt, line 2", |w, v| {
        w.commit("first");
        w.git(&["branch", "first"]);
        file(w, "a.txt", lines(v));
        vec!["first".into(), "HEAD:refs/heads/work".into()]
    }),
    ("a submodule's URL", ["Vq8kZt2mPw4x", "${TOKEN}"], ".gitmodules, line 3", |w, v| {
        file(w, ".gitmodules", format!("[submodule \"s\"]\n\tpath = s\n\turl = https://builder:{v}@git.example/s.git\n"))
    }),
    ("a submodule's commit", EXACT, "the name of a file at the top", |w, v| {
        w.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},sub", hex(v.as_bytes()))]);
        w.git(&["commit", "-q", "-m", "m"]);
        head()
    }),
    ("a submodule's path", PATTERN, "the name of a file at the top", |w, v| {
        w.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},{v}", "12".repeat(20))]);
        w.git(&["commit", "-q", "-m", "m"]);
        head()
    }),
    ("what the next commit takes away", PATTERN, "a.txt, line 2", |w, v| {
        file(w, "a.txt", lines(v));
        fs::remove_file(w.dir().join("a.txt")).unwrap();
        w.commit("gone");
        head()
    }),
    ("a merge's second parent", PATTERN, "side.txt, line 2", |w, v| merged(w, &lines(v), "fine\n")),
    ("a merge itself", PATTERN, "merge.txt, line 2", |w, v| merged(w, "fine\n", &lines(v))),
    ("a history without a beginning in common", PATTERN, "a.txt, line 2", |w, v| {
        w.git(&["checkout", "-q", "--orphan", "other"]);
        file(w, "a.txt", lines(v))
    }),
    ("a delta in the pack", PATTERN, "large.txt, line 2001", |w, v| {
        file(w, "large.txt", format!("{}{v}\n{}", numbers(2000), &numbers(4000)[numbers(2000).len()..]))
    }),
    ("a file that git writes in another encoding", PATTERN, "a.txt, line 2", |w, v| {
        w.write(".gitattributes", b"a.txt text working-tree-encoding=UTF-16LE-BOM eol=lf\n");
        file(w, "a.txt", utf16(&lines(v)))
    }),
    ("a file of two bytes a letter", PATTERN, "a.txt, byte", |w, v| file(w, "a.txt", utf16(&lines(v)))),
    ("base64", PATTERN, "a.txt, line 1", |w, v| file(w, "a.txt", BASE64_STANDARD.encode(lines(v)))),
    ("base64 twice", EXACT, "a.txt, line 1", |w, v| file(w, "a.txt", BASE64_STANDARD.encode(BASE64_STANDARD.encode(lines(v))))),
    ("hexadecimal", PATTERN, "a.txt, line 1", |w, v| file(w, "a.txt", hex(lines(v).as_bytes()))),
    ("gzip", PATTERN, "a.gz, byte", |w, v| file(w, "a.gz", gzip(&lines(v)))),
    ("a file of xz", EXACT, "a.xz, byte", |w, v| file(w, "a.xz", xz(&lines(v)))),
    ("a file of bzip2", EXACT, "a.bz2, byte", |w, v| file(w, "a.bz2", bzip2(&lines(v)))),
    ("gzip in base64", PATTERN, "a.txt, line 1", |w, v| file(w, "a.txt", BASE64_STANDARD.encode(gzip(&lines(v))))),
    ("a pointer to a large file, its fields", PATTERN, "a.psd, line 2", |w, v| {
        file(w, "a.psd", format!("version https://git-lfs.github.com/spec/v1\next-0-x {v}\noid sha256:{}\nsize 9\n", "1a".repeat(32)))
    }),
    ("a pointer to a large file, its object", EXACT, "a.psd, line 2", |w, v| {
        let oid = hex(format!("{v}\0\0\0\0\0\0\0\0\0\0\0\0").as_bytes());
        file(w, "a.psd", format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 9\n"))
    }),
    ("pieces in two files", EXACT, "two.txt, in pieces", |w, v| {
        w.write("one.txt", &v.as_bytes()[..10]);
        file(w, "two.txt", &v[10..])
    }),
    ("pieces in two commits", EXACT, "the commit's message, in pieces", |w, v| { w.commit(&format!("a {}", &v[..11])); w.commit(&format!("b {}", &v[11..])); head() }),
    ("an environment of a program", EXACT, ".env, line 2", |w, v| file(w, ".env", format!("A=1\nTOKEN={v}\n"))),
];
