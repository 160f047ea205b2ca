//! The rows of the report, one module for each group.

pub(crate) mod batch;
pub(crate) mod content;
pub(crate) mod depth;
pub(crate) mod edit;
pub(crate) mod fork;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod open;
pub(crate) mod put;
pub(crate) mod python;
pub(crate) mod read;
pub(crate) mod rename;
pub(crate) mod sdk;
pub(crate) mod stream;
pub(crate) mod sync;
pub(crate) mod tree;
