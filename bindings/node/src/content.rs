//! Contents that are elsewhere, and conflicts.

use std::time::Duration;

use alknet_fs::{
    Conflict, ContentPolicy, ContentSettings, Error, ErrorKind, EvictReport, FetchReport, Keep,
    NameConflict, Side,
};
use napi::bindgen_prelude::{BigInt, Either};
use napi_derive::napi;

use crate::convert::{EntryInfo, milliseconds, whole};
use crate::watch::EventPeerInfo;

/// What a bucket does about contents that are elsewhere.
#[napi(object)]
pub struct SettingsInfo {
    pub policy: String,
    /// In milliseconds.
    pub timeout: f64,
    pub pins: Vec<String>,
}

impl From<ContentSettings> for SettingsInfo {
    fn from(settings: ContentSettings) -> Self {
        Self {
            policy: settings.policy.name().to_owned(),
            timeout: settings.timeout.as_secs_f64() * 1000.0,
            pins: settings.pins,
        }
    }
}

/// A content that could not be fetched.
#[napi(object)]
pub struct UnfetchedInfo {
    pub path: String,
    pub hash: String,
    pub why: String,
}

/// What a fetch brought.
#[napi(object)]
pub struct FetchInfo {
    pub contents: f64,
    pub bytes: f64,
    pub failed: Vec<UnfetchedInfo>,
    pub more_failed: f64,
}

impl From<FetchReport> for FetchInfo {
    fn from(report: FetchReport) -> Self {
        let failed = report.failed.into_iter().map(|unfetched| UnfetchedInfo {
            path: unfetched.path.as_str().to_owned(),
            hash: unfetched.hash.to_hex(),
            why: unfetched.why,
        });
        Self {
            contents: report.contents as f64,
            bytes: report.bytes as f64,
            failed: failed.collect(),
            more_failed: report.more_failed as f64,
        }
    }
}

/// What an eviction removed.
#[napi(object)]
pub struct EvictInfo {
    pub contents: f64,
    pub bytes: f64,
    pub bytes_here: f64,
    pub only_here: f64,
    pub only_here_bytes: f64,
    pub promised: f64,
    pub promised_bytes: f64,
    pub promised_until: Option<BigInt>,
    pub files_deferred: bool,
}

impl From<EvictReport> for EvictInfo {
    fn from(report: EvictReport) -> Self {
        Self {
            contents: report.contents as f64,
            bytes: report.bytes as f64,
            bytes_here: report.bytes_here as f64,
            only_here: report.only_here as f64,
            only_here_bytes: report.only_here_bytes as f64,
            promised: report.promised as f64,
            promised_bytes: report.promised_bytes as f64,
            promised_until: report.promised_until.map(|at| at.0.into()),
            files_deferred: report.files_deferred,
        }
    }
}

/// One side of a conflict.
#[napi(object)]
pub struct SideInfo {
    pub entry: Option<EntryInfo>,
    pub content_here: bool,
    pub at: Option<BigInt>,
    pub replica: Option<String>,
    pub here: bool,
    pub peer: Option<EventPeerInfo>,
}

impl From<Side> for SideInfo {
    fn from(side: Side) -> Self {
        let written = side.written;
        Self {
            entry: side.entry.as_ref().map(EntryInfo::from),
            content_here: side.content_here,
            at: written.as_ref().map(|written| written.at.0.into()),
            replica: written.as_ref().map(|written| written.replica.to_string()),
            here: written.as_ref().is_some_and(|written| written.here),
            peer: written.and_then(|written| written.peer.map(EventPeerInfo::from)),
        }
    }
}

/// A path that nodes wrote without knowing of each other.
#[napi(object)]
pub struct ConflictInfo {
    pub branch: String,
    pub path: String,
    pub shown: SideInfo,
    pub others: Vec<SideInfo>,
}

impl From<Conflict> for ConflictInfo {
    fn from(conflict: Conflict) -> Self {
        Self {
            branch: conflict.branch,
            path: conflict.path.as_str().to_owned(),
            shown: conflict.shown.into(),
            others: conflict.others.into_iter().map(SideInfo::from).collect(),
        }
    }
}

/// A branch or a snapshot that has a suffix here.
#[napi(object)]
pub struct NameConflictInfo {
    pub branch: String,
    pub snapshot: Option<String>,
    pub name: String,
    pub at: Option<BigInt>,
    pub replica: Option<String>,
    pub here: bool,
    pub peer: Option<EventPeerInfo>,
}

impl From<NameConflict> for NameConflictInfo {
    fn from(conflict: NameConflict) -> Self {
        let written = conflict.written;
        Self {
            branch: conflict.branch,
            snapshot: conflict.snapshot,
            name: conflict.name,
            at: written.as_ref().map(|written| written.at.0.into()),
            replica: written.as_ref().map(|written| written.replica.to_string()),
            here: written.as_ref().is_some_and(|written| written.here),
            peer: written.and_then(|written| written.peer.map(EventPeerInfo::from)),
        }
    }
}

/// Reads what a conflict is to keep.
pub(crate) fn keeps(keep: &Either<String, f64>) -> Result<Keep, Error> {
    match keep {
        Either::A(how) if how == "shown" => Ok(Keep::Winner),
        Either::A(how) if how == "both" => Ok(Keep::Both),
        Either::A(how) => {
            let detail = format!("{how:?} is neither 'shown' nor 'both' nor the place of a side");
            Err(Error::with_detail(ErrorKind::InvalidInput, detail).op("resolve"))
        }
        Either::B(place) => {
            let place = whole(*place, "place of a side")?;
            Ok(Keep::Loser(usize::try_from(place).unwrap_or(usize::MAX)))
        }
    }
}

/// Reads the name of a policy.
pub(crate) fn policy(name: &str) -> Result<ContentPolicy, Error> {
    let all = [ContentPolicy::Eager, ContentPolicy::OnRead];
    let found = all.into_iter().find(|policy| policy.name() == name);
    found.ok_or_else(|| {
        let detail = format!("{name:?} is neither 'eager' nor 'on-read'");
        Error::with_detail(ErrorKind::InvalidInput, detail)
    })
}

/// Reads for how many milliseconds to wait.
pub(crate) fn patience(timeout: f64) -> Result<Duration, Error> {
    match timeout == f64::INFINITY {
        true => Ok(Duration::MAX),
        false => milliseconds(timeout),
    }
}
