//! `drive VERB`: one verb of the scripted backend through the host's own side of the ABI, for those that no command
//! of the host needs alone.
#![allow(clippy::print_stdout)] // its answer

use anyhow::{Context, Result, bail};
use bottle_api::{AttachRequest, BottleSpec, GetRequest, PutRequest, StartRequest};
use bottle_host::{
    paths::Paths,
    plugin::{self, Bottle, Process, Services, discover, vet},
    signals::Cancellation,
};
use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

fn main() -> Result<()> {
    let verb = std::env::args().nth(1).context("usage: drive VERB IDENTITY")?;
    let identity = std::env::args().nth(2).context("usage: drive VERB IDENTITY")?;
    let cancel = Cancellation::install()?;
    let file =
        discover::discover().remove("scripted").and_then(|mut files| files.pop()).context("no scripted backend")?;
    // No child goes first: this program cannot play it.
    let backend = plugin::start(vet::vet(&file)?, &Services::from_env())?;
    if verb == "prepare-nothing" {
        backend.prepare(&BottleSpec::default(), "/nowhere".as_ref(), cancel.fd())?;
    }
    let req = AttachRequest { identity, owner: Paths::from_env()?.owner(), env: backend.env() };
    let bottle = backend.attach(&req, cancel.fd())?;
    match verb.as_str() {
        "attach" => {}
        "describe" => drop(bottle.describe()?),
        "put" => bottle.put(&PutRequest::default(), null()?, cancel.fd())?,
        "get" => bottle.get(&GetRequest::default(), null()?, cancel.fd())?,
        "detach" | "drop-bottle" => bottle.detach()?,
        "resize" => start(&bottle, &cancel)?.resize(80, 24)?,
        "signal" => start(&bottle, &cancel)?.signal(15)?,
        "start" | "drop-process" => drop(start(&bottle, &cancel)?),
        _ => bail!("no verb `{verb}`"),
    }
    println!("done");
    Ok(())
}

fn start(bottle: &Bottle, cancel: &Cancellation) -> Result<Process> {
    let (stdin, stdout) = (null()?, null()?);
    bottle.start(&StartRequest::default(), stdin.as_fd(), stdout.as_fd(), None, cancel.fd())
}

fn null() -> Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}
