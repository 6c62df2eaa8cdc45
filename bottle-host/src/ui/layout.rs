//! Labels and values in columns that fit a terminal of eighty.

const LABEL_WIDTH: usize = 10;
/// Between a label and its value, and before what is continued.
const GAP: usize = 2;

/// A label with its values, a line each, broken at spaces where one would be wider than `width` columns.
pub fn lines(label: &str, values: &[String], width: usize) -> Vec<String> {
    let width = width.saturating_sub(LABEL_WIDTH + 2 * GAP);
    let mut out = vec![];
    for value in values {
        for (i, row) in broken(value, width).into_iter().enumerate() {
            let label = if out.is_empty() { label } else { "" };
            let indent = if i == 0 { "" } else { "  " };
            out.push(format!("{label:>LABEL_WIDTH$}  {indent}{row}"));
        }
    }
    out
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
}
