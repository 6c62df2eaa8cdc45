//! Git's packets: four hexadecimal digits of length, and as many bytes less four; `0000` ends a list.

use std::io::{self, Read, Write};

/// The most that a packet holds.
pub(crate) const MOST: usize = 65516;
/// The most that one list may hold, whoever sends it.
const LONGEST_LIST: usize = 1 << 20;

/// Reads one: `None` ends a list.
pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "what came is no packet of git's");
    let mut digits = [0; 4];
    from.read_exact(&mut digits)?;
    let digits = std::str::from_utf8(&digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let length = digits.and_then(|text| usize::from_str_radix(text, 16).ok()).ok_or_else(broken)?;
    match length {
        0 => Ok(None),
        4.. if length - 4 <= MOST => {
            let mut bytes = vec![0; length - 4];
            from.read_exact(&mut bytes)?;
            Ok(Some(bytes))
        }
        _ => Err(broken()),
    }
}

/// Reads a list, each packet without the end of its line.
pub(crate) fn read_list(from: &mut impl Read) -> io::Result<Vec<Vec<u8>>> {
    let (mut list, mut bytes) = (vec![], 0);
    while let Some(mut packet) = read(from)? {
        bytes += packet.len() + 4;
        if bytes > LONGEST_LIST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a list of packets is too long"));
        }
        if packet.last() == Some(&b'\n') {
            packet.pop();
        }
        list.push(packet);
    }
    Ok(list)
}

/// Writes one. A longer one is cut: what is said here is said to people.
pub(crate) fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let bytes = &bytes[..bytes.len().min(MOST)];
    write!(to, "{:04x}", bytes.len() + 4)?;
    to.write_all(bytes)
}

/// Writes a list and its end.
pub(crate) fn write_list<B: AsRef<[u8]>>(to: &mut impl Write, list: impl IntoIterator<Item = B>) -> io::Result<()> {
    for bytes in list {
        write(to, bytes.as_ref())?;
    }
    to.write_all(b"0000")?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_was_written_and_nothing_else_is_one() {
        let mut wire = vec![];
        write_list(&mut wire, ["a\n", "", "b"]).unwrap();
        assert_eq!(wire, b"0006a\n00040005b0000");
        assert_eq!(read_list(&mut &wire[..]).unwrap(), [&b"a"[..], b"", b"b"]);
        for broken in ["", "000", "0006a", "0001", "0003", "zzzz", "+006ab", "ffff", "0006ab"] {
            assert!(read_list(&mut broken.as_bytes()).is_err(), "{broken}");
        }
        let endless = "fff0".to_owned() + &"a".repeat(MOST);
        assert!(read_list(&mut endless.repeat(40).as_bytes()).is_err());
    }
}
