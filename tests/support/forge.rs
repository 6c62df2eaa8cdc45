//! Makes bad plugin files: a witness whose constructor leaves a mark, and whose bytes are then changed.

use crate::lab::{output, stage};
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// Begins a plugin's descriptor.
pub const MAGIC: &[u8] = b"BOTLPLG\x01";
/// The symbol that a plugin exports.
pub const ROOT_MODULE: &[u8] = b"_1as_0lib_1header_0root_bmodule_bloader";
const ABI_MAGIC: &[u8] = b"abi stable library for Rust";

/// Where things are in a descriptor (`bottle_api::descriptor::Descriptor`).
pub mod at {
    /// Its size in bytes.
    pub const SIZE: usize = 8;
    /// How it was built.
    pub const FLAGS: usize = 12;
    /// bottle-api's major version.
    pub const API_MAJOR: usize = 16;
    /// abi_stable's minor version.
    pub const ABI_STABLE_MINOR: usize = 26;
    /// The backend's name.
    pub const NAME: usize = 32;
    /// The target's triple.
    pub const TARGET: usize = 96;
}

/// The files that bad ones are made from.
pub struct Forge {
    witness: Vec<u8>,
    /// The same, linked to look for libraries in the working directory.
    astray: Vec<u8>,
    second: Vec<u8>,
    _dir: TempDir,
}

impl Forge {
    /// Compiles the witness, with the descriptor and the ABI header of a real plugin.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let second = fs::read(stage().with_file_name("second/libbottle_backend_second.so"))?;
        let (descriptor, header) = (find(&second, MAGIC)?, find(&second, ABI_MAGIC)?);
        let mut orders = b"ORDERS|".to_vec();
        orders.resize(256, 0);
        let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        for (name, bytes) in [
            ("DESCRIPTOR", &second[descriptor..][..224]),
            ("HEADER", &second[header..][..40]),
            ("ORDERS", orders.as_slice()),
        ] {
            let file = dir.path().join(name);
            fs::write(&file, bytes)?;
            command.env(name, file);
        }
        let library = dir.path().join("witness.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bad-plugins/witness.rs");
        command.args(["--edition=2024", "--crate-type=cdylib", "-Cstrip=symbols", "-Copt-level=1", "-o"]);
        output(command.arg(&library).arg(source))?;
        let witness = fs::read(&library)?;
        output(command.args(["-Clink-arg=-Wl,-rpath,.", "-Clink-arg=-Wl,--enable-new-dtags"]))?;
        Ok(Self { witness, astray: fs::read(library)?, second, _dir: dir })
    }

    /// A witness that may be called what its file is called, with these orders.
    pub fn witness(&self, file: &Path, deed: &str) -> Result<Vec<u8>> {
        Self::ordered(self.witness.clone(), file, deed)
    }

    /// The witness that looks for libraries in the working directory.
    pub fn astray(&self, file: &Path) -> Result<Vec<u8>> {
        Self::ordered(self.astray.clone(), file, "none")
    }

    fn ordered(mut bytes: Vec<u8>, file: &Path, deed: &str) -> Result<Vec<u8>> {
        let orders = find(&bytes, b"ORDERS|")?;
        let text = format!("ORDERS|{deed}|{}|", mark(file).display());
        bytes[orders..][..text.len()].copy_from_slice(text.as_bytes());
        rename(&mut bytes, name_of(file).as_bytes())?;
        Ok(bytes)
    }

    /// A real backend under another name.
    pub fn renamed(&self, file: &Path) -> Result<Vec<u8>> {
        let mut bytes = self.second.clone();
        rename(&mut bytes, name_of(file).as_bytes())?;
        Ok(bytes)
    }
}

/// Where a witness leaves its mark.
pub fn mark(file: &Path) -> PathBuf {
    file.with_extension("mark")
}

/// The name that a plugin's file promises.
pub fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.trim_start_matches("libbottle_backend_").to_owned()
}

/// Writes a file as a plugin is installed.
pub fn install(file: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(file, bytes)?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
}

/// Puts a name into a plugin's descriptor.
pub fn rename(bytes: &mut [u8], name: &[u8]) -> Result<()> {
    let mut field = [0; 32];
    field[..name.len()].copy_from_slice(name);
    describe(bytes, at::NAME, &field)
}

/// Writes into a plugin's descriptor.
pub fn describe(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    let descriptor = find(bytes, MAGIC)?;
    bytes[descriptor + at..][..value.len()].copy_from_slice(value);
    Ok(())
}

/// Writes over every occurrence of some bytes, of which there is one at least.
pub fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> Result<()> {
    find(bytes, from)?;
    while let Ok(at) = find(bytes, from) {
        bytes[at..][..to.len()].copy_from_slice(to);
    }
    Ok(())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Result<usize> {
    let found = bytes.windows(wanted.len()).position(|window| window == wanted);
    found.with_context(|| format!("`{}` is not in the file", wanted.escape_ascii()))
}
