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
    io::{self, Read, Seek},
};

const MAX_BYTES: u64 = 512 << 20;

/// Copies a file to memory that can be run, and seals it.
pub fn sealed(file: File) -> Result<File> {
    if file.metadata()?.len() > MAX_BYTES {
        bail!("it has more than {} MiB, which no plugin has", MAX_BYTES >> 20);
    }
    let mut memory = executable_memory()?;
    io::copy(&mut file.take(MAX_BYTES), &mut memory).context("copy it to memory")?;
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
    use std::io::Write;

    #[test]
    fn what_is_sealed_stays_as_it_was_whatever_becomes_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "as vetted").unwrap();
        let mut memory = sealed(File::open(&file).unwrap()).unwrap();
        std::fs::write(&file, "changed").unwrap();
        let mut kept = String::new();
        memory.read_to_string(&mut kept).unwrap();
        assert_eq!(kept, "as vetted");
        assert!(memory.write_all(b"x").is_err() && memory.set_len(0).is_err() && memory.set_len(99).is_err());
    }
}
