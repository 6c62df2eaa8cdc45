//! Memory that holds a file's bytes and can no longer change.
//!
//! A plugin is judged and loaded from here, not from its file: what is loaded is what was vetted, whoever swaps the file
//! in between, and a file that is written over later does not end the process (SIGBUS).

use crate::ui::hinted;
use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
};
use std::{
    fs::File,
    io::{Read, Seek, Write},
};

const MAX_BYTES: u64 = 512 << 20;

/// What a file holds.
pub fn contents(file: File) -> Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > MAX_BYTES {
        bail!("it has more than {} MiB, which no plugin has", MAX_BYTES >> 20);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length)?);
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Copies bytes to memory that can be run, and seals it.
pub fn sealed(bytes: &[u8]) -> Result<File> {
    let mut memory = executable_memory()?;
    memory.write_all(bytes).context("copy it to memory")?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).context("seal its memory")?;
    memory.rewind()?;
    Ok(memory)
}

fn executable_memory() -> Result<File> {
    let create = |flags| memfd_create("bottle-backend", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags);
    // A kernel before 6.3 does not know EXEC, and needs none.
    let memory = create(MemfdFlags::EXEC).or_else(|errno| match errno {
        Errno::INVAL => create(MemfdFlags::empty()),
        errno => Err(errno),
    });
    match memory {
        Ok(memory) => Ok(memory.into()),
        Err(Errno::ACCESS) => Err(hinted(
            "this system forbids running code from memory, and bottle loads a backend in no other way",
            "Ask its administrator for `sysctl vm.memfd_noexec=1`.",
        )),
        Err(errno) => Err(anyhow!("make memory for it: {errno}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_stays_as_it_was() {
        let mut memory = sealed(b"as vetted").unwrap();
        let mut kept = String::new();
        memory.read_to_string(&mut kept).unwrap();
        assert_eq!(kept, "as vetted");
        assert!(memory.write_all(b"x").is_err() && memory.set_len(0).is_err() && memory.set_len(99).is_err());
    }
}
