//! Nodes over loopback.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod common;
mod hostile;
mod members;
mod nodes;
