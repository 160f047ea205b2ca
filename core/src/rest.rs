//! How long whoever follows commits leaves those alone who write.

use std::time::Duration;

/// The pauses between looks at what was committed. A look at a single commit is not late; looks at
/// commits that come without a pause become rare, so that they take little of the writers' time.
#[derive(Debug, Clone)]
pub struct Rest {
    least: u32,
    most: u32,
    longest: Duration,
    factor: u32,
}

impl Rest {
    /// Makes pauses that are between `least` and `most` times as long as the look before them took, and
    /// never longer than `longest`.
    pub const fn new(least: u32, most: u32, longest: Duration) -> Self {
        Self {
            least,
            most,
            longest,
            factor: least,
        }
    }

    /// Pauses after a look that took so long. `committed` says whether somebody committed since: it is
    /// asked after the shortest pause, as whoever commits now and then would be found after a long one, too.
    pub fn pause(
        &mut self,
        took: Duration,
        sleep: impl Fn(Duration),
        committed: impl FnOnce() -> bool,
    ) {
        let glance = self.glance(took);
        sleep(glance);
        let pressed = committed();
        sleep(self.after(took, pressed).saturating_sub(glance));
    }

    fn glance(&self, took: Duration) -> Duration {
        took.saturating_mul(self.least).min(self.longest)
    }

    /// Returns how long to pause after a look that took so long. `pressed` says whether somebody goes on
    /// committing: then it is twice as many times as long as before, else half as many.
    pub fn after(&mut self, took: Duration, pressed: bool) -> Duration {
        self.factor = match pressed {
            true => self.factor.saturating_mul(2).min(self.most),
            false => (self.factor / 2).max(self.least),
        };
        took.saturating_mul(self.factor).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_under_pressure_up_to_a_limit_and_shrink_without() {
        let ms = Duration::from_millis;
        let mut rest = Rest::new(4, 20, ms(50));
        assert_eq!(rest.after(ms(1), false), ms(4));
        assert_eq!(rest.after(ms(1), true), ms(8));
        assert_eq!(rest.after(ms(1), true), ms(16));
        assert_eq!(rest.after(ms(1), true), ms(20));
        assert_eq!(rest.after(ms(1), true), ms(20));
        assert_eq!(rest.after(ms(9), true), ms(50));
        assert_eq!(rest.after(ms(1), false), ms(10));
        assert_eq!(rest.after(ms(1), false), ms(5));
        assert_eq!(rest.after(ms(1), false), ms(4));
        assert_eq!(rest.after(Duration::MAX, true), ms(50));
        assert_eq!(rest.glance(ms(2)), ms(8));
        assert_eq!(rest.glance(Duration::MAX), ms(50));
    }
}
