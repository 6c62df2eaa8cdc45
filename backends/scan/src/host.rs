//! Where a message goes: names that carry data, paths that do, hosts that the caller does not want.

use crate::{
    checks::entropy as bits,
    decode::{base64, is_text},
    finding::{Finding, Kind},
    rule::Severity,
};

pub(crate) fn finding(rule: &'static str, kind: Kind, severity: Severity, place: &str) -> Finding {
    let end = place.len() as u64;
    let place = if place.is_empty() { "message" } else { "host" };
    Finding { rule: rule.into(), kind, severity, place: place.into(), start: 0, end, decoders: String::new() }
}

/// Whether a name is `listed`; of `*.listed` whether it is that name or below it. Letters in any case.
pub fn is_listed(name: &str, listed: &str) -> bool {
    let name = name.trim_end_matches('.');
    match listed.strip_prefix("*.") {
        Some(apex) => {
            let below = name.len().checked_sub(apex.len()).and_then(|at| name.split_at_checked(at));
            below.is_some_and(|(own, end)| end.eq_ignore_ascii_case(apex) && (own.is_empty() || own.ends_with('.')))
        }
        None => name.eq_ignore_ascii_case(listed),
    }
}

/// Services that give out names nobody chose.
const RANDOM_NAMES: [&str; 22] = [
    "amazonaws.com",
    "cloudfront.net",
    "azureedge.net",
    "azurewebsites.net",
    "windows.net",
    "googlevideo.com",
    "googleusercontent.com",
    "sentry.io",
    "akamaihd.net",
    "akamaized.net",
    "fastly.net",
    "vercel.app",
    "netlify.app",
    "pages.dev",
    "workers.dev",
    "run.app",
    "cloudfunctions.net",
    "herokuapp.com",
    "ngrok.io",
    "gitpod.io",
    "githubusercontent.com",
    "cdn77.org",
];

/// Encoded data in the labels of a name: text in hex, base32 or base64, alone or over several labels; otherwise a label
/// that no word is like.
pub(crate) fn entropy(name: &str) -> Option<Finding> {
    let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    let below = labels.len().saturating_sub(2);
    if name.contains(':')
        || name.parse::<std::net::Ipv4Addr>().is_ok()
        || RANDOM_NAMES.iter().any(|apex| is_listed(name, &format!("*.{apex}")))
    {
        return None;
    }
    let own = &labels[..below];
    let found = |rule| Some(finding(rule, Kind::Entropy, Severity::High, name));
    // One after the other and side by side.
    for from in 0..own.len() {
        for to in from + 1..=own.len().min(from + 6) {
            let joined = own[from..to].concat();
            if is_encoded(joined.as_bytes()) {
                return found("hostname-encoded");
            }
        }
    }
    if own.iter().any(|label| is_random(label)) {
        return found("hostname-entropy");
    }
    let long = own.iter().map(|label| label.len()).sum::<usize>();
    if long > 100 && own.iter().filter(|label| label.bytes().any(|b| b.is_ascii_digit())).count() > 1 {
        return found("hostname-length");
    }
    None
}

fn is_encoded(label: &[u8]) -> bool {
    let hex = |label: &[u8]| -> Option<Vec<u8>> {
        let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
        label.chunks(2).map(|two| Some(digit(two[0])? << 4 | digit(*two.get(1)?)?)).collect()
    };
    if label.len() >= 12 && hex(label).is_some_and(|made| is_text(&made)) {
        return true;
    }
    let digits = label.iter().filter(|b| b.is_ascii_digit()).count();
    if let Some(made) = base64::base32(label).filter(|_| label.len() >= 14 && digits > 0) {
        let readable = made.iter().filter(|b| b.is_ascii_graphic() || **b == b' ').count();
        let words = readable * 100 >= made.len() * 85;
        // Sixteen characters of random base32 are half readable once in eight times; names have vowels.
        if words || label.len() >= 16 && readable * 100 >= made.len() * 55 && !has_words(label) {
            return true;
        }
    }
    let cases = label.iter().any(u8::is_ascii_uppercase) && label.iter().any(u8::is_ascii_lowercase);
    label.len() >= 14 && cases && label.iter().all(|b| base64::is_digit(*b)) && {
        let made = base64::plain(label);
        is_text(&made)
    }
}

/// Whether most of it can be spoken: few runs of consonants, few digits between letters.
fn has_words(label: &[u8]) -> bool {
    let vowel = |b: u8| b"aeiouyAEIOUY".contains(&b);
    let vowels = label.iter().filter(|b| vowel(**b)).count();
    let digits = label.iter().filter(|b| b.is_ascii_digit()).count();
    let turns = label.windows(2).filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit()).count();
    vowels * 4 >= label.len() && digits * 5 <= label.len() && turns <= 3
}

fn is_random(label: &str) -> bool {
    let parts = label.split(['-', '_']).max_by_key(|part| part.len()).unwrap_or_default().as_bytes();
    let digits = parts.iter().filter(|b| b.is_ascii_digit()).count();
    let turns = parts.windows(2).filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit()).count();
    parts.len() >= 20 && digits >= 2 && turns >= 4 && bits(parts) >= 3.4 && !has_words(parts)
}

/// A part of a path, or a value of a query, that looks like data which nobody calls by a name: long, of all kinds of
/// characters, and nothing in it that is said twice.
pub(crate) fn path_entropy(path: &str, query: &str) -> Vec<Finding> {
    let values = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
    let parts = path.split('/').map(|part| ("path", part)).chain(values.map(|value| ("query", value)));
    let looks = |part: &str| {
        let bytes = part.as_bytes();
        let count = |is: fn(&u8) -> bool| bytes.iter().filter(|b| is(b)).count();
        let (upper, lower, digits) =
            (count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase), count(u8::is_ascii_digit));
        let least = bytes.len() / 8;
        (24..=512).contains(&bytes.len())
            && bytes.iter().all(|b| base64::is_digit(*b) || *b == b'=')
            && upper > least
            && lower > least
            && digits >= least.max(2)
            && bits(bytes) >= 4.5_f32.min((bytes.len() as f32).log2() - 0.35)
            && upper + lower + digits + bytes.len() / 10 >= bytes.len()
    };
    let found = parts.filter(|(_, part)| looks(part)).map(|(place, part)| Finding {
        place: place.into(),
        ..finding("url-entropy", Kind::Entropy, Severity::High, part)
    });
    found.take(1).collect()
}
