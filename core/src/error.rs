//! The one error type of alknet-fs and the one table from error kinds to `errno` values.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use crate::entry::Hash;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Defines [`ErrorKind`] together with the only table from a kind to its code, `errno` and meaning.
macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $code:literal, $errno:literal, $text:literal;)*) => {
        /// What went wrong, in terms a caller can act on.
        ///
        /// Every kind has one POSIX code ([`code`](Self::code)) and one Linux `errno` number
        /// ([`errno`](Self::errno)); bindings and servers derive their own error values from them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[$doc])* $kind,)* }

        impl ErrorKind {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Returns the symbolic POSIX code, for example `"ENOENT"`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// Returns the Linux `errno` number, for example `2` for `ENOENT`.
            pub const fn errno(self) -> i32 {
                match self { $(Self::$kind => $errno,)* }
            }

            /// Returns the kind's name as it appears in JSON, for example `"NotFound"`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// Returns the words that describe the kind when an error carries none of its own.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$kind => $text,)* }
            }
        }
    };
}

error_kinds! {
    /// No entry, bucket, branch, snapshot, session or content has that name.
    NotFound = "ENOENT", 2, "no such file or directory";
    /// The name is taken and the operation does not replace.
    AlreadyExists = "EEXIST", 17, "already exists";
    /// A component that must be a directory is something else.
    NotADirectory = "ENOTDIR", 20, "not a directory";
    /// A file operation met a directory.
    IsADirectory = "EISDIR", 21, "is a directory";
    /// The directory still has entries.
    NotEmpty = "ENOTEMPTY", 39, "directory not empty";
    /// The path or name breaks the rules of [`TreePath`](crate::TreePath).
    InvalidPath = "EINVAL", 22, "invalid path";
    /// A name of over 255 bytes or a path of over 4,096 bytes.
    NameTooLong = "ENAMETOOLONG", 36, "name too long";
    /// An argument is out of its range, or the operation makes no sense on its operands.
    InvalidInput = "EINVAL", 22, "invalid argument";
    /// More than 40 symbolic links were followed.
    TooManyLinks = "ELOOP", 40, "too many levels of symbolic links";
    /// Another session holds the exclusive lock of the path.
    Locked = "EBUSY", 16, "locked by another session";
    /// The object cannot go while others depend on it, for example a branch with children.
    InUse = "EBUSY", 16, "in use";
    /// The object can be read but not written, for example a snapshot.
    ReadOnly = "EROFS", 30, "read-only";
    /// The file is closed, or was not opened for this.
    BadHandle = "EBADF", 9, "bad file handle";
    /// The caller may not do this.
    PermissionDenied = "EACCES", 13, "permission denied";
    /// The disk is full.
    NoSpace = "ENOSPC", 28, "no space left on device";
    /// The file would be larger than the largest supported size.
    TooLarge = "EFBIG", 27, "file too large";
    /// The store stayed busy for longer than the busy timeout.
    Busy = "EAGAIN", 11, "the store is busy";
    /// The event cursor points at events that were pruned.
    Lagged = "EOVERFLOW", 75, "the cursor fell off the end of the event log";
    /// The caller asked the operation to stop.
    Cancelled = "ECANCELED", 125, "cancelled";
    /// Stored data does not match its hash or its structure.
    Corrupt = "EILSEQ", 84, "the stored data is corrupt";
    /// The content is not here, and did not come from whoever may have it: the path, its content's
    /// hash and who was asked are named. `EHOSTUNREACH`, as for a file server that is away: `EIO`
    /// would say that something is broken, and `ETIMEDOUT` that only time was short.
    ContentUnavailable = "EHOSTUNREACH", 113, "the content is not here";
    /// The directory is not an alknet-fs store, or a version this program cannot read.
    NotAStore = "EMEDIUMTYPE", 124, "not an alknet-fs store";
    /// The operation is not offered, for example hard links.
    Unsupported = "EOPNOTSUPP", 95, "operation not supported";
    /// The operating system reported an error of its own; see the source.
    Io = "EIO", 5, "input/output error";
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A failed operation: what kind of failure, in which operation, on which path, and why.
///
/// The message reads `OP PATH: what happened`. An error is one pointer wide, so a `Result` of a
/// small value stays small.
///
/// ```
/// use alknet_fs_core::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::NotFound).op("open").path("/a/b");
/// assert_eq!(error.to_string(), "open /a/b: no such file or directory");
/// assert_eq!(error.code(), "ENOENT");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    op: Option<&'static str>,
    path: Option<String>,
    detail: Option<String>,
    content: Option<Hash>,
    asked: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error of a kind, with nothing else known yet.
    pub fn new(kind: ErrorKind) -> Self {
        Self(Box::new(Inner {
            kind,
            op: None,
            path: None,
            detail: None,
            content: None,
            asked: Vec::new(),
            source: None,
        }))
    }

    /// Creates an error of a kind with words that replace the kind's own.
    pub fn with_detail(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let mut error = Self::new(kind);
        error.0.detail = Some(detail.into());
        error
    }

    /// Adds the operation's name, unless one is set: the innermost operation is kept.
    #[must_use]
    pub fn op(mut self, op: &'static str) -> Self {
        self.0.op.get_or_insert(op);
        self
    }

    /// Adds the path or name the operation was on, as it was given, unless one is set. The message
    /// escapes and cuts it where it must.
    #[must_use]
    pub fn path(mut self, path: impl fmt::Display) -> Self {
        self.0.path.get_or_insert_with(|| path.to_string());
        self
    }

    /// Adds the content that is not here, and who was asked for it.
    #[must_use]
    pub fn content(mut self, hash: Hash, asked: &[String]) -> Self {
        self.0.content = Some(hash);
        self.0.asked = asked.to_vec();
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the symbolic POSIX code of the kind.
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// Returns the Linux `errno` number of the kind.
    pub fn errno(&self) -> i32 {
        self.0.kind.errno()
    }

    /// Returns the operation that failed, if known.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.op
    }

    /// Returns the path or name the operation was on, if known.
    pub fn subject(&self) -> Option<&str> {
        self.0.path.as_deref()
    }

    /// Returns the content that is not here, of [`ErrorKind::ContentUnavailable`], if known.
    pub fn missing_content(&self) -> Option<Hash> {
        self.0.content
    }

    /// Returns who was asked for a content that is not here: the name of each peer, or the beginning of
    /// its key.
    pub fn asked(&self) -> &[String] {
        &self.0.asked
    }

    /// Returns the explanation without the operation and the path.
    pub fn detail(&self) -> &str {
        self.0.detail.as_deref().unwrap_or(self.0.kind.text())
    }

    /// Returns what the error says after the operation and the path: the explanation, and what
    /// caused it, where that says more.
    pub fn message(&self) -> Cow<'_, str> {
        let detail = self.detail();
        let Some(source) = &self.0.source else {
            return detail.into();
        };
        let source = source.to_string();
        // What the operating system says is often what the kind has said already.
        let words = source.split(" (os error ").next().unwrap_or_default();
        match words.eq_ignore_ascii_case(detail) {
            true => detail.into(),
            false => format!("{detail}: {source}").into(),
        }
    }

    /// Tells whether something that was named does not exist.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// Tells whether a name was taken.
    pub fn is_already_exists(&self) -> bool {
        self.0.kind == ErrorKind::AlreadyExists
    }

    /// Tells whether another session holds the path's lock.
    pub fn is_locked(&self) -> bool {
        self.0.kind == ErrorKind::Locked
    }

    /// Tells whether stored data failed its verification.
    pub fn is_corrupt(&self) -> bool {
        self.0.kind == ErrorKind::Corrupt
    }

    /// Tells whether a content is not here and could not be fetched.
    pub fn is_content_unavailable(&self) -> bool {
        self.0.kind == ErrorKind::ContentUnavailable
    }

    /// Tells whether the caller asked the operation to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.kind == ErrorKind::Cancelled
    }
}

