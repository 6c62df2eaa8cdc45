//! What is asked of a match beside its pattern: checksums, entropy, and that it is no placeholder.

use crate::rule::Check;
use sha2::{Digest, Sha256};

/// Shannon entropy in bits per byte.
pub(crate) fn entropy(bytes: &[u8]) -> f32 {
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|b| counts[usize::from(*b)] += 1);
    let all = bytes.len() as f32;
    counts.iter().filter(|n| **n > 0).map(|n| *n as f32 / all).map(|p| -p * p.log2()).sum()
}

/// Words that stand where a credential goes.
const PLACEHOLDERS: [&[u8]; 14] = [
    b"xxxx",
    b"your",
    b"placeholder",
    b"redacted",
    b"changeme",
    b"insert",
    b"replace",
    b"****",
    b"....",
    b"<",
    b"${",
    b"{{",
    b"dummy",
    b"1234567890abcdef1234567890abcdef",
];

/// A text that stands where a credential goes.
pub(crate) fn is_placeholder(token: &[u8]) -> bool {
    let head = &token[..token.len().min(160)];
    let lower = head.to_ascii_lowercase();
    let has = |word: &[u8]| memchr::memmem::find(&lower, word).is_some();
    if PLACEHOLDERS.iter().any(|word| has(word)) {
        return true;
    }
    // One character again and again; but `A` is a zero in base64.
    let mut run = 1;
    head.len() <= 120
        && head.windows(2).any(|pair| {
            run = if pair[0] == pair[1] && pair[0] != b'A' { run + 1 } else { 1 };
            run >= 9
        })
}

/// Whether a match is one.
pub(crate) fn holds(check: Check, token: &[u8]) -> bool {
    match check {
        Check::None => true,
        Check::Crc32 => crc32_base62(token),
        Check::Base58check => base58check(token),
        Check::Jwt => jwt(token),
        Check::Userinfo => userinfo(token),
        Check::Mixed => mixed(token),
        Check::Ssn => ssn(token),
        Check::Iban => iban(token),
        Check::Discord => discord(token),
        Check::Eip55 => crate::keccak::eip55(token),
        Check::Bip39 => crate::words::checksum(token),
    }
}

