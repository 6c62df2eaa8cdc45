//! A filter of system calls by their numbers alone, as a search by halves.
//!
//! The kernel runs a filter once for every number there is when it is set, and for every call that is not always allowed
//! afterwards. What asks for one number after another costs a bottle half a millisecond of its start, and its processes
//! some at every call; this one asks eight times.

use anyhow::{Context, Result};
use libc::{BPF_ABS, BPF_JA, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use seccompiler::{BpfProgram, SeccompAction, sock_filter};
use std::collections::BTreeMap;

/// Where `struct seccomp_data` has the number.
const NUMBER: u32 = 0;

/// From this number on, up to the next one's, this is the answer.
type Step = (u32, u32);

/// Answers each of these calls as it says, and all others `otherwise`. It looks at no architecture: a filter set beside it
/// must, as every one of seccompiler's does.
pub(crate) fn compile(answers: &BTreeMap<i64, SeccompAction>, otherwise: SeccompAction) -> Result<BpfProgram> {
    let otherwise = u32::from(otherwise);
    let mut steps: Vec<Step> = vec![(0, otherwise)];
    for (number, answer) in answers {
        let number = u32::try_from(*number).context("a system call's number")?;
        // What follows on the last one takes the place of the step behind it.
        steps.pop_if(|(from, _)| *from == number);
        steps.extend([(number, u32::from(answer.clone())), (number + 1, otherwise)]);
    }
    steps.dedup_by_key(|(_, answer)| *answer);
    let mut program = vec![instruction(BPF_LD | BPF_W | BPF_ABS, NUMBER)];
    search(&steps, &mut program)?;
    Ok(program)
}

/// Below the middle one the first half, from it on the second.
fn search(steps: &[Step], program: &mut BpfProgram) -> Result<()> {
    if let [(_, answer)] = steps {
        program.push(instruction(BPF_RET | BPF_K, *answer));
        return Ok(());
    }
    let (below, above) = steps.split_at(steps.len() / 2);
    let mut first = vec![];
    search(below, &mut first)?;
    program.push(sock_filter { jt: 0, jf: 1, ..instruction(BPF_JMP | BPF_JGE | BPF_K, above[0].0) });
    program.push(instruction(BPF_JMP | BPF_JA, u32::try_from(first.len())?));
    program.append(&mut first);
    search(above, program)
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do.
    fn run(program: &BpfProgram, number: u32) -> u32 {
        let mut at = 0;
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) & 0x7 {
                BPF_LD => assert_eq!(k, NUMBER),
                BPF_RET => return k,
                _ if u32::from(code) == BPF_JMP | BPF_JA => at += k as usize,
                _ => at += usize::from(if number >= k { jt } else { jf }),
            }
        }
    }

    #[test]
    fn every_number_gets_its_own_answer_and_no_other() {
        let (yes, no) = (SeccompAction::Allow, SeccompAction::Errno(1));
        let otherwise = SeccompAction::Errno(38);
        for (allowed, refused) in
            [(&[][..], &[][..]), (&[0], &[]), (&[0, 1, 2, 7], &[3, 5]), (&[4, 6, 8, 1000], &[5, 7, 999])]
        {
            let answers = allowed.iter().map(|n| (*n, yes.clone())).chain(refused.iter().map(|n| (*n, no.clone())));
            let answers = BTreeMap::from_iter(answers);
            let program = compile(&answers, otherwise.clone()).unwrap();
            for number in (0..2000).chain([0x4000_0000, 0x4000_0004, u32::MAX]) {
                let expected = answers.get(&i64::from(number)).unwrap_or(&otherwise).clone();
                assert_eq!(run(&program, number), u32::from(expected), "{number} of {allowed:?}, {refused:?}");
            }
        }
        assert!(compile(&BTreeMap::from([(-1, yes)]), otherwise).is_err());
    }
}
