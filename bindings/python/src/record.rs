//! Pickling what calls return.

use pyo3::PyClass;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::content::{
    Conflict, ConflictSide, ContentSettings, EvictReport, FetchReport, NameConflict, Unfetched,
};
use crate::entry::{BranchInfo, Closed, Difference, Entry, Snapshot};
use crate::node::{
    Behind, GrantInfo, JoinInfo, MemberInfo, PeerInfo, PeerStatus, SyncStatus, Unsent,
};
use crate::session::SessionInfo;
use crate::task::Progress;
use crate::upkeep::{
    ExportReport, FsckReport, GcReport, GcSchedule, ImportReport, Problem, Sharing, Stats,
    TreeSharing,
};
use crate::watch::{Event, EventPeer};

fn save<T: PyClass + Serialize>(object: &Bound<'_, PyAny>) -> Option<serde_json::Result<String>> {
    let record = object.cast_exact::<T>().ok()?;
    Some(serde_json::to_string(&*record.borrow()))
}

fn load<'py, T>(py: Python<'py>, state: &str) -> PyResult<Bound<'py, PyAny>>
where
    T: PyClass + for<'de> Deserialize<'de> + Into<PyClassInitializer<T>>,
{
    let record: T = serde_json::from_str(state).map_err(invalid)?;
    Ok(Bound::new(py, record)?.into_any())
}

fn invalid(error: serde_json::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

macro_rules! records {
    ($($record:ident),+ $(,)?) => {
        /// Returns what a record holds, as text.
        #[pyfunction]
        pub(crate) fn save_record(record: &Bound<'_, PyAny>) -> PyResult<String> {
            $(if let Some(state) = save::<$record>(record) {
                return state.map_err(invalid);
            })+
            Err(PyTypeError::new_err("not a record"))
        }

        /// Makes a record of a type again from what it held.
        #[pyfunction]
        pub(crate) fn load_record<'py>(
            py: Python<'py>,
            name: &str,
            state: &str,
        ) -> PyResult<Bound<'py, PyAny>> {
            match name {
                $(stringify!($record) => load::<$record>(py, state),)+
                _ => Err(PyTypeError::new_err("not a record")),
            }
        }
    };
}

records! {
    Behind, BranchInfo, Closed, Conflict, ConflictSide, ContentSettings, Difference, Entry, Event,
    EventPeer, EvictReport, ExportReport, FetchReport, FsckReport, GcReport, GcSchedule, GrantInfo,
    ImportReport, JoinInfo, MemberInfo, NameConflict, PeerInfo, PeerStatus, Problem, Progress, SessionInfo,
    Sharing, Snapshot, Stats, SyncStatus, TreeSharing, Unfetched, Unsent,
}
