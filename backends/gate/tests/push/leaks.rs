//! Every row of the table of leaks, pushed with the scan as the mirror's hook.

use crate::{rows::ROWS, work::Work};

#[test]
fn every_leak_is_refused_and_its_twin_is_not() {
    let mut wrong = vec![];
    for (name, [leak, twin], place, put) in ROWS {
        let work = Work::new();
        let before = work.kept();
        let (taken, told) = work.push(&put(&work, leak));
        let hidden = !told.contains(leak) && !told.contains("error:");
        if taken || !hidden || !told.contains(place) || !told.lines().all(|line| line.starts_with("leak: ")) {
            wrong.push(format!("{name}: a leak: taken: {taken}: {told}"));
        }
        if work.kept() != before {
            wrong.push(format!("{name}: something of the refused push was kept"));
        }
        let work = Work::new();
        let (taken, told) = work.push(&put(&work, twin));
        if !taken || !told.is_empty() {
            wrong.push(format!("{name}: an honest push: taken: {taken}: {told}"));
        }
    }
    assert!(ROWS.len() >= 30 && wrong.is_empty(), "{}", wrong.join("\n"));
}
