//! May this file be loaded at all? Decided from the file alone: loading a shared library runs its constructors, and a
//! cut one ends the process with SIGBUS.

use super::discover::name_of;
pub use super::trust::read_trusted;
use anyhow::{Context, Result, bail};
use bottle_api::descriptor::{Descriptor, FLAG_PANIC_UNWIND, SECTION, TARGET};
use object::{
    Endianness, Object, ObjectSection, elf,
    read::elf::{ElfFile64, FileHeader, ProgramHeader},
};
use sha2::{Digest, Sha256};
use std::{io::ErrorKind, path::Path};

/// Lists the hashes of the files beside it; where it exists, nothing that it does not list is loaded.
pub const SUMS: &str = "SHA256SUMS";

/// A plugin that may be loaded: its bytes, and not the file that they were read from, which may change.
pub struct Vetted {
    /// The backend's name.
    pub name: String,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// The whole library.
    pub bytes: Vec<u8>,
}

/// Vets a file: who may write it, whether it is whole, whether it is the one that was installed, and whether it was
/// built for this host.
pub fn vet(path: &Path) -> Result<Vetted> {
    let bytes = read_trusted(path)?;
    check_sums(path, &bytes)?;
    let descriptor = read_descriptor(&bytes)?;
    let name = check_descriptor(&descriptor, path)?;
    Ok(Vetted { name, descriptor, bytes })
}

fn check_sums(path: &Path, bytes: &[u8]) -> Result<()> {
    let sums = match std::fs::read_to_string(path.with_file_name(SUMS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        sums => sums.with_context(|| format!("read {SUMS} beside it"))?,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match sums.lines().filter_map(|line| line.split_once("  ")).find(|(_, file)| *file == name) {
        Some((sum, _)) if *sum == format!("{:x}", Sha256::digest(bytes)) => Ok(()),
        Some(_) => bail!("it is not the file that {SUMS} beside it was written for"),
        None => bail!("{SUMS} beside it does not list it"),
    }
}

fn read_descriptor(bytes: &[u8]) -> Result<Descriptor> {
    let file = ElfFile64::<Endianness>::parse(bytes).map_err(|e| anyhow::anyhow!("it is no shared library: {e}"))?;
    let endian = file.endian();
    let machine = if cfg!(target_arch = "x86_64") { elf::EM_X86_64 } else { elf::EM_AARCH64 };
    if file.elf_header().e_machine(endian) != machine {
        bail!("it is built for another processor");
    }
    for segment in file.elf_program_headers() {
        let end = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
        if segment.p_type(endian) == elf::PT_LOAD && end > bytes.len() as u64 {
            bail!("it is cut short: it should have {end} bytes at least, and has {}", bytes.len());
        }
    }
    let section = file.section_by_name(SECTION).context("it is no bottle backend: it has no plugin descriptor")?;
    Descriptor::parse(section.data()?).context("its plugin descriptor has a format that this bottle does not know")
}

fn check_descriptor(theirs: &Descriptor, path: &Path) -> Result<String> {
    let ours = Descriptor::new("host", "");
    if theirs.api[0] != ours.api[0] {
        bail!(
            "it is built for bottle-api {}.{}, this bottle speaks {}.{}",
            theirs.api[0],
            theirs.api[1],
            ours.api[0],
            ours.api[1]
        );
    }
    if theirs.abi_stable[..2] != ours.abi_stable[..2] {
        bail!(
            "it uses abi_stable {}.{}, this bottle {}.{}",
            theirs.abi_stable[0],
            theirs.abi_stable[1],
            ours.abi_stable[0],
            ours.abi_stable[1]
        );
    }
    let target = Descriptor::text(&theirs.target);
    if target != TARGET {
        bail!("it is built for {target}, this bottle for {TARGET}");
    }
    if theirs.flags & FLAG_PANIC_UNWIND == 0 {
        bail!("it is built with panic=abort: a panic in it would end bottle without a teardown");
    }
    let name = theirs.backend().context("the name in its plugin descriptor is no backend's name")?;
    if name_of(path) != Some(name) {
        bail!("it calls itself `{name}`, its file name says otherwise");
    }
    Ok(name.to_owned())
}
