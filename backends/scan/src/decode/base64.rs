//! Base64 in both alphabets at once, and base32: without padding, at any offset, cut off anywhere.

/// What a character stands for; 0xff for those of neither alphabet.
const VALUES: [u8; 256] = {
    let mut table = [0xff_u8; 256];
    let mut n = 0;
    while n < 64 {
        table[b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[n] as usize] = n as u8;
        n += 1;
    }
    table[b'-' as usize] = 62;
    table[b'_' as usize] = 63;
    table
};

/// Whether it may stand in a run. By comparisons, not by the table, so that many bytes can be asked at once.
#[inline(always)]
pub(crate) fn is_digit(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    letter | (b'/'..=b'9').contains(&byte) | (byte == b'+') | (byte == b'-') | (byte == b'_')
}

/// How many digits a text ends with.
pub(crate) fn digits_at_end(bytes: &[u8]) -> usize {
    let mut count = 0;
    for part in bytes.rchunks(64) {
        // Without a branch, so that the compiler does many at once.
        if !part.iter().fold(true, |all, b| all & is_digit(*b)) {
            return count + part.iter().rev().take_while(|b| is_digit(**b)).count();
        }
        count += part.len();
    }
    count
}

/// Decodes the pieces one after the other, without the first `skip` characters, onto `out`.
pub(crate) fn decode_onto(pieces: &[&[u8]], mut skip: usize, out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0_u32, 0_u32);
    for piece in pieces {
        let drop = skip.min(piece.len());
        skip -= drop;
        let mut rest = &piece[drop..];
        if held == 0 {
            // The usual case, four at a time.
            let (fours, last) = rest.as_chunks::<4>();
            let begin = out.len();
            out.resize(begin + fours.len() * 3, 0);
            let (threes, _) = out[begin..].as_chunks_mut::<3>();
            for (four, three) in fours.iter().zip(threes) {
                let [a, b, c, d] = four.map(|byte| u32::from(VALUES[usize::from(byte)]));
                let all = a << 18 | b << 12 | c << 6 | d;
                *three = [(all >> 16) as u8, (all >> 8) as u8, all as u8];
            }
            rest = last;
        }
        for byte in rest {
            bits = bits << 6 | u32::from(VALUES[usize::from(*byte)]);
            held += 6;
            if held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
                bits &= (1 << held) - 1;
            }
        }
    }
}

/// One run, from its beginning.
pub(crate) fn plain(run: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let end = run.iter().position(|b| !is_digit(*b)).unwrap_or(run.len());
    decode_onto(&[&run[..end]], 0, &mut out);
    out
}

/// Base32 in either case.
pub(crate) fn base32(run: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(run.len() * 5 / 8);
    let (mut bits, mut held) = (0_u32, 0);
    for byte in run {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        bits = (bits << 5 | u32::from(value)) & 0xfff;
        held += 5;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}
