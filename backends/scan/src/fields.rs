//! The values that a message is made of, so that a credential that was cut in two is one again: JSON strings, form
//! fields, query parameters, parts of a path. A tolerant reader: what is broken gives the values that are there.

/// Values of a message that are looked at side by side.
const MOST: usize = 600;
/// A longer value is no piece.
const LONGEST: usize = 200;
/// Neighbours that are put together.
const SPAN: usize = 6;

/// Whether a body is a form.
pub(crate) fn is_form(content_type: &str) -> bool {
    content_type.contains("x-www-form-urlencoded")
}

/// The groups of values of a body: those of one JSON object or array, those of a form.
pub(crate) fn of_body(content_type: &str, bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    match first {
        Some(b'{' | b'[') => json(bytes),
        _ if is_form(content_type) => vec![of_query(bytes)],
        _ if content_type.contains("multipart/") => vec![multipart(bytes)],
        _ => vec![],
    }
}

/// The values of a form, or of a query, in which a `+` stands for a blank: what has blanks of its own (a key file) is
/// nothing of the kind as it stands there.
pub(crate) fn with_blanks(bytes: &[u8]) -> Vec<Vec<u8>> {
    let values = if bytes.contains(&b'+') { of_query(bytes) } else { vec![] };
    values.into_iter().filter(|value| value.contains(&b' ')).collect()
}

/// Segments of a path and values of a query.
pub(crate) fn of_url(target: &str) -> Vec<Vec<u8>> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut values: Vec<Vec<u8>> = path.split('/').filter(|s| !s.is_empty()).map(|s| unescaped(s.as_bytes())).collect();
    values.extend(of_query(query.as_bytes()));
    values
}

fn of_query(bytes: &[u8]) -> Vec<Vec<u8>> {
    let value = |pair: &[u8]| {
        let at = pair.iter().position(|b| *b == b'=').map_or(0, |at| at + 1);
        unescaped(&pair[at..])
    };
    bytes.split(|b| matches!(b, b'&' | b';')).map(value).filter(|value| !value.is_empty()).take(MOST).collect()
}

fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |n: usize| bytes.get(at + n).and_then(|b| (*b as char).to_digit(16)).map(|d| d as u8);
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Short bodies of parts, without their headers.
fn multipart(bytes: &[u8]) -> Vec<Vec<u8>> {
    let heads = memchr::memmem::find_iter(bytes, b"\r\n\r\n").take(MOST);
    let part = |head: usize| {
        let body = &bytes[head + 4..];
        let end = memchr::memmem::find(body, b"\r\n--").unwrap_or(body.len());
        body[..end].to_vec()
    };
    heads.map(part).filter(|part| part.len() <= LONGEST).collect()
}

/// The strings and numbers of each object and array, and of all of them one after the other; keys are none.
fn json(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut groups: Vec<Vec<Vec<u8>>> = vec![];
    let mut open: Vec<Vec<Vec<u8>>> = vec![vec![]];
    let mut all: Vec<Vec<u8>> = vec![];
    let mut at = 0;
    while at < bytes.len() && all.len() < MOST * 4 {
        match bytes[at] {
            b'{' | b'[' if open.len() < 64 => {
                open.push(vec![]);
                at += 1;
            }
            b'}' | b']' => {
                if let Some(group) = open.pop().filter(|group| group.len() > 1) {
                    groups.push(group);
                }
                if open.is_empty() {
                    open.push(vec![]);
                }
                at += 1;
            }
            b'"' => {
                let Some(end) = string_end(bytes, at + 1) else { break };
                let colon = bytes[end + 1..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':');
                let text = &bytes[at + 1..end];
                if !colon && is_piece(text) {
                    all.push(text.to_vec());
                    if let Some(group) = open.last_mut() {
                        group.push(text.to_vec());
                    }
                }
                at = end + 1;
            }
            _ => at += 1,
        }
    }
    groups.extend(open.into_iter().filter(|group| group.len() > 1));
    groups.push(all);
    for group in &mut groups {
        group.truncate(MOST);
    }
    groups
}

fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let next = at + memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[next] == b'"' {
            return Some(next);
        }
        at = next + 2;
    }
}

/// What may be a piece of a credential: one word of some length.
fn is_piece(text: &[u8]) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.iter().all(|b| b.is_ascii_graphic())
}

/// Values put together, and where they meet.
pub(crate) struct Joined {
    pub(crate) bytes: Vec<u8>,
    seams: Vec<u64>,
}

impl Joined {
    /// Whether a range has a seam in it.
    pub(crate) fn crosses(&self, start: u64, end: u64) -> bool {
        self.seams.iter().any(|seam| start < *seam && *seam < end)
    }
}

/// Every row of two to [`SPAN`] values that follow each other.
pub(crate) fn neighbours(values: &[Vec<u8>]) -> impl Iterator<Item = Joined> {
    let fits = |value: &&Vec<u8>| is_piece(value) && value.len() >= 3;
    let values: Vec<&Vec<u8>> = values.iter().filter(fits).take(MOST).collect();
    // Those of many values are joined in pairs only: the work stays in proportion.
    let span = if values.len() > 48 { 2 } else { SPAN };
    let rows = (0..values.len()).flat_map(move |from| (from + 2..=from + span).map(move |to| (from, to)));
    rows.filter_map(move |(from, to)| {
        let parts = values.get(from..to)?;
        let mut joined = Joined { bytes: vec![], seams: vec![] };
        for part in parts {
            if !joined.bytes.is_empty() {
                joined.seams.push(joined.bytes.len() as u64);
            }
            joined.bytes.extend_from_slice(part);
        }
        // A scheme and a host are no credential.
        let url = parts[1..].iter().any(|part| memchr::memmem::find(part, b"://").is_some());
        (!url && joined.bytes.len() <= 512).then_some(joined)
    })
}
