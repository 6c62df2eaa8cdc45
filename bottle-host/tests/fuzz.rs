//! The fuzz targets of `tests/fuzz`, for a moment: their corpus, and inputs made from it by a fixed sequence of changes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test, helpers too

#[path = "../../tests/fuzz/bodies.rs"]
mod bodies;

use bodies::BODIES;
use std::{fs, panic, path::Path};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/corpus");
/// Inputs of the targets that take longer: those with a file for each, and the one that makes room for long frames.
const INPUTS: [(&str, usize); 6] =
    [("ledger", 500), ("plugin", 1000), ("control", 300), ("scan", 200), ("encoded", 300), ("pack", 200)];
const USUAL_INPUTS: usize = 2000;

/// Pieces that mean something to one of the parsers.
const WORDS: [&str; 22] = [
    "\n", "---\n", ": ", "- ", "&a ", "*a", "!t ", "<<: ", "{", "}", "[", "]", "\"", "'", "|\n", "?", "~", "null",
    "\t", "\x1b]52;", "\x1b[", "\u{9d}",
];

/// xorshift64*: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    /// One change of an input: a byte, a piece taken out or doubled, a word put in, an end of another input.
    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let (at, kind) = (self.below(input.len() + 1), self.below(6));
        let end = (at + self.below(16)).min(input.len());
        match kind {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 => drop(input.drain(at..end)),
            2 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            3 => input.insert(at, self.below(256) as u8),
            4 => {
                let other = &corpus[self.below(corpus.len())];
                input.truncate(at);
                input.extend(&other[self.below(other.len())..]);
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.bytes());
            }
        }
    }
}

#[test]
fn no_target_panics_on_what_a_fixed_sequence_of_changes_makes_of_its_corpus() {
    for (name, body) in BODIES {
        let mut corpus: Vec<_> =
            fs::read_dir(Path::new(CORPUS).join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        corpus.sort();
        let corpus: Vec<Vec<u8>> = corpus.iter().map(|path| fs::read(path).unwrap()).collect();
        corpus.iter().for_each(|input| body(input));
        let inputs = INPUTS.iter().find(|(n, _)| *n == name).map_or(USUAL_INPUTS, |(_, inputs)| *inputs);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for _ in 0..inputs {
            let mut input = corpus[numbers.below(corpus.len())].clone();
            for _ in 0..=numbers.below(4) {
                numbers.change(&mut input, &corpus);
            }
            if panic::catch_unwind(|| body(&input)).is_err() {
                panic!("the target {name}, on:\n{}", input.escape_ascii());
            }
        }
        println!("{name}: {} of the corpus, {inputs} made from it", corpus.len());
    }
}
