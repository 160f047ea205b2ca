//! What the tests of alknet-fs share: the reference model of a tree of branches, and the harness
//! that compares a store with it.
#![allow(clippy::unwrap_used, reason = "everything here runs in tests only")]

pub mod fixture;
pub mod model;
pub mod ops;
pub mod world;
