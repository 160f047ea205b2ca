//! The native half of the Node package `alknet-fs`: it converts types, calls the engine and maps
//! errors. The package's TypeScript layer gives it the shape of `node:fs`.
//!
//! Every operation is one method whose last argument says where it runs: on the calling thread, or
//! as a promise on another one, with all that it does in one hop. What only reads goes to libuv's
//! pool; what changes something may have to wait for other writers, and what goes through all of a
//! tree takes long: those have threads of their own. So has what waits for contents that are elsewhere.

// Handing bytes to JavaScript, and writing into its buffers, takes calls that Rust cannot check.
#![allow(unsafe_code)]
// What JavaScript calls is public, whatever Rust reaches; and `Self` is unknown where the macros
// repeat a method's types.
#![allow(unreachable_pub, clippy::use_self)]

mod batch;
mod bucket;
mod bytes;
mod content;
mod convert;
mod file;
mod handle;
mod job;
mod lane;
mod node;
#[cfg(all(debug_assertions, not(test)))]
mod panic;
mod reader;
mod session;
mod store;
mod task;
mod tree;
mod waiting;
mod watch;