/// Whether a run that begins here may be one, as far as its first bytes say.
pub(crate) fn may_hold(check: Check, bytes: &[u8], at: usize) -> bool {
    match check {
        Check::Iban => {
            let digits = bytes.get(at + 2..at + 4).is_some_and(|sum| sum.iter().all(u8::is_ascii_digit));
            digits && IBAN.iter().any(|(country, _)| bytes[at..].starts_with(*country))
        }
        Check::Base58check => matches!(bytes[at], b'5' | b'K' | b'L'),
        Check::Discord => at > 0 && bytes[at - 1] == b'.',
        _ => true,
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// `prefix_` + body + six digits.
fn crc32_base62(token: &[u8]) -> bool {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let Some(start) = token.iter().position(|b| *b == b'_').map(|at| at + 1) else { return false };
    let Some(body) = token.len().checked_sub(6).filter(|end| *end > start).map(|end| &token[start..end]) else {
        return false;
    };
    let mut rest = crc32(body);
    token.iter().rev().take(6).all(|digit| {
        let wanted = DIGITS[(rest % 62) as usize];
        rest /= 62;
        *digit == wanted
    })
}

const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// What a digit of base 58 stands for.
pub(crate) fn base58_digit(digit: u8) -> Option<u32> {
    BASE58.iter().position(|b| *b == digit).map(|value| value as u32)
}

fn base58check(token: &[u8]) -> bool {
    let mut bytes = vec![0_u8; 0];
    for digit in token {
        let Some(mut carry) = base58_digit(*digit) else { return false };
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        while carry > 0 {
            bytes.insert(0, carry as u8);
            carry >>= 8;
        }
    }
    let Some((payload, sum)) = bytes.split_last_chunk::<4>() else { return false };
    Sha256::digest(Sha256::digest(payload))[..4] == *sum
}

fn jwt(token: &[u8]) -> bool {
    let Some(header) = token.split(|b| *b == b'.').next() else { return false };
    let header = crate::decode::base64::plain(header);
    // Whole JSON, if the run was not cut off; `alg` it has always.
    header.first() == Some(&b'{') && memchr::memmem::find(&header, b"\"alg\"").is_some()
        || memchr::memmem::find(&header, b"\"typ\"").is_some()
}

/// `scheme://user:password@host`.
fn userinfo(token: &[u8]) -> bool {
    let text = String::from_utf8_lossy(token).to_ascii_lowercase();
    let Some((user, rest)) = text.split_once("://").and_then(|(_, rest)| rest.split_once(':')) else { return false };
    let Some((password, host)) = rest.rsplit_once('@') else { return false };
    let plain = ["password", "passwd", "pass", "pwd", "secret", "token", "pw", "xxx", "key", "apikey", "foo", "bar"];
    let digits = |word: &str| word.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    let marks = ['$', '{', '<', '[', '%', '*', '(', '`', '\\'];
    !(plain.contains(&digits(password).as_str())
        || password.starts_with(marks)
        || password == user
        || host.starts_with(marks)
        || password.chars().all(|c| c.is_ascii_digit()) && password.len() < 6)
}

fn mixed(token: &[u8]) -> bool {
    let count = |is: fn(&u8) -> bool| token.iter().filter(|b| is(b)).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let punctuation = token.len() - digits - letters;
    digits >= 2 && letters >= 2 && digits * 20 >= token.len() && punctuation * 6 <= token.len()
}

fn ssn(token: &[u8]) -> bool {
    let part = |at: usize, end: usize| token.get(at..end).unwrap_or_default();
    let never = matches!(part(0, 3), b"000" | b"666") || part(4, 6) == b"00" || part(7, 11) == b"0000";
    // Those of examples: each part one digit again and again, or all digits in a row.
    let same = |text: &[u8]| text.windows(2).all(|pair| pair[0] == pair[1]);
    let example = same(part(0, 3)) && same(part(4, 6)) && same(part(7, 11)) || token == b"123-45-6789";
    !never && !example
}

/// Countries and the length of their account numbers.
const IBAN: [(&[u8; 2], usize); 40] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BR", 29),
    (b"CH", 21),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DK", 18),
    (b"EE", 20),
    (b"ES", 24),
    (b"FI", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GR", 27),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"KW", 30),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"MT", 31),
    (b"NL", 18),
    (b"NO", 15),
    (b"PL", 28),
    (b"PT", 25),
    (b"RO", 24),
    (b"SA", 24),
    (b"SE", 24),
    (b"TR", 26),
];

fn iban(token: &[u8]) -> bool {
    let plain: Vec<u8> = token.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
    let country = IBAN.iter().find(|(country, _)| plain.starts_with(*country));
    if country.is_none_or(|(_, length)| plain.len() != *length) {
        return false;
    }
    let (head, tail) = plain.split_at(4);
    let remainder = tail.iter().chain(head).fold(0_u32, |rest, b| match b {
        b'0'..=b'9' => (rest * 10 + u32::from(b - b'0')) % 97,
        _ => (rest * 100 + u32::from(b.to_ascii_uppercase().wrapping_sub(b'A')) + 10) % 97,
    });
    remainder == 1
}

fn discord(token: &[u8]) -> bool {
    let id = token.split(|b| *b == b'.').next().map(crate::decode::base64::plain).unwrap_or_default();
    id.len() >= 17 && id.iter().all(u8::is_ascii_digit)
}

/// The check digit of cards.
pub(crate) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(n, digit)| u32::from(digit - b'0') << (n % 2))
        .map(|doubled| if doubled > 9 { doubled - 9 } else { doubled })
        .sum();
    !digits.is_empty() && sum.is_multiple_of(10)
}
