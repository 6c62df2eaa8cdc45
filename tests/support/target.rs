//! Where a test's bottles are. One table of sessions, terminals, secrets, faults or escapes holds wherever that is: on
//! Docker, unless `BOTTLE_TEST_BACKEND` names another place for a whole run of tests.

use crate::{
    bare::{self, USER, Who},
    bottle::{is_running, left_in_engine},
    lab::Lab,
};
use anyhow::Result;
use std::{env, fs};

/// Names a target for every home that does not ask for one.
pub const TARGET_ENV: &str = "BOTTLE_TEST_BACKEND";

/// A backend, and who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Containers of the lab's engine.
    Docker,
    /// Linux namespaces.
    Namespace(Who),
}

impl Target {
    /// All that this machine has. (Machines have a lab of their own.)
    pub const ALL: [Self; 3] = [Self::Docker, Self::Namespace(Who::Root), Self::Namespace(Who::User)];

    /// This run's.
    pub fn chosen() -> Self {
        match env::var(TARGET_ENV).as_deref() {
            Err(_) | Ok("docker") => Self::Docker,
            Ok("namespace") => Self::Namespace(Who::Root),
            Ok("namespace-user") => Self::Namespace(Who::User),
            Ok(other) => panic!("{TARGET_ENV}={other} is none of docker, namespace, namespace-user"),
        }
    }

    /// The backend's name.
    pub fn backend(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Namespace(_) => "namespace",
        }
    }

    /// Whom `bottle` runs as, where it is not the test's own user.
    pub fn user(self) -> Option<u32> {
        (self == Self::Namespace(Who::User)).then_some(USER)
    }

    /// What is there of a bottle outside of its state directory: as the engine has it, or as the kernel does.
    pub fn left(self, lab: &Lab, identity: &str) -> Result<Vec<String>> {
        match self {
            Self::Docker => left_in_engine(lab, identity),
            Self::Namespace(_) => Ok(left_in_kernel(identity)),
        }
    }

    /// How many things a bottle without a working directory of its own is, as [`Self::left`] counts them.
    pub fn things(self) -> usize {
        match self {
            Self::Docker => 4,
            Self::Namespace(_) => 1,
        }
    }
}

/// Its processes, by whoever of launcher and first process still runs; and control groups.
fn left_in_kernel(identity: &str) -> Vec<String> {
    let running = bare::launchers(identity).into_iter().find(|pid| is_running(*pid));
    let mut left: Vec<String> = running.into_iter().map(|pid| format!("process {pid}")).collect();
    let groups = ["memory", "cpu", "."].map(|dir| fs::read_dir(format!("/sys/fs/cgroup/{dir}")));
    let names = groups.into_iter().flatten().flatten().flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    left.extend(names.filter(|name| name.contains(identity)).map(|name| format!("control group {name}")));
    left
}
