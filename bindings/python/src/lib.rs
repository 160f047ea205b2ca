//! The native module `alknet_fs._native` of the Python package `alknet-fs`.
//!
//! It converts types, calls the engine with the interpreter's lock released, and maps errors;
//! `sdk-python` builds the public package on it.

// What the macros of pyo3 expand to is unsafe.
#![allow(unsafe_code)]

mod args;
mod batch;
mod bucket;
mod content;
mod entry;
mod error;
mod file;
mod handle;
mod node;
mod reader;
mod record;
mod session;
mod store;
mod task;
mod tree;
mod upkeep;
mod waiting;
mod watch;

use pyo3::prelude::*;

/// The native part of `alknet_fs`; use that module.
#[pymodule(gil_used = false)]
mod _native {
    use super::{PyResult, Python, pyfunction};

    #[pymodule_export]
    use crate::batch::Batch;
    #[pymodule_export]
    use crate::bucket::Bucket;
    #[pymodule_export]
    use crate::content::{
        Conflict, ConflictSide, ContentSettings, EvictReport, FetchReport, NameConflict, Unfetched,
    };
    #[pymodule_export]
    use crate::entry::{BranchInfo, Closed, Difference, DirEntry, Entry, Snapshot};
    #[pymodule_export]
    use crate::error::kinds;
    #[pymodule_export]
    use crate::file::File;
    #[pymodule_export]
    use crate::node::{
        Behind, GrantInfo, JoinInfo, MemberInfo, Node, PeerInfo, PeerStatus, SyncStatus, Unsent,
    };
    #[pymodule_export]
    use crate::reader::Reader;
    #[pymodule_export]
    use crate::record::{load_record, save_record};
    #[pymodule_export]
    use crate::session::{Session, SessionInfo};
    #[pymodule_export]
    use crate::store::Store;
    #[pymodule_export]
    use crate::task::{Cancel, Progress};
    #[pymodule_export]
    use crate::tree::{Branch, Tree, View};
    #[pymodule_export]
    use crate::upkeep::{
        ExportReport, FsckReport, GcReport, GcSchedule, ImportReport, Problem, Sharing, Stats,
        TreeSharing,
    };
    #[pymodule_export]
    use crate::waiting::{call_stoppably, call_without_waiting};
    #[pymodule_export]
    use crate::watch::{Event, EventPeer, Watch};

    /// Tells the module that this process is a child made by `os.fork()`.
    #[pyfunction]
    fn forked(_py: Python<'_>) -> PyResult<()> {
        crate::handle::forked();
        Ok(())
    }
}
