//! Contents that are named and not here: reads that wait, the queue, pins and eviction.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod background;
mod evict;
mod fake;
mod reads;
