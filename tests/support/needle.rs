//! Searches inside a bottle for a secret that the way there knows: the sidecar lets a credential that it puts in come back in
//! no form and in no pieces. A search that named it would get a mark instead, and find nothing anywhere. So it is spelled
//! in a way that no scanner undoes, its hash says that it arrived, and each search must first find it where it was put.

use sha2::{Digest, Sha256};

const IN_PROCESSES: &str = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | \
    /usr/bin/grep -aqF -f <(printf %s \"$n\"); echo found=$?";
const IN_FILES: &str = "/usr/bin/grep -raqsF -f <(printf %s \"$n\") --exclude-dir=proc --exclude-dir=sys";

/// A script that looks into every process of the bottle, first while one has the value. It is never an argument, so that
/// the script does not find itself.
pub fn in_processes(value: &str) -> String {
    format!(
        "{}; N=\"$n\" sleep 60 & until grep -q sleep /proc/$!/comm; do sleep 0.05; done; {IN_PROCESSES}; \
         {{ kill $!; wait $!; }} 2>/dev/null; {IN_PROCESSES}",
        spelled(value)
    )
}

/// What that script prints where no process has it.
pub fn in_no_process(value: &str) -> String {
    format!("{}  -\nfound=0\nfound=1", hash(value))
}

/// A script that looks into every file of the bottle, first while one of the home has the value.
pub fn in_files(value: &str) -> String {
    format!(
        "{}; f=$(mktemp -p \"$HOME\"); printf %s \"$n\" > $f; {IN_FILES} /home; echo found=$?; rm $f; \
         {IN_FILES} /; [ $? = 0 ]; echo found=$?",
        spelled(value)
    )
}

/// What that script prints where no file has it. Where some are root's, `grep` says 2.
pub fn in_no_file(value: &str) -> String {
    in_no_process(value)
}

/// Sets `n` to the value, which is written with each letter and digit replaced by the next, and says its hash.
fn spelled(value: &str) -> String {
    let next = |c: char| match c {
        'z' => 'a',
        'Z' => 'A',
        '9' => '0',
        c if c.is_ascii_alphanumeric() => char::from(c as u8 + 1),
        c => c,
    };
    let shifted: String = value.chars().map(next).collect();
    format!("n=$(printf %s '{shifted}' | tr b-zaB-ZA1-90 a-zA-Z0-9); printf %s \"$n\" | sha256sum")
}

fn hash(value: &str) -> String {
    Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect()
}
