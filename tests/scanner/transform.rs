//! What becomes of a secret, or of a whole body, before it is sent: named in the corpus, done here.

use anyhow::{Context, Result, bail};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use flate2::{
    Compression, Crc,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use std::io::Write;

const ZERO_WIDTH: char = '\u{200b}';
const LINE: usize = 20;

/// Does what each name says, one after the other.
pub(crate) fn all(bytes: &[u8], names: &[String]) -> Result<Vec<u8>> {
    names.iter().try_fold(bytes.to_vec(), |bytes, name| one(&bytes, name).with_context(|| name.clone()))
}

fn one(bytes: &[u8], name: &str) -> Result<Vec<u8>> {
    let each = |to: &dyn Fn(u8) -> String| bytes.iter().map(|byte| to(*byte)).collect::<String>();
    let joined =
        |to: &dyn Fn(u8) -> String, between: &str| bytes.iter().map(|byte| to(*byte)).collect::<Vec<_>>().join(between);
    Ok(match name {
        "base64" => BASE64_STANDARD.encode(bytes).into(),
        "base64url" => BASE64_URL_SAFE_NO_PAD.encode(bytes).into(),
        // Behind one byte, so that no group of it is a group of the secret's own.
        "base64-offset" => BASE64_STANDARD.encode([b" ", bytes].concat()).into(),
        "base64-lines" => {
            let text = BASE64_STANDARD.encode(bytes);
            text.as_bytes().chunks(LINE).collect::<Vec<_>>().join(&b"\r\n"[..])
        }
        "base32" => {
            let digits = base32(bytes);
            let padded = digits.len().next_multiple_of(8);
            format!("{digits:=<padded$}").into()
        }
        "base32-lower" => base32(bytes).to_ascii_lowercase().into(),
        "hex" => each(&|b| format!("{b:02x}")).into(),
        "hex-colon" => joined(&|b| format!("{b:02X}"), ":").into(),
        "hex-spaced" => joined(&|b| format!("{b:02x}"), " ").into(),
        "hex-x" => each(&|b| format!("\\\\x{b:02x}")).into(),
        "url-all" => each(&|b| format!("%{b:02X}")).into(),
        "url" => each(&|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .into(),
        "unicode" => each(&|b| format!("\\u{b:04x}")).into(),
        "html" => each(&|b| format!("&#{b};")).into(),
        "html-hex" => each(&|b| format!("&#x{b:x};")).into(),
        "decimal" => joined(&|b| b.to_string(), ",").into(),
        "octal" => joined(&|b| format!("{b:03o}"), " ").into(),
        "binary" => joined(&|b| format!("{b:08b}"), " ").into(),
        "spaced" => joined(&|b| char::from(b).to_string(), " ").into(),
        "dotted" => joined(&|b| char::from(b).to_string(), ".").into(),
        "reverse" => bytes.iter().rev().copied().collect(),
        "rot13" => bytes.iter().map(|byte| rot13(*byte)).collect(),
        "json" => {
            let quoted = serde_json::to_string(std::str::from_utf8(bytes)?)?;
            quoted[1..quoted.len() - 1].into()
        }
        "zero-width" => {
            let letters = std::str::from_utf8(bytes)?.chars().enumerate();
            letters
                .flat_map(|(n, c)| [Some(c), (n % 4 == 3).then_some(ZERO_WIDTH)])
                .flatten()
                .collect::<String>()
                .into()
        }
        "homoglyph" => std::str::from_utf8(bytes)?.chars().map(homoglyph).collect::<String>().into(),
        "fullwidth" => {
            let wide = |c: char| match c {
                '!'..='~' => char::from_u32(u32::from(c) + 0xfee0).unwrap_or(c),
                _ => c,
            };
            std::str::from_utf8(bytes)?.chars().map(wide).collect::<String>().into()
        }
        "gzip" => {
            let mut encoder = GzEncoder::new(vec![], Compression::default());
            encoder.write_all(bytes)?;
            encoder.finish()?
        }
        "zlib" => {
            let mut encoder = ZlibEncoder::new(vec![], Compression::default());
            encoder.write_all(bytes)?;
            encoder.finish()?
        }
        "zstd" => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
        "br" => {
            let mut out = vec![];
            brotli::BrotliCompress(&mut &bytes[..], &mut out, &brotli::enc::BrotliEncoderParams::default())?;
            out
        }
        "tar" => tar(bytes)?,
        "zip" => zip(bytes)?,
        // As cargo sends a crate: the length of what it is, that, the length of the crate.
        "framed" => [&u32::try_from(bytes.len())?.to_le_bytes()[..], bytes, &[0; 4]].concat(),
        _ => bail!("nobody knows how to do that"),
    })
}

/// By the two alphabets side by side: the scanner counts, and a mistake of its own is not to be one of its test's.
fn rot13(byte: u8) -> u8 {
    const PLAIN: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const TURNED: &[u8] = b"NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm";
    PLAIN.iter().zip(TURNED).find(|(plain, _)| **plain == byte).map_or(byte, |(_, turned)| *turned)
}

/// The Cyrillic or Greek letter that looks the same.
fn homoglyph(letter: char) -> char {
    match letter {
        'a' => 'а',
        'c' => 'с',
        'e' => 'е',
        'o' => 'о',
        'p' => 'р',
        'x' => 'х',
        'y' => 'у',
        'A' => 'А',
        'B' => 'В',
        'E' => 'Е',
        'K' => 'К',
        'M' => 'М',
        'O' => 'О',
        'T' => 'Т',
        other => other,
    }
}

/// Five bytes are eight digits, without the padding.
fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let group = |five: &[u8]| -> String {
        let number = (0..5).fold(0_u64, |all, n| all << 8 | u64::from(five.get(n).copied().unwrap_or(0)));
        let digits = (0..8).rev().map(|n| char::from(DIGITS[(number >> (n * 5)) as usize % 32]));
        digits.take((five.len() * 8).div_ceil(5)).collect()
    };
    bytes.chunks(5).map(group).collect()
}

/// A file with a secret in it. There is enough in it for a compression to be worth its while, and not to be left out.
fn notes(bytes: &[u8]) -> Vec<u8> {
    [&b"Notes of the day, and what is to be done about the tests that fail.\n".repeat(12)[..], bytes, b"\n"].concat()
}

fn tar(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(vec![]);
    for (name, content) in
        [("package/index.js", &b"module.exports = (s) => s.trim()\n"[..]), ("package/notes.txt", &notes(bytes))]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, name, content)?;
    }
    Ok(archive.into_inner()?)
}

