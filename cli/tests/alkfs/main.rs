//! The real binary, driven as a program would drive it: by its arguments, its JSON and its exit
//! status.
#![allow(clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod bad_network;
mod bench;
mod branches;
mod conflicts;
mod content;
mod demo;
mod files;
mod history;
#[cfg(target_os = "linux")]
mod network;
#[cfg(target_os = "linux")]
mod progress;
mod sessions;
mod sync;
mod sync_doc;
mod trees;
mod upkeep;
mod usage;
