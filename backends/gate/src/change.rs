//! Which kind of change each ref of a push would see: git's answer for the policy.

use crate::{
    git::Repository,
    update::{ObjectId, Update},
};
use bottle_policy::push::Change;
use std::{io, time::Duration};

/// Says it, within that time. What git does not affirm is a rewrite.
pub fn of(repository: &Repository, update: &Update, limit: Duration) -> io::Result<Change> {
    match (&update.old, &update.new) {
        (_, None) => Ok(Change::Delete),
        (None, Some(_)) => Ok(Change::Create),
        (Some(old), Some(new)) => {
            let args = ["merge-base", "--is-ancestor", old.as_str(), new.as_str()];
            Ok(if repository.ask(args, limit)?.success() { Change::FastForward } else { Change::Rewrite })
        }
    }
}

/// The objects that a push names, each once.
pub(crate) fn tips(updates: &[Update]) -> Vec<ObjectId> {
    let mut tips: Vec<ObjectId> = vec![];
    for new in updates.iter().filter_map(|update| update.new.as_ref()) {
        if !tips.contains(new) {
            tips.push(new.clone());
        }
    }
    tips
}
