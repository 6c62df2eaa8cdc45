//! May this file be loaded at all? Decided from the file alone: loading a shared library runs its constructors, and a
//! cut one ends the process with SIGBUS.

use super::discover::name_of;
use anyhow::{Context, Result, bail};
use bottle_api::descriptor::{Descriptor, FLAG_PANIC_UNWIND, SECTION, TARGET};
use object::{
    Endianness, Object, ObjectSection, elf,
    read::elf::{ElfFile64, FileHeader, ProgramHeader},
};
use sha2::{Digest, Sha256};
use std::{
    fs::{File, Metadata},
    io::{ErrorKind, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Lists the hashes of the files beside it; where it exists, nothing that it does not list is loaded.
pub const SUMS: &str = "SHA256SUMS";
const MAX_BYTES: u64 = 512 << 20;

/// A file that may be loaded.
pub struct Vetted {
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself.
    pub descriptor: Descriptor,
}

impl Vetted {
    /// The backend's name.
    pub fn name(&self) -> String {
        Descriptor::text(&self.descriptor.name)
    }
}

/// Vets a file: who may write it, whether it is whole, whether it is the one that was installed, and whether it was
/// built for this host.
pub fn vet(path: &Path) -> Result<Vetted> {
    // What a link leads to is what is judged, and what is loaded.
    let path = &path.canonicalize()?;
    let bytes = read_trusted(path)?;
    let sha256 = format!("{:x}", Sha256::digest(&bytes));
    check_sums(path, &sha256)?;
    let descriptor = read_descriptor(&bytes)?;
    check_descriptor(&descriptor, path)?;
    Ok(Vetted { path: path.to_owned(), descriptor })
}

/// Reads a file that nobody but root and this user can have written, nor any directory above it.
pub fn read_trusted(path: &Path) -> Result<Vec<u8>> {
    let dir = path.parent().unwrap_or(Path::new("/")).canonicalize().context("its directory")?;
    for above in dir.ancestors() {
        check_writers(&format!("the directory {}", above.display()), &std::fs::metadata(above)?)?;
    }
    // A FIFO would wait for a writer.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("it is not a regular file");
    }
    check_writers("the file", &metadata)?;
    if metadata.len() > MAX_BYTES {
        bail!("it has {} bytes, more than any plugin", metadata.len());
    }
    let mut bytes = vec![];
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_writers(what: &str, metadata: &Metadata) -> Result<()> {
    let (me, my_group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if metadata.uid() != 0 && metadata.uid() != me {
        bail!("{what} belongs to user {}, neither root nor you", metadata.uid());
    }
    let sticky_dir = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
    let own_group = metadata.uid() == me && metadata.gid() == my_group;
    if metadata.mode() & 0o002 != 0 && !sticky_dir {
        bail!("{what} may be written by everybody (`chmod o-w` it)");
    }
    if metadata.mode() & 0o020 != 0 && !sticky_dir && !own_group {
        bail!("{what} may be written by group {} (`chmod g-w` it)", metadata.gid());
    }
    Ok(())
}

fn check_sums(path: &Path, sha256: &str) -> Result<()> {
    let sums = match std::fs::read_to_string(path.with_file_name(SUMS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        sums => sums.with_context(|| format!("read {SUMS} beside it"))?,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match sums.lines().filter_map(|line| line.split_once("  ")).find(|(_, file)| *file == name) {
        Some((sum, _)) if sum == sha256 => Ok(()),
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

fn check_descriptor(theirs: &Descriptor, path: &Path) -> Result<()> {
    let ours = Descriptor::new("", "");
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
    let name = Descriptor::text(&theirs.name);
    match name_of(path) {
        Some(promised) if promised == name => Ok(()),
        _ => bail!("it calls itself `{name}`, its file name says otherwise"),
    }
}