/// An archive of one file, deflated (APPNOTE 4.3).
fn zip(bytes: &[u8]) -> Result<Vec<u8>> {
    let bytes = &notes(bytes)[..];
    let mut encoder = DeflateEncoder::new(vec![], Compression::default());
    encoder.write_all(bytes)?;
    let packed = encoder.finish()?;
    let mut crc = Crc::new();
    crc.update(bytes);
    let name = b"notes.txt";
    let length = |n: usize| u32::try_from(n).map(u32::to_le_bytes);
    let mut common = [20, 0, 0, 0, 8, 0, 0, 0, 0x75, 0x5b].to_vec(); // version, flags, deflate, time, date
    for field in [crc.sum().to_le_bytes(), length(packed.len())?, length(bytes.len())?] {
        common.extend(field);
    }
    common.extend([name.len() as u8, 0, 0, 0]);
    let local = [&b"PK\x03\x04"[..], &common, name, &packed].concat();
    let central = [&b"PK\x01\x02\x14\x00"[..], &common, &[0; 14], name].concat();
    let end =
        [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &length(central.len())?, &length(local.len())?, &[0; 2]].concat();
    Ok([local, central, end].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// What other programs make of them is what went in.
    #[test]
    fn archives_and_encodings_are_what_they_are_called() -> Result<()> {
        let secret = b"the secret, a \"quoted\" one";
        for (name, program) in [
            ("base64", "base64 -d"),
            ("base32", "base32 -d"),
            ("gzip", "gzip -dc"),
            ("hex", "xxd -r -p || python3 -c 'import sys;sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))'"),
            ("tar", "tar -xOf - package/notes.txt"),
            (
                "zip",
                "cat > \"$0\" && python3 -c 'import sys,zipfile;sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(\"notes.txt\"))' \"$0\"",
            ),
        ] {
            let scratch = tempfile::NamedTempFile::new()?;
            let mut command = Command::new("sh");
            command.arg("-c").arg(program).arg(scratch.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.stderr(Stdio::null()).spawn()?;
            child.stdin.take().context("stdin")?.write_all(&one(secret, name)?)?;
            let said = child.wait_with_output()?.stdout;
            assert!(said == secret || said == notes(secret), "{name}: {:?}", String::from_utf8_lossy(&said));
        }
        Ok(())
    }
}
