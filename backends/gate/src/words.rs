//! What somebody else has said, as text that a terminal may show.

/// One line, with nothing in it that a terminal would obey; quotes stay as they are.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_it_moves_a_cursor() {
        assert_eq!(plain("it's \"a\" \\ ключ"), "it's \"a\" \\ ключ");
        assert_eq!(plain("\u{1b}[2J\r\n\u{202e}"), "\\u{1b}[2J\\r\\n\\u{202e}");
    }
}
