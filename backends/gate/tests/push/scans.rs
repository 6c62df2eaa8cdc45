//! What a finding says, what is new in a push, and what cannot be judged.

use crate::work::{SECRET, Work, numbers};

const KEY: &str = "AKIAQ3EGRZ7XWVN2KLPT";

fn to_work() -> Vec<String> {
    vec!["HEAD:refs/heads/work".into()]
}

#[test]
fn a_leak_names_the_commit_that_brought_it_its_file_and_its_rule() {
    let work = Work::new();
    work.commit("before");
    work.write("d/a.txt", format!("x\n{KEY}\n").as_bytes());
    let commit = work.commit("it");
    work.write("d/b.txt", b"x\n");
    work.commit("after");
    let (taken, told) = work.push(&to_work());
    assert!(!taken);
    assert_eq!(told, format!("leak: commit {}: d/a.txt, line 2: aws-access-key-id", &commit[..12]));
}

#[test]
fn a_path_that_holds_a_secret_is_not_told() {
    let work = Work::new();
    work.write(format!("plain/{SECRET}/a.txt"), format!("{KEY}\n").as_bytes());
    work.commit("m");
    let (taken, told) = work.push(&to_work());
    assert!(!taken && !told.contains(SECRET), "{told}");
    assert!(told.contains("plain/(name withheld)/a.txt, line 1"), "{told}");
}

#[test]
fn a_file_that_cannot_be_looked_into_is_a_file() {
    let work = Work::new();
    // As the scan knows them: the head of a file with a password, and an xz of which the end is missing.
    work.write(
        "locked.zip",
        &[&b"PK\x03\x04\x14\0\x01\0\x08\0"[..], &[0x21; 16], b"\x05\0\0\0a.txt\xc3\xa9\x01"].concat(),
    );
    work.write("cut.xz", b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46\x02\0");
    work.commit("fixtures");
    assert_eq!(work.push(&to_work()), (true, String::new()));
}

#[test]
fn what_upstream_has_already_is_not_new() {
    let work = Work::new();
    // It came before anybody looked.
    work.write(format!("{KEY}.txt"), b"x\n");
    work.write("old.txt", KEY.as_bytes());
    work.commit("old");
    work.in_mirror(&["fetch", "-q", work.dir().to_str().unwrap(), "+HEAD:refs/heads/main"]);
    work.git(&["mv", "old.txt", "new.txt"]);
    work.write("base.txt", b"changed\n");
    work.commit("beside it");
    assert_eq!(work.push(&to_work()), (true, String::new()));
    // The same name in another directory is news.
    work.write(format!("d/{KEY}.txt"), b"x\n");
    work.commit("again");
    let (taken, told) = work.push(&to_work());
    assert!(!taken && told.contains("the name of a file in d: aws-access-key-id"), "{told}");
}

#[test]
fn more_than_is_looked_at_is_refused() {
    let work = Work::new();
    work.write("a.txt", numbers(1000).as_bytes());
    work.commit("m");
    let (taken, told) = work.push_with(&to_work(), &[("TEST_MOST_BYTES", "5000")]);
    assert!(
        !taken && told.starts_with("error: the push has more than") && told.ends_with("push it in parts"),
        "{told}"
    );
    assert!(work.push(&to_work()).0);
}
