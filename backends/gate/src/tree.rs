//! The entries of a tree, as git keeps them: `MODE NAME\0` and the bytes of an object's name.

/// A directory's entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'t> {
    pub(crate) name: &'t [u8],
    /// A submodule's commit. Nothing of it is in this repository, so nobody holds it against anything: whoever pushes
    /// says what these bytes are.
    pub(crate) submodule: Option<&'t [u8]>,
}

/// Reads a whole tree, whose objects have names of so many bytes. `None`: it is none.
pub(crate) fn entries(mut bytes: &[u8], id: usize) -> Option<Vec<Entry<'_>>> {
    let mut entries = vec![];
    while !bytes.is_empty() {
        let space = memchr(b' ', bytes)?;
        let mode = &bytes[..space];
        let end = space + 1 + memchr(0, &bytes[space + 1..])?;
        let name = &bytes[space + 1..end];
        let object = bytes.get(end + 1..end + 1 + id)?;
        bytes = &bytes[end + 1 + id..];
        if name.is_empty() || mode.is_empty() || !mode.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
            return None;
        }
        entries.push(Entry { name, submodule: (mode == b"160000").then_some(object) });
    }
    Some(entries)
}

fn memchr(needle: u8, bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_whole_or_not_at_all() {
        let file = [&b"100644 a b\0"[..], &[7; 20]].concat();
        let sub = [&b"160000 sub\0"[..], &[9; 20]].concat();
        let whole = [file.clone(), sub].concat();
        let read = entries(&whole, 20).unwrap();
        assert_eq!(read[0], Entry { name: b"a b", submodule: None });
        assert_eq!(read[1], Entry { name: b"sub", submodule: Some(&[9; 20]) });
        assert_eq!(entries(b"", 20), Some(vec![]));
        for broken in [&whole[..whole.len() - 1], b"100644", b"100644 a", b"100644 a\0abc", b" a\0aaaaaaaaaaaaaaaaaaaa"]
        {
            assert_eq!(entries(broken, 20), None, "{broken:?}");
        }
        assert_eq!(entries(&file, 32), None);
    }
}
