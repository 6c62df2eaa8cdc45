//! May this file be loaded at all? Decided from the file alone: loading a shared library runs its constructors, and a
//! cut one ends the process with SIGBUS.

use super::{discover::name_of, sealed::sealed, trust::open_trusted};
use crate::ui::printable;
use anyhow::{Context, Result, anyhow, bail};
use bottle_api::descriptor::{Descriptor, FLAG_PANIC_UNWIND, SECTION, TARGET};
use object::{
    Endianness, FileKind, Object, ObjectSection, elf,
    read::{
        ReadCache,
        elf::{Dyn, ElfFile64, FileHeader, ProgramHeader},
    },
};
use std::{fs::File, io::ErrorKind, path::Path};

/// Lists the hashes of the files beside it, as `b3sum` does (BLAKE3: every start of bottle hashes megabytes, and SHA-256
/// takes three times as long); where it exists, nothing that it does not list is loaded.
pub const SUMS: &str = "B3SUMS";

/// A plugin that may be loaded.
pub struct Vetted {
    /// The backend's name.
    pub name: String,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// The library, sealed: what was vetted, and not the file it came from, which may change.
    pub library: File,
}

/// Vets a file: who may write it, whether it is whole, whether it is the one that was installed, and whether it was
/// built for this host.
pub fn vet(path: &Path) -> Result<Vetted> {
    let file = open_trusted(path)?;
    let listed = listed_sum(path)?;
    let (library, sum) = sealed(file, listed.is_some())?;
    if sum != listed {
        bail!("it is not the file that {SUMS} beside it was written for");
    }
    let descriptor = read_descriptor(&library)?;
    let name = check_descriptor(&descriptor, path)?;
    Ok(Vetted { name, descriptor, library })
}

/// The hash that it must have. None where nothing beside it says so.
fn listed_sum(path: &Path) -> Result<Option<String>> {
    let sums = match std::fs::read_to_string(path.with_file_name(SUMS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        sums => sums.with_context(|| format!("read {SUMS} beside it"))?,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some((sum, _)) = sums.lines().filter_map(|line| line.split_once("  ")).find(|(_, file)| *file == name) else {
        bail!("{SUMS} beside it does not list it");
    };
    Ok(Some(sum.into()))
}

fn read_descriptor(library: &File) -> Result<Descriptor> {
    let bytes = &ReadCache::new(library);
    match FileKind::parse(bytes) {
        Ok(FileKind::Elf64) => {}
        Ok(FileKind::Elf32) => bail!("it is built for another processor"),
        _ => bail!("it is no shared library"),
    }
    let unreadable = |e| anyhow!("it is no shared library: {e}");
    let header = elf::FileHeader64::<Endianness>::parse(bytes).map_err(unreadable)?;
    let endian = header.endian().map_err(unreadable)?;
    let machine = if cfg!(target_arch = "x86_64") { elf::EM_X86_64 } else { elf::EM_AARCH64 };
    if header.e_machine(endian) != machine {
        bail!("it is built for another processor");
    }
    let (end, length) = (end(header, endian, bytes), library.metadata()?.len());
    if end > length {
        bail!("it is cut short: it should have {end} bytes at least, and has {length}");
    }
    let file = ElfFile64::<Endianness, _>::parse(bytes).map_err(unreadable)?;
    check_linking(&file)?;
    let section = file.section_by_name(SECTION).context("it is no bottle backend: it has no plugin descriptor")?;
    Descriptor::parse(section.data()?).context("its plugin descriptor has a format that this bottle does not know")
}

/// What it is linked with comes from the system: a path of its own could lead to the working directory.
fn check_linking<'a>(file: &ElfFile64<'a, Endianness, &'a ReadCache<&File>>) -> Result<()> {
    let (endian, data) = (file.endian(), file.data());
    let table = file.elf_section_table();
    let Ok(Some((entries, link))) = table.dynamic(endian, data) else { return Ok(()) };
    let strings = table.strings(endian, data, link).map_err(|e| anyhow!("it is no shared library: {e}"))?;
    for entry in entries {
        let tag = entry.d_tag(endian);
        let text = || {
            let bytes = entry.val32(endian).and_then(|at| strings.get(at).ok());
            bytes.map(String::from_utf8_lossy).unwrap_or_default()
        };
        if [u64::from(elf::DT_RPATH), u64::from(elf::DT_RUNPATH)].contains(&tag) {
            bail!("it looks for libraries in `{}`: link it without a path (-rpath)", printable(&text()));
        }
        if tag == u64::from(elf::DT_NEEDED) && text().contains('/') {
            bail!("it is linked with the file `{}`: link it by name", printable(&text()));
        }
    }
    Ok(())
}

/// Where a whole file ends, as far as it can still be told: behind its tables and what is mapped of it.
fn end(header: &elf::FileHeader64<Endianness>, endian: Endianness, bytes: &ReadCache<&File>) -> u64 {
    let table = |offset: u64, size: u16, count: u16| offset.saturating_add(u64::from(size) * u64::from(count));
    let tables = [
        table(header.e_phoff(endian), header.e_phentsize(endian), header.e_phnum(endian)),
        table(header.e_shoff(endian), header.e_shentsize(endian), header.e_shnum(endian)),
    ];
    let segments = header.program_headers(endian, bytes).unwrap_or_default().iter();
    let mapped = segments
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .map(|segment| segment.p_offset(endian).saturating_add(segment.p_filesz(endian)));
    mapped.chain(tables).max().unwrap_or_default()
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
