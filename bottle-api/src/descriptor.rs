//! A fixed-layout, relocation-free record in an ELF section of its own, so that the host can read from the *file*
//! who a plugin is, and refuse it, before any of its code runs.
#![allow(unsafe_code)]

/// The record's first bytes; the last one is its format's version.
pub const MAGIC: [u8; 8] = *b"BOTLPLG\x01";
/// The ELF section that holds it.
pub const SECTION: &str = ".bottle_plugin";
/// Set where the plugin unwinds on panic. The host refuses it otherwise: a panic would end the host.
pub const FLAG_PANIC_UNWIND: u32 = 1;
/// The target triple that this crate was built for.
pub const TARGET: &str = env!("BOTTLE_TARGET");

/// The record. All integers little-endian, all texts NUL-padded UTF-8.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Descriptor {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Size of the record in bytes; a newer writer may append.
    pub size: u32,
    /// [`FLAG_PANIC_UNWIND`].
    pub flags: u32,
    /// Version of bottle-api: major, minor, patch, 0.
    pub api: [u16; 4],
    /// Version of abi_stable: major, minor, 0, 0.
    pub abi_stable: [u16; 4],
    /// The backend's name.
    pub name: [u8; 32],
    /// The plugin's version.
    pub version: [u8; 32],
    /// Its target triple.
    pub target: [u8; 48],
    /// The compiler that built it.
    pub rustc: [u8; 80],
}

/// Is this a backend's name? It stands in a file's name and on command lines.
pub const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if !matches!(bytes[i], b'a'..=b'z' | b'0'..=b'9' | b'_') {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty() && bytes.len() < 32 && bytes[0] != b'_'
}

impl Descriptor {
    /// The record of a plugin built with this very crate. A name that is none fails the build.
    #[track_caller]
    pub const fn new(name: &str, version: &str) -> Self {
        assert!(
            is_name(name),
            "a backend's name is made of a-z, 0-9 and `_`, does not begin with `_`, and has 31 characters at most"
        );
        assert!(version.len() < 32, "a backend's version has 31 characters at most");
        Self {
            magic: MAGIC,
            size: size_of::<Self>() as u32,
            flags: if cfg!(panic = "unwind") { FLAG_PANIC_UNWIND } else { 0 },
            api: [
                number(env!("CARGO_PKG_VERSION_MAJOR")),
                number(env!("CARGO_PKG_VERSION_MINOR")),
                number(env!("CARGO_PKG_VERSION_PATCH")),
                0,
            ],
            abi_stable: [0, 11, 0, 0],
            name: padded(name),
            version: padded(version),
            target: padded(TARGET),
            rustc: padded(env!("BOTTLE_RUSTC")),
        }
    }

    /// Reads the section's bytes. `None` where they are no such record.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() || bytes[..8] != MAGIC {
            return None;
        }
        // SAFETY: the length was checked, and every bit pattern of the fields is a valid value.
        let record = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<Self>()) };
        (record.size as usize >= size_of::<Self>()).then_some(record)
    }

    /// The backend's name, where it is one: the file is not trusted yet.
    pub fn backend(&self) -> Option<&str> {
        let (name, padding) = self.name.split_at(self.name.iter().position(|b| *b == 0)?);
        let name = std::str::from_utf8(name).ok()?;
        (is_name(name) && padding.iter().all(|b| *b == 0)).then_some(name)
    }

    /// One of the record's other texts, without control characters.
    pub fn text(field: &[u8]) -> String {
        let len = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..len]).chars().filter(|c| !c.is_control()).collect()
    }
}

const fn padded<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    let mut out = [0; N];
    let mut i = 0;
    while i < bytes.len() && i < N - 1 {
        out[i] = bytes[i];
        i += 1;
    }
    out
}

const fn number(text: &str) -> u16 {
    let bytes = text.as_bytes();
    let (mut value, mut i) = (0, 0);
    while i < bytes.len() {
        value = value * 10 + (bytes[i] - b'0') as u16;
        i += 1;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let d = Descriptor::new("docker", "1.2.3");
        // SAFETY: plain old data, read as the bytes it is.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const d).cast::<u8>(), size_of::<Descriptor>()) };
        let back = Descriptor::parse(bytes).unwrap();
        assert_eq!(back.backend(), Some("docker"));
        assert_eq!(Descriptor::text(&back.target), TARGET);
        assert!(Descriptor::parse(&bytes[1..]).is_none());
        assert!(Descriptor::parse(&bytes[..bytes.len() - 1]).is_none());
    }
    #[test]
    fn a_name_is_plain_or_it_is_none() {
        let long = "x".repeat(32);
        for (name, ok) in [
            ("docker", true),
            ("2_b", true),
            (&long[1..], true),
            ("", false),
            (&long, false),
            ("_a", false),
            ("Docker", false),
            ("my-backend", false),
            ("a\u{7}", false),
            ("ä", false),
        ] {
            assert_eq!(is_name(name), ok, "{name:?}");
        }
        for name in [&b"do\x07cker"[..], b"\xff\xfe", b"docker\0hidden", &[b'x'; 32]] {
            let mut d = Descriptor::new("x", "1");
            d.name = [0; 32];
            d.name[..name.len()].copy_from_slice(name);
            assert_eq!(d.backend(), None, "{name:?}");
        }
    }
}
