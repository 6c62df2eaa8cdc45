//! Text from outside, fitted into columns. No more of it is looked at than what is shown.

use crate::ui;
use std::iter::from_fn;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use unicode_width::UnicodeWidthChar;

/// Marks that may stand on one character: more of them would draw on the rows around it.
const MAX_MARKS: usize = 2;
const UNSEEN: char = '\u{fffd}';

/// How a character is shown, and how many columns it takes. `marks`: how many stand on the character before it.
fn shown(c: char, marks: &mut usize) -> (char, usize) {
    match (c, c.width()) {
        ('\t', _) => (' ', 1),
        (c, Some(0)) if ui::is_seen(c) && *marks < MAX_MARKS => {
            *marks += 1;
            (c, 0)
        }
        (c, Some(width @ 1..)) if ui::is_seen(c) => {
            *marks = 0;
            (c, width)
        }
        _ => {
            *marks = 0;
            (UNSEEN, 1)
        }
    }
}

/// A text in rows of `width` columns at most, broken where its lines end, or at a space, or where it must be.
pub(crate) fn rows(text: &str, width: usize) -> impl Iterator<Item = String> + '_ {
    let mut rest = Some(text);
    let width = width.max(2); // a character may take two
    from_fn(move || {
        let text = rest.take()?;
        let (mut row, mut columns, mut marks) = (String::new(), 0, MAX_MARKS);
        // Where the row may end: its length, and where the next one begins.
        let mut space = None;
        for (at, c) in text.char_indices() {
            if c == '\n' {
                rest = Some(&text[at + 1..]);
                return Some(row);
            }
            let (seen, wide) = shown(c, &mut marks);
            if columns + wide > width {
                let (end, next) = space.filter(|_| c != ' ').unwrap_or((row.len(), at));
                row.truncate(end);
                rest = Some(text[next..].strip_prefix(' ').unwrap_or(&text[next..]));
                return Some(row);
            }
            if c == ' ' && columns > 0 {
                space = Some((row.len(), at));
            }
            row.push(seen);
            columns += wide;
        }
        Some(row)
    })
}

/// A text in one row of `width` columns at most; what is cut off is marked.
pub(super) fn fitted(text: &str, width: usize) -> String {
    let (mut row, mut columns, mut marks) = (String::new(), 0, MAX_MARKS);
    // Where the last character begins.
    let mut last = 0;
    for c in text.chars() {
        let (seen, wide) = shown(c, &mut marks);
        if columns + wide > width {
            if columns == width {
                row.truncate(last);
            }
            if width > 0 {
                row.push('…');
            }
            return row;
        }
        if wide > 0 {
            last = row.len();
        }
        row.push(seen);
        columns += wide;
    }
    row
}

/// The same for a name whose end tells it from others: cut off at its beginning.
pub(super) fn fitted_end(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width || width == 0 {
        return fitted(name, width);
    }
    fitted(&format!("…{}", name.chars().skip(count - width + 1).collect::<String>()), width)
}

/// How long ago that was, in the largest unit that fits; nothing where it is no time.
pub(super) fn age(since: Option<OffsetDateTime>, now: OffsetDateTime) -> String {
    let Some(since) = since else { return String::new() };
    match (now - since).whole_seconds().max(0) {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..172_800 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        s => format!("{}d", s / 86_400),
    }
}

/// A time as it is written down.
pub(super) fn time(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn columns(row: &str) -> usize {
        row.chars().map(|c| c.width().unwrap_or(0)).sum()
    }

    #[test]
    fn rows_end_at_spaces_where_they_can_and_nothing_is_lost() {
        for (text, width, expected) in [
            ("", 5, &[""][..]),
            ("one two", 7, &["one two"]),
            ("one two three", 7, &["one two", "three"]),
            ("one two three", 8, &["one two", "three"]),
            ("abcdefgh", 3, &["abc", "def", "gh"]),
            ("a\n\nb\n", 3, &["a", "", "b", ""]),
            ("a\tb\x1b[31m\u{202e}c", 20, &["a b\u{fffd}[31m\u{fffd}c"]),
            ("日本語", 4, &["日本", "語"]),
            ("  x y", 3, &["  x", "y"]),
        ] {
            assert_eq!(rows(text, width).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_marked() {
        for (text, width, expected) in
            [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("", 0, ""), ("a", 0, ""), ("日本", 3, "日…"), ("日本", 2, "…")]
        {
            assert_eq!(fitted(text, width), expected, "{text:?}");
        }
        assert_eq!(fitted_end("reviewer-x7k2q", 8), "…r-x7k2q");
    }

    #[test]
    fn ages_are_told_in_the_largest_unit() {
        let since = time("2026-01-01T00:00:00Z");
        let later = |seconds| since.unwrap() + time::Duration::seconds(seconds);
        for (seconds, expected) in
            [(-5, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7260, "2h01m"), (172_799, "47h59m"), (172_800, "2d")]
        {
            assert_eq!(age(since, later(seconds)), expected);
        }
        assert_eq!(age(time("soon"), later(0)), "");
    }

    proptest! {
        #[test]
        fn no_row_is_wider_than_it_may_be_and_nothing_in_it_is_unseen(text in "(\\PC|\\p{Mn}|\\p{Cf}|\\p{Cc}|[ \n\t日e\u{301}]){0,200}", width in 2usize..40) {
            for row in rows(&text, width).chain([fitted(&text, width), fitted_end(&text, width)]) {
                prop_assert!(columns(&row) <= width, "{row:?}");
                prop_assert!(row.chars().all(ui::is_seen), "{row:?}");
                let marks = row.chars().map(|c| c.width() == Some(0)).collect::<Vec<_>>();
                prop_assert!(!marks.windows(MAX_MARKS + 1).any(|w| w.iter().all(|m| *m)), "{row:?}");
            }
        }
    }
}
