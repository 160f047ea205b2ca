//! The clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_fs_core::Timestamp;

/// Returns the present time.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.unwrap_or_default().as_nanos();
    Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// Returns how long it is until a time, or nothing where that is over.
pub(crate) fn until(at: Timestamp) -> Duration {
    let nanos = at.0.saturating_sub(now().0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}
