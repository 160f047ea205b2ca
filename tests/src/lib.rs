//! What the tests of alknet-fs share: the reference model of a tree of branches, the harness that
//! compares a store with it, and a store that fails on demand.
#![allow(clippy::unwrap_used, reason = "everything here runs in tests only")]

pub mod crowd;
pub mod faulty;
pub mod fixture;
pub mod model;
pub mod ops;
pub mod power;
pub mod worker;
pub mod workload;
pub mod world;
