//! Keeps a plugin's panics inside the plugin: every entry point and every drop runs under `catch_unwind`.
//!
//! Without it abi_stable ends the whole process with `exit(1)`: no destructor of the host would run, and the
//! bottle would be left behind.
#![allow(unsafe_code)]

use crate::{
    abi::{AbiResult, HostServicesRef},
    error::{Error, ErrorKind, Result},
    host::Host,
    request::CreateConfig,
};
use abi_stable::std_types::{RErr, ROk};
use std::{
    any::Any,
    backtrace::Backtrace,
    cell::RefCell,
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
    sync::{Arc, OnceLock},
};

thread_local! { static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) }; }
static HOST: OnceLock<(Host, CreateConfig)> = OnceLock::new();

/// Points this library's own copies of `std` and `log` at the host.
pub(crate) fn adopt_host(services: HostServicesRef, config: CreateConfig) -> Host {
    let (host, config) = HOST.get_or_init(|| (Host(Arc::new(services)), config));
    if log::set_logger(&Bridge).is_ok() {
        log::set_max_level(level_filter(config.log_level));
    }
    std::panic::set_hook(Box::new(report_panic));
    host.clone()
}

struct Bridge;

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        HOST.get().is_some_and(|(_, c)| metadata.level() as u32 <= c.log_level)
    }

    fn log(&self, record: &log::Record<'_>) {
        if let (true, Some((host, _))) = (self.enabled(record.metadata()), HOST.get()) {
            host.log(record.level(), record.target(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn level_filter(level: u32) -> log::LevelFilter {
    log::LevelFilter::iter().nth(level as usize).unwrap_or(log::LevelFilter::Trace)
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    let text = format!("{}{place}", payload_text(info.payload()));
    if let Some((host, config)) = HOST.get() {
        host.log(log::Level::Debug, "panic", &text);
        if config.backtrace {
            host.log(log::Level::Debug, "panic", &Backtrace::force_capture().to_string());
        }
    }
    LAST_PANIC.with(|last| *last.borrow_mut() = Some(text));
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Runs an entry point; a panic in it becomes an error of kind [`ErrorKind::PANIC`].
pub(crate) fn guard<T>(f: impl FnOnce() -> Result<T>) -> AbiResult<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => ROk(value),
        Ok(Err(error)) => RErr(error.into()),
        Err(payload) => {
            contain(move || drop(payload)); // a payload's own Drop may panic too
            let text = LAST_PANIC.with(|last| last.borrow_mut().take()).unwrap_or_default();
            let error = Error::new(ErrorKind::PANIC, format!("the backend panicked: {text}"))
                .hint("This is a bug in the backend plugin: report it to its author.");
            RErr(error.into())
        }
    }
}

/// Runs something whose panic nobody can be told of.
pub(crate) fn contain(f: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(f));
}

/// A value of the plugin's whose `Drop` may panic without harm.
pub(crate) struct Guarded<T>(ManuallyDrop<T>);

impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }

    pub(crate) fn take(mut self) -> T {
        // SAFETY: `self` is forgotten right away, so its Drop never sees the moved-out value.
        let value = unsafe { ManuallyDrop::take(&mut self.0) };
        std::mem::forget(self);
        value
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: dropped exactly once, here; `take` forgets `self` instead.
        contain(|| unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

impl<T> std::ops::Deref for Guarded<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
