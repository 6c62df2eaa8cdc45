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
const CHUNK: usize = 64 << 10;

/// Copies a file to memory that can be run, and seals it. With its BLAKE3 hash in hexadecimal, if that is wanted.
pub fn sealed(file: File, hashed: bool) -> Result<(File, Option<String>)> {
    if file.metadata()?.len() > MAX_BYTES {
        bail!("it has more than {} MiB, which no plugin has", MAX_BYTES >> 20);
    }
    let mut memory = executable_memory()?;
    let (mut file, mut chunk) = (file.take(MAX_BYTES), vec![0; CHUNK]);
    let mut hash = hashed.then(blake3::Hasher::new);
    // In one pass, each chunk while it is in the processor's cache.
    loop {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        memory.write_all(&chunk[..length]).context("copy it to memory")?;
        if let Some(hash) = &mut hash {
            hash.update(&chunk[..length]);
        }
    }
    seal(&memory).context("seal its memory")?;
    memory.rewind()?;
    Ok((memory, hash.map(|hash| hash.finalize().to_hex().to_string())))
}

/// `FUTURE_WRITE` and not `WRITE`: the kernel grants that one only once it has seen that nobody holds any page, and calls
/// a page that it is itself about to move somebody's (`EBUSY`). What it looks for, a writable mapping or a write under
/// way, cannot be: the memory is new, and was only ever written by this function's caller.
fn seal(memory: &File) -> rustix::io::Result<()> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(memory, seals | SealFlags::FUTURE_WRITE).or_else(|errno| match errno {
        // A kernel before 5.1.
        Errno::INVAL => fcntl_add_seals(memory, seals | SealFlags::WRITE),
        errno => Err(errno),
    })
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
    fn what_is_sealed_stays_as_it_was_whatever_becomes_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "as vetted").unwrap();
        let (mut memory, sum) = sealed(File::open(&file).unwrap(), true).unwrap();
        std::fs::write(&file, "changed").unwrap();
        let mut kept = String::new();
        memory.read_to_string(&mut kept).unwrap();
        assert_eq!((kept.as_str(), sum), ("as vetted", Some(blake3::hash(b"as vetted").to_hex().to_string())));
        assert!(memory.write_all(b"x").is_err() && memory.set_len(0).is_err() && memory.set_len(99).is_err());
    }
}
