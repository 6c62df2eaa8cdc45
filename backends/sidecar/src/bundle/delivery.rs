//! A program that comes over the control channel, kept in memory that can be run and, once it is whole, not changed.

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
};
use std::{fs::File, io::Write, os::fd::OwnedFd};

const MAX_BYTES: usize = 256 << 20;

/// What has come of it so far.
#[derive(Default)]
pub(super) struct Delivery {
    coming: Option<(File, usize)>,
    whole: Option<OwnedFd>,
}

impl Delivery {
    /// Another piece, in base64.
    pub(super) fn add(&mut self, piece: &str) -> Result<()> {
        let piece = BASE64_STANDARD.decode(piece).context("a piece of a program is not base64")?;
        if self.coming.is_none() {
            self.coming = Some((executable_memory()?, 0));
        }
        if let Some((memory, bytes)) = &mut self.coming {
            *bytes += piece.len();
            if *bytes > MAX_BYTES {
                bail!("a program has {} MiB at most", MAX_BYTES >> 20);
            }
            memory.write_all(&piece).context("keep a program in memory")?;
        }
        Ok(())
    }

    /// It is whole.
    pub(super) fn seal(&mut self) -> Result<()> {
        let (memory, _) = self.coming.take().context("no program came")?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals).context("seal a program's memory")?;
        self.whole = Some(memory.into());
        Ok(())
    }

    /// The whole of it.
    pub(super) fn program(&self) -> Option<&OwnedFd> {
        self.whole.as_ref()
    }
}

fn executable_memory() -> Result<File> {
    let create = |flags| memfd_create("pipelock", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags);
    // A kernel before 6.3 does not know EXEC, and needs none.
    let memory = create(MemfdFlags::EXEC).or_else(|errno| match errno {
        Errno::INVAL => create(MemfdFlags::empty()),
        errno => Err(errno),
    });
    Ok(memory.context("make memory that can be run (`sysctl vm.memfd_noexec` is 1 at most)")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn pieces_become_a_whole_that_does_not_change() {
        let mut delivery = Delivery::default();
        assert!(delivery.seal().is_err() && delivery.add("no base64!").is_err());
        for piece in ["pieces of ", "", "a program"] {
            delivery.add(&BASE64_STANDARD.encode(piece)).unwrap();
            assert!(delivery.program().is_none());
        }
        delivery.seal().unwrap();
        let mut memory: File = delivery.program().unwrap().try_clone().unwrap().into();
        let mut text = String::new();
        memory.rewind().unwrap();
        memory.read_to_string(&mut text).unwrap();
        assert_eq!(text, "pieces of a program");
        assert!(memory.write_all(b"x").is_err() && memory.set_len(0).is_err());
    }
}