/// Renders a path or name for a message: quoted and escaped where it is empty or would garble the
/// line, and cut where it would drown it.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 300;
    let end = text.char_indices().nth(LONGEST).map(|(at, _)| at);
    let (head, dots) = match end {
        Some(end) => (&text[..end], "..."),
        None => (text, ""),
    };
    if text.is_empty() || head.contains(char::is_control) {
        return format!("{head:?}{dots}").into();
    }
    match end {
        Some(_) => format!("{head}{dots}").into(),
        None => text.into(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { op, path, .. } = &*self.0;
        let path = path.as_deref().map(shown);
        match (op, &path) {
            (Some(op), Some(path)) => write!(f, "{op} {path}: ")?,
            (Some(op), None) => write!(f, "{op}: ")?,
            (None, Some(path)) => write!(f, "{path}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("op", &self.0.op)
            .field("path", &self.0.path)
            .field("detail", &self.0.detail)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static))
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

impl From<std::io::Error> for Error {
    /// Maps an operating system error to the nearest kind and keeps it as the source.
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Os;
        let kind = match error.kind() {
            Os::NotFound => ErrorKind::NotFound,
            Os::AlreadyExists => ErrorKind::AlreadyExists,
            Os::PermissionDenied => ErrorKind::PermissionDenied,
            Os::NotADirectory => ErrorKind::NotADirectory,
            Os::IsADirectory => ErrorKind::IsADirectory,
            Os::DirectoryNotEmpty => ErrorKind::NotEmpty,
            Os::StorageFull | Os::QuotaExceeded => ErrorKind::NoSpace,
            Os::FileTooLarge => ErrorKind::TooLarge,
            Os::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            Os::InvalidFilename => ErrorKind::InvalidPath,
            _ => ErrorKind::Io,
        };
        // An alknet-fs error that travelled through `std::io` comes back as it was.
        if error.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            let inner = error.into_inner().and_then(|e| e.downcast::<Self>().ok());
            return inner.map_or_else(|| Self::new(ErrorKind::Io), |e| *e);
        }
        Self::new(kind).source(error)
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        use std::io::ErrorKind as Os;
        let kind = match error.kind() {
            ErrorKind::NotFound => Os::NotFound,
            ErrorKind::AlreadyExists => Os::AlreadyExists,
            ErrorKind::NotADirectory => Os::NotADirectory,
            ErrorKind::IsADirectory => Os::IsADirectory,
            ErrorKind::NotEmpty => Os::DirectoryNotEmpty,
            ErrorKind::InvalidPath | ErrorKind::InvalidInput => Os::InvalidInput,
            ErrorKind::NameTooLong => Os::InvalidFilename,
            ErrorKind::Locked | ErrorKind::InUse => Os::ResourceBusy,
            ErrorKind::ReadOnly => Os::ReadOnlyFilesystem,
            ErrorKind::PermissionDenied => Os::PermissionDenied,
            ErrorKind::NoSpace => Os::StorageFull,
            ErrorKind::TooLarge => Os::FileTooLarge,
            ErrorKind::Busy => Os::WouldBlock,
            ErrorKind::Corrupt => Os::InvalidData,
            ErrorKind::ContentUnavailable => Os::HostUnreachable,
            ErrorKind::Unsupported => Os::Unsupported,
            _ => Os::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn innermost_operation_and_path_win() {
        let error = Error::new(ErrorKind::NotEmpty)
            .op("rmdir")
            .path("/a")
            .op("remove_all")
            .path("/");
        assert_eq!(error.to_string(), "rmdir /a: directory not empty");
    }

    #[test]
    fn nothing_is_said_twice() {
        let text = |errno: i32| Error::from(std::io::Error::from_raw_os_error(errno)).to_string();
        #[cfg(target_os = "linux")]
        {
            assert_eq!(text(2), "no such file or directory");
            assert_eq!(
                text(1),
                "permission denied: Operation not permitted (os error 1)"
            );
        }
        assert!(text(5).starts_with("input/output error"));
        let inner = Error::new(ErrorKind::IsADirectory);
        let outer = Error::new(ErrorKind::IsADirectory).path("/a").source(inner);
        assert_eq!(outer.to_string(), "/a: is a directory");
    }

    #[test]
    fn survives_a_trip_through_io_error() {
        let io = std::io::Error::from(Error::new(ErrorKind::Lagged).path("7"));
        assert_eq!(Error::from(io).kind(), ErrorKind::Lagged);
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut names: Vec<_> = ErrorKind::ALL.iter().map(|k| k.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }
}
