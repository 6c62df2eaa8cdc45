//! The host's end of what a backend calls back: log, progress, ledger, artifacts. A panic in here stays in here.

use super::{discover, trust};
use crate::{state::ledger::Ledger, ui};
use abi_stable::std_types::{RErr, ROk, RStr, RVec};
use bottle_api::{
    ArtifactRequest, Error, ErrorKind, LedgerEntry, Progress, Result,
    abi::{AbiResult, HostServices, JsonBuf, JsonRef},
};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Directories to look for artifacts in first, absolute.
const ARTIFACT_ENV: &str = "CLAUDE_BOTTLE_ARTIFACT_PATH";

/// What every backend of this process is lent.
pub struct Services {
    /// The most verbose level shown: 1 error … 5 trace.
    pub log_level: u32,
    ledgers: Mutex<HashMap<String, Arc<Ledger>>>,
    heard: Mutex<Instant>,
}

impl Services {
    /// Shows log lines up to the level that `BOTTLE_LOG` names.
    pub fn from_env() -> Arc<Self> {
        let level = std::env::var("BOTTLE_LOG").ok().and_then(|level| level.parse().ok());
        let heard = Mutex::new(Instant::now());
        Arc::new(Self { log_level: level.unwrap_or(2), ledgers: Mutex::default(), heard })
    }

    /// From now on, the ledger of that bottle.
    pub fn keep_ledger(&self, identity: &str, ledger: Arc<Ledger>) {
        self.ledgers().insert(identity.to_owned(), ledger);
    }

    /// When a plugin last called back.
    pub(super) fn last_heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ledgers(&self) -> MutexGuard<'_, HashMap<String, Arc<Ledger>>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self, identity: &str) -> Option<Arc<Ledger>> {
        self.ledgers().get(identity).cloned()
    }
}

/// [`Services`] as the ABI's object.
pub(super) struct Lent(pub(super) Arc<Services>);

impl HostServices for Lent {
    fn log(&self, level: u32, target: RStr<'_>, message: RStr<'_>) {
        self.0.hear();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if level <= self.0.log_level {
                let word = ["", "error", "warning", "info", "debug", "trace"].get(level as usize).unwrap_or(&"trace");
                match level {
                    0..=2 => ui::say(format!("{word}: {message}")),
                    _ => ui::say(format!("{word} {target}: {message}")),
                }
            }
        }));
    }

    fn progress(&self, event: JsonRef<'_>) {
        self.0.hear();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if let Ok(event) = serde_json::from_slice::<Progress>(event.as_slice())
                && !event.done
            {
                ui::progress(&event.step, &event.detail);
            }
        }));
    }

    fn ledger_intent(&self, req: JsonRef<'_>) -> AbiResult<JsonBuf> {
        self.0.hear();
        contained(|| {
            let entry: LedgerEntry = read(req)?;
            let ledger = self.0.ledger(&entry.identity).ok_or_else(|| {
                Error::new(ErrorKind::PROTOCOL, format!("there is no ledger for the bottle {}", entry.identity))
            })?;
            Ok(serde_json::to_vec(&ledger.intent(entry)?)?.into())
        })
    }

    fn ledger_created(&self, req: JsonRef<'_>) -> AbiResult<()> {
        self.0.hear();
        contained(|| {
            let entry: LedgerEntry = read(req)?;
            self.0.ledger(&entry.identity).map_or(Ok(()), |ledger| ledger.created(&entry))
        })
    }

    fn ledger_gone(&self, req: JsonRef<'_>) -> AbiResult<()> {
        self.0.hear();
        contained(|| {
            let entry: LedgerEntry = read(req)?;
            self.0.ledger(&entry.identity).map_or(Ok(()), |ledger| ledger.gone(&entry))
        })
    }

    fn artifact(&self, req: JsonRef<'_>) -> AbiResult<RVec<u8>> {
        self.0.hear();
        contained(|| Ok(RVec::from(artifact(&read(req)?)?.as_os_str().as_bytes().to_vec())))
    }
}

/// `<prefix>/libexec/bottle/<name>-<amd64|arm64>`, held to the same rules as a plugin.
fn artifact(req: &ArtifactRequest) -> Result<PathBuf> {
    let arch = req.platform.rsplit('/').next().unwrap_or_default();
    let file = format!("{}-{arch}", req.name);
    let listed = std::env::var_os(ARTIFACT_ENV);
    let dirs = listed.iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute());
    let path = dirs
        .chain(discover::beside_program("libexec/bottle"))
        .map(|dir| dir.join(&file))
        .find(|path| path.exists())
        .ok_or_else(|| {
            Error::new(ErrorKind::NOT_FOUND, format!("{file} did not come with this bottle"))
                .hint("Install the whole package; in a checkout run `cargo xtask stage`.")
        })?;
    trust::open_trusted(&path)
        .map_err(|e| Error::new(ErrorKind::PREREQUISITE, format!("use {}: {e:#}", path.display())))?;
    Ok(path)
}

fn read<T: DeserializeOwned>(json: JsonRef<'_>) -> Result<T> {
    serde_json::from_slice(json.as_slice())
        .map_err(|e| Error::new(ErrorKind::PROTOCOL, format!("the backend sent an unreadable request: {e}")))
}

fn contained<T>(f: impl FnOnce() -> Result<T>) -> AbiResult<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => ROk(value),
        Ok(Err(error)) => RErr(error.into()),
        Err(_) => RErr(Error::new(ErrorKind::PANIC, "the host panicked in a call from the backend").into()),
    }
}
