//! How long a daemon that ended waits until it is started again, and when it is not any more.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Before the first restart; each further one within [`WINDOW`] waits twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Ends that are remembered.
const WINDOW: Duration = Duration::from_secs(30);
/// So many of them, and the bundle ends: what it protects is not to be had from a daemon that does not live.
const TOO_MANY: usize = 5;

/// The ends of one daemon.
#[derive(Default)]
pub(super) struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// It has ended: how long until it is started again? `None`: never.
    pub(super) fn ended(&mut self, now: Instant) -> Option<Duration> {
        self.0.retain(|earlier| now.duration_since(*earlier) < WINDOW);
        let wait = FIRST_WAIT * 2u32.pow(u32::try_from(self.0.len()).unwrap_or(u32::MAX).min(10));
        self.0.push_back(now);
        (self.0.len() < TOO_MANY).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_waits_twice_as_long_each_time_and_is_given_up_at_the_fifth_end() {
        let (mut restarts, now) = (Restarts::default(), Instant::now());
        let mut waits = || restarts.ended(now).map(|wait| wait.as_millis());
        assert_eq!([waits(), waits(), waits(), waits(), waits()], [Some(100), Some(200), Some(400), Some(800), None]);
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let (mut restarts, mut now) = (Restarts::default(), Instant::now());
        for _ in 0..20 {
            assert!(restarts.ended(now).is_some());
            now += WINDOW / 4;
        }
        assert_eq!(restarts.ended(now + WINDOW), Some(FIRST_WAIT));
    }
}
