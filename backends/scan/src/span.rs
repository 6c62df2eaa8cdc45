//! Bytes of one class: unbroken runs of them (digits of base64, parts of a number), and marks that stand together (the
//! beginnings of escapes). Sixty-four bytes at a time become the bits of one word, and most words have nothing in them
//! that is wanted, as a few shifts say.

use std::ops::ControlFlow;
use wide::i8x16;

pub(crate) const BLOCK: usize = 64;

/// One bit for each byte: whether it is of the class. Without a branch, so that the compiler does many at once.
#[inline(always)]
pub(crate) fn mask(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    let mut flags = [0_i8; BLOCK];
    for (flag, byte) in flags.iter_mut().zip(block) {
        *flag = -i8::from(is(*byte));
    }
    let (sixteens, _) = flags.as_chunks::<16>();
    sixteens.iter().rev().fold(0, |all, flags| all << 16 | u64::from(i8x16::new(*flags).move_mask() as u16))
}

/// Calls `with` with the mask of every block and where it begins, until it says that this was enough. The last block is
/// shorter than the others.
#[inline(always)]
fn masks(bytes: &[u8], is: impl Fn(u8) -> bool + Copy, mut with: impl FnMut(usize, u64) -> ControlFlow<()>) {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    // One call, so that it is no call.
    for n in 0..=blocks.len() {
        let here = blocks.get(n).map_or_else(|| mask(&last, is) & ((1 << rest.len()) - 1), |block| mask(block, is));
        if with(n * BLOCK, here).is_break() {
            return;
        }
    }
}

/// The places in a mask from which on at least so many bits are set.
#[inline(always)]
fn followed_by(mut mask: u64, least: usize) -> u64 {
    let mut known = 1;
    while known < least {
        let more = known.min(least - known);
        mask &= mask >> more;
        known += more;
    }
    mask
}

/// Calls `found` with the beginning and the end of each run of at least `LEAST` bytes, which is at most 64. Runs that
/// begin at or behind `until` need not be found.
#[inline(always)]
pub(crate) fn each<const LEAST: usize>(
    bytes: &[u8],
    until: usize,
    is: impl Fn(u8) -> bool + Copy,
    mut found: impl FnMut(usize, usize),
) {
    each_while::<LEAST>(bytes, until, is, |start, end| {
        found(start, end);
        ControlFlow::Continue(())
    });
}

/// The same, until `found` says that it was enough.
#[inline(always)]
pub(crate) fn each_while<const LEAST: usize>(
    bytes: &[u8],
    until: usize,
    is: impl Fn(u8) -> bool + Copy,
    mut found: impl FnMut(usize, usize) -> ControlFlow<()>,
) {
    // Where the run began that reaches the end of the block before.
    let mut open = None;
    masks(bytes, is, |base, mut here| {
        if base >= until && open.is_none() {
            return ControlFlow::Break(());
        }
        if here == u64::MAX {
            open.get_or_insert(base);
            return ControlFlow::Continue(());
        }
        if let Some(start) = open.take() {
            let end = base + here.trailing_ones() as usize;
            if end - start >= LEAST {
                found(start, end)?;
            }
            here &= here + 1;
        }
        let tail = here.leading_ones();
        if tail > 0 {
            open = Some(base + BLOCK - tail as usize);
            here = here << tail >> tail;
        }
        let mut starts = followed_by(here, LEAST);
        while starts != 0 {
            let start = starts.trailing_zeros();
            let length = (here >> start).trailing_ones();
            found(base + start as usize, base + (start + length) as usize)?;
            starts &= u64::MAX << (start + length);
        }
        ControlFlow::Continue(())
    });
}

/// Calls `found` with each place before `until` at which a byte of one class is followed by one of another.
#[inline(always)]
pub(crate) fn pairs(
    bytes: &[u8],
    until: usize,
    first: impl Fn(u8) -> bool + Copy,
    second: impl Fn(u8) -> bool + Copy,
    mut found: impl FnMut(usize),
) {
    masks(bytes, first, |base, mut here| {
        while here != 0 && base < until {
            let at = base + here.trailing_zeros() as usize;
            here &= here - 1;
            if at < until && bytes.get(at + 1).is_some_and(|next| second(*next)) {
                found(at);
            }
        }
        if base < until { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
}

/// Calls `found` with the first and the last mark of each row of marks that are at most `gap` bytes from one to the
/// next. Bytes of the class that `counts` denies are none. Rows that begin at or behind `until` need not be found.
#[inline(always)]
pub(crate) fn rows(
    bytes: &[u8],
    until: usize,
    gap: usize,
    is: impl Fn(u8) -> bool + Copy,
    counts: impl Fn(usize) -> bool,
    mut found: impl FnMut(usize, usize),
) {
    let mut row: Option<(usize, usize)> = None;
    masks(bytes, is, |base, mut here| {
        if base >= until && row.is_none_or(|(_, last)| base - last > gap) {
            return ControlFlow::Break(());
        }
        while here != 0 {
            let at = base + here.trailing_zeros() as usize;
            here &= here - 1;
            if counts(at) {
                let near = row.filter(|(_, last)| at - last <= gap);
                if let (None, Some((first, last))) = (near, row) {
                    found(first, last);
                }
                row = Some((near.map_or(at, |(first, _)| first), at));
            }
        }
        ControlFlow::Continue(())
    });
    if let Some((first, last)) = row {
        found(first, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs, byte by byte.
    fn plainly(bytes: &[u8], least: usize) -> Vec<(usize, usize)> {
        let mut runs = vec![];
        let mut start = 0;
        for run in bytes.split(|b| !b.is_ascii_digit()) {
            if run.len() >= least {
                runs.push((start, start + run.len()));
            }
            start += run.len() + 1;
        }
        runs
    }

    proptest! {
        #[test]
        fn every_pair_is_found_before_the_end(text in "[ab]{0,200}", until in 0_usize..220) {
            let mut found = vec![];
            pairs(text.as_bytes(), until, |b| b == b'a', |b| b == b'b', |at| found.push(at));
            let expected: Vec<usize> = text.match_indices("ab").map(|(at, _)| at).filter(|at| *at < until).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn every_run_is_found_wherever_it_stands(parts in prop::collection::vec((0_usize..90, 1_usize..90), 0..12)) {
            let text: String = parts.iter().map(|(run, gap)| "7".repeat(*run) + &"x".repeat(*gap)).collect();
            for end in [text.len(), text.len() / 2, text.len().min(64), text.len().min(128)] {
                let bytes = &text.as_bytes()[..end];
                let mut found = vec![];
                each::<13>(bytes, usize::MAX, |b| b.is_ascii_digit(), |start, end| found.push((start, end)));
                prop_assert_eq!(found, plainly(bytes, 13));
                let mut found = vec![];
                each::<24>(bytes, usize::MAX, |b| b.is_ascii_digit(), |start, end| found.push((start, end)));
                prop_assert_eq!(found, plainly(bytes, 24));
                let (until, mut found) = (end / 3, vec![]);
                each::<13>(bytes, until, |b| b.is_ascii_digit(), |start, end| found.push((start, end)));
                let begun = |runs: Vec<(usize, usize)>| runs.into_iter().filter(|(at, _)| *at < until).collect::<Vec<_>>();
                prop_assert_eq!(begun(found), begun(plainly(bytes, 13)));
            }
        }
    }
}
