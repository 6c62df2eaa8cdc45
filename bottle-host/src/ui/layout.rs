//! Labels and values in columns that fit a terminal of eighty.

const LABEL_WIDTH: usize = 10;
/// Between a label and its value, and before what is continued.
const GAP: usize = 2;

/// A label with its values, a line each, broken at spaces where one would be wider than `width` columns.
pub fn lines(label: &str, values: &[String], width: usize) -> Vec<String> {
    let width = width.saturating_sub(LABEL_WIDTH + 2 * GAP);
    let mut out = vec![];
    for value in values {
        // A line break in what comes from outside must not begin a row of ours.
        for (i, row) in broken(&super::printable(value), width).into_iter().enumerate() {
            let label = if out.is_empty() { label } else { "" };
            let indent = if i == 0 { "" } else { "  " };
            out.push(format!("{label:>LABEL_WIDTH$}  {indent}{row}"));
        }
    }
    out
}

/// A line in rows of `width` characters at most, none of them seen otherwise than it is.
pub fn folded(line: &str, width: usize) -> Vec<String> {
    let shown: Vec<char> = super::printable(line).replace('\t', "    ").chars().collect();
    if shown.is_empty() {
        return vec![String::new()];
    }
    // A character may take two columns.
    shown.chunks(width / 2).map(|row| row.iter().collect()).collect()
}

/// The words in rows of `width` columns at most, each with the value's own indent; a longer word has a row to itself.
fn broken(value: &str, width: usize) -> Vec<String> {
    let text = value.trim_start();
    let indent = value.chars().count() - text.chars().count();
    let mut rows: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        match rows.last_mut() {
            Some(row) if row.is_empty() => row.push_str(word),
            Some(row) if row.chars().count() + 1 + word.chars().count() <= width.saturating_sub(indent) => {
                row.push(' ');
                row.push_str(word);
            }
            _ => rows.push(word.into()),
        }
    }
    rows.iter().map(|row| format!("{}{row}", " ".repeat(indent))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_broken_at_spaces_and_a_second_one_has_no_label() {
        let values = ["one two three".to_owned(), "  four five six".into(), "a-word-that-is-too-long x".into()];
        let expected = [
            "     label  one two",
            "              three",
            "              four",
            "                five",
            "                six",
            "            a-word-that-is-too-long",
            "              x",
        ];
        assert_eq!(lines("label", &values, LABEL_WIDTH + 2 * GAP + 9), expected);
    }

    #[test]
    fn nothing_in_a_value_begins_a_row_or_turns_it_round() {
        let value = "x\n    egress  nothing at all \u{202e}sdrawkcab\x1b[1A\u{200b}".to_owned();
        let rows = lines("agent", &[value], 200);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert!(rows[0].chars().all(|c| !c.is_control() && !matches!(c, '\u{202e}' | '\u{200b}')), "{rows:?}");
    }
}
