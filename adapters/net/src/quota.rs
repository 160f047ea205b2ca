//! How often something may be done.

use std::time::Instant;

/// A token bucket: something may be done so many times at once, and so many times each second from
/// then on.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    most: f64,
    each_second: f64,
    left: f64,
    /// When that was left.
    since: Option<Instant>,
}

impl Quota {
    /// Makes one of which nothing is used.
    pub(crate) const fn new(most: u32, each_second: f64) -> Self {
        Self {
            most: most as f64,
            each_second,
            left: most as f64,
            since: None,
        }
    }

    /// Uses one time. Returns whether there was one left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let is_left = self.left >= 1.0;
        if is_left {
            self.left -= 1.0;
        }
        is_left
    }

    /// Tells whether it is like one of which nothing is used.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= self.most
    }

    fn refill(&mut self, now: Instant) {
        let passed = self.since.map_or(0.0, |since| {
            now.saturating_duration_since(since).as_secs_f64()
        });
        self.left = passed.mul_add(self.each_second, self.left).min(self.most);
        self.since = self.since.max(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_are_left_at_once_and_each_second() {
        let begun = Instant::now();
        let at = |millis: u64| begun + Duration::from_millis(millis);
        let mut quota = Quota::new(64, 5.0);
        assert!(quota.is_full(begun));
        for _ in 0..64 {
            assert!(quota.take(begun));
        }
        assert!(!quota.take(begun));
        assert!(!quota.take(at(100)));
        assert!(quota.take(at(250)));
        assert!(!quota.take(at(250)));
        let taken = (0..100).filter(|_| quota.take(at(3_600_000)));
        assert_eq!(taken.count(), 64, "no more are saved up");
    }

    #[test]
    fn what_is_not_used_comes_back_whole() {
        let begun = Instant::now();
        let mut quota = Quota::new(3, 0.5);
        assert!(quota.take(begun));
        assert!(!quota.is_full(begun + Duration::from_millis(1900)));
        assert!(quota.is_full(begun + Duration::from_millis(2100)));
    }

    #[test]
    fn a_time_before_the_last_one_adds_nothing() {
        let begun = Instant::now();
        let late = begun + Duration::from_secs(10);
        let mut quota = Quota::new(1, 1.0);
        assert!(quota.take(late));
        assert!(!quota.take(begun));
        assert!(!quota.take(late));
        assert!(quota.take(late + Duration::from_secs(1)));
    }
}
