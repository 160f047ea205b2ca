//! The one mapping from SQLite's errors to those of alknet-fs.

use alknet_fs_core::{Error, ErrorKind, Result};
use rusqlite::ffi;

/// Turns a result of rusqlite into one of alknet-fs.
pub(crate) trait DbResult<T> {
    fn db(self) -> Result<T>;
}

impl<T> DbResult<T> for rusqlite::Result<T> {
    fn db(self) -> Result<T> {
        self.map_err(from_sqlite)
    }
}

/// Maps an error to the kind a caller can act on, and keeps it as the source.
pub(crate) fn from_sqlite(error: rusqlite::Error) -> Error {
    Error::new(kind_of(&error)).source(error)
}

fn kind_of(error: &rusqlite::Error) -> ErrorKind {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(failure, message) => kind_of_failure(failure, message.as_deref()),
        E::SqlInputError { error, msg, .. } => kind_of_failure(error, Some(msg)),
        E::FromSqlConversionFailure(..)
        | E::InvalidColumnType(..)
        | E::IntegralValueOutOfRange(..)
        | E::Utf8Error(..) => ErrorKind::Corrupt,
        E::ToSqlConversionFailure(_) => ErrorKind::InvalidInput,
        _ => ErrorKind::Io,
    }
}

fn kind_of_failure(failure: &ffi::Error, message: Option<&str>) -> ErrorKind {
    use rusqlite::ErrorCode as C;
    match failure.code {
        // A lock protocol failure is what is left of many lost races for the same lock.
        C::DatabaseBusy | C::DatabaseLocked | C::FileLockingProtocolFailed => ErrorKind::Busy,
        C::DiskFull => ErrorKind::NoSpace,
        C::DatabaseCorrupt | C::NotADatabase => ErrorKind::Corrupt,
        C::SystemIoFailure if failure.extended_code == ffi::SQLITE_IOERR_CORRUPTFS => {
            ErrorKind::Corrupt
        }
        C::ReadOnly if failure.extended_code == ffi::SQLITE_READONLY_DBMOVED => ErrorKind::Io,
        C::ReadOnly | C::CannotOpen | C::PermissionDenied => ErrorKind::PermissionDenied,
        C::OperationInterrupted => ErrorKind::Cancelled,
        C::TooBig => ErrorKind::TooLarge,
        C::ConstraintViolation
            if matches!(
                failure.extended_code,
                ffi::SQLITE_CONSTRAINT_UNIQUE
                    | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                    | ffi::SQLITE_CONSTRAINT_ROWID
            ) =>
        {
            ErrorKind::AlreadyExists
        }
        C::ConstraintViolation | C::TypeMismatch => ErrorKind::InvalidInput,
        // The schema is not what the version number says, or the header is damaged.
        C::Unknown
            if message
                .is_some_and(|m| m.starts_with("no such ") || m == "unsupported file format") =>
        {
            ErrorKind::Corrupt
        }
        _ => ErrorKind::Io,
    }
}

/// Makes the error for a row that does not decode.
pub(crate) fn corrupt(table: &str, key: impl std::fmt::Display, why: &str) -> Error {
    Error::with_detail(
        ErrorKind::Corrupt,
        format!("table {table}, row {key}: {why}"),
    )
}

/// Makes the error for a change of something that is not there.
pub(crate) fn missing(what: &str, key: impl std::fmt::Display) -> Error {
    Error::with_detail(ErrorKind::NotFound, format!("there is no {what} {key}"))
}

/// Stores a number of bytes or a cursor; SQLite's integers have a sign.
pub(crate) fn to_i64(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| {
        let detail = format!("{number} is over the largest number a store keeps");
        Error::with_detail(ErrorKind::TooLarge, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: i32) -> ErrorKind {
        from_sqlite(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)).kind()
    }

    #[test]
    fn every_code_a_caller_can_act_on_has_its_kind() {
        for (code, want) in [
            (ffi::SQLITE_BUSY, ErrorKind::Busy),
            (ffi::SQLITE_BUSY_SNAPSHOT, ErrorKind::Busy),
            (ffi::SQLITE_LOCKED, ErrorKind::Busy),
            (ffi::SQLITE_PROTOCOL, ErrorKind::Busy),
            (ffi::SQLITE_FULL, ErrorKind::NoSpace),
            (ffi::SQLITE_CORRUPT, ErrorKind::Corrupt),
            (ffi::SQLITE_CORRUPT_INDEX, ErrorKind::Corrupt),
            (ffi::SQLITE_NOTADB, ErrorKind::Corrupt),
            (ffi::SQLITE_IOERR_CORRUPTFS, ErrorKind::Corrupt),
            (ffi::SQLITE_IOERR_READ, ErrorKind::Io),
            (ffi::SQLITE_IOERR_FSYNC, ErrorKind::Io),
            (ffi::SQLITE_READONLY, ErrorKind::PermissionDenied),
            (ffi::SQLITE_READONLY_DBMOVED, ErrorKind::Io),
            (ffi::SQLITE_CANTOPEN, ErrorKind::PermissionDenied),
            (ffi::SQLITE_PERM, ErrorKind::PermissionDenied),
            (ffi::SQLITE_INTERRUPT, ErrorKind::Cancelled),
            (ffi::SQLITE_TOOBIG, ErrorKind::TooLarge),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, ErrorKind::AlreadyExists),
            (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, ErrorKind::AlreadyExists),
            (ffi::SQLITE_CONSTRAINT_NOTNULL, ErrorKind::InvalidInput),
            (ffi::SQLITE_NOMEM, ErrorKind::Io),
        ] {
            assert_eq!(kind(code), want, "{code}");
        }
    }

    #[test]
    fn the_source_is_kept() {
        let error = from_sqlite(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_FULL),
            Some("database or disk is full".into()),
        ));
        assert!(std::error::Error::source(&error).is_some());
        assert!(
            error.to_string().contains("database or disk is full"),
            "{error}"
        );
    }
}
