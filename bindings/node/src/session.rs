//! Write sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alknet_fs::{Error, ErrorKind, OpenOptions, Session, SessionInfo as Info};
use napi::bindgen_prelude::{BigInt, ToNapiValue, Uint8Array};
use napi_derive::napi;
use parking_lot::Mutex;

use crate::bytes::{Filled, Given, room};
use crate::convert::{Attributes, Bytes, ClosedInfo, bits, length};
use crate::handle::Handle;
use crate::job::{Outcome, now, run_on};

type Result<T> = std::result::Result<T, Error>;

/// How to open a session.
#[napi(object)]
#[derive(Clone)]
pub struct SessionOptions {
    pub create: Option<bool>,
    pub create_new: Option<bool>,
    pub truncate: Option<bool>,
    pub exclusive: Option<bool>,
    pub owner: Option<String>,
    pub mode: Option<f64>,
}

impl SessionOptions {
    pub(crate) fn options(self) -> Result<OpenOptions> {
        let mut options = OpenOptions::new()
            .create(self.create.unwrap_or(true))
            .create_new(self.create_new.unwrap_or(false))
            .truncate(self.truncate.unwrap_or(false))
            .exclusive(self.exclusive.unwrap_or(false));
        if let Some(owner) = self.owner {
            options = options.owner(owner);
        }
        if let Some(mode) = bits(self.mode, "mode")? {
            options = options.mode(mode);
        }
        Ok(options)
    }
}

/// What is known of an open session.
#[napi(object)]
pub struct SessionInfo {
    pub id: f64,
    pub bucket: String,
    pub branch: String,
    pub path: String,
    pub owner: String,
    pub exclusive: bool,
    pub staging: String,
    pub staged: f64,
    pub base: Option<f64>,
    pub created: BigInt,
    pub touched: BigInt,
    pub alive: bool,
}

impl From<Info> for SessionInfo {
    fn from(info: Info) -> Self {
        let staging = info.staging.name();
        Self {
            id: info.id.0 as f64,
            bucket: info.bucket,
            branch: info.branch,
            path: info.path.as_str().to_owned(),
            owner: info.owner,
            exclusive: info.exclusive,
            staging: staging.to_owned(),
            staged: info.staged as f64,
            base: info.base.map(|base| base as f64),
            created: info.created.0.into(),
            touched: info.touched.0.into(),
            alive: info.alive,
        }
    }
}

/// A file open for writing. One that is let go without being closed changes nothing.
#[napi]
pub struct SessionHandle {
    session: Handle<Session>,
    facts: Option<Facts>,
}

/// What is known of a session without waiting for an operation on it.
struct Facts {
    id: f64,
    path: String,
    size: Arc<Size>,
}

/// The size that a session has, read without waiting.
#[derive(Default)]
struct Size {
    known: AtomicU64,
    /// One at a time notes what it finds, so that the last to do so has seen what all did.
    noting: Mutex<()>,
}

impl Size {
    fn note(&self, session: &Session) {
        let _noting = self.noting.lock();
        self.known.store(session.size(), Ordering::SeqCst);
    }
}

impl From<Handle<Session>> for SessionHandle {
    fn from(session: Handle<Session>) -> Self {
        // One that is closed already says so to whoever asks.
        let facts = session.get().ok().map(|session| {
            let size = Arc::<Size>::default();
            size.note(&session);
            Facts {
                id: session.id().0 as f64,
                path: session.path().as_str().to_owned(),
                size,
            }
        });
        Self { session, facts }
    }
}

impl SessionHandle {
    fn with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        call: impl FnOnce(&Session) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let session = self.session.clone();
        let size = self.facts.as_ref().map(|facts| Arc::clone(&facts.size));
        run_on(self.session.writes(), later, move || {
            let session = session.get()?;
            let done = call(&session);
            if let Some(size) = size {
                size.note(&session);
            }
            done
        })
    }

    fn facts(&self) -> Result<&Facts> {
        self.session.get()?;
        self.facts.as_ref().ok_or(ErrorKind::BadHandle.into())
    }
}

#[napi]
impl SessionHandle {
    #[napi]
    pub fn id(&self) -> napi::Result<f64> {
        now(|| Ok(self.facts()?.id))
    }

    #[napi]
    pub fn path(&self) -> napi::Result<String> {
        now(|| Ok(self.facts()?.path.clone()))
    }

    #[napi]
    pub fn size(&self) -> napi::Result<f64> {
        now(|| Ok(self.facts()?.size.known.load(Ordering::SeqCst) as f64))
    }

    /// Fills a buffer from an offset. Returns how many bytes it read.
    #[napi]
    pub fn read_into(
        &self,
        buffer: Uint8Array,
        offset: f64,
        later: bool,
    ) -> napi::Result<Outcome<Filled>> {
        self.with(later, move |session| {
            let offset = length(offset)?;
            Filled::read(buffer, later, |bytes| session.read_at(offset, bytes))
        })
    }

    /// Reads up to so many bytes from an offset.
    #[napi]
    pub fn read(&self, offset: f64, len: f64, later: bool) -> napi::Result<Outcome<Bytes>> {
        self.with(later, move |session| {
            let offset = length(offset)?;
            let len = length(len)?.min(session.size().saturating_sub(offset));
            let mut buffer = room(len)?;
            let n = session.read_at(offset, &mut buffer)?;
            buffer.truncate(n);
            Ok(Bytes(buffer))
        })
    }

    /// Writes all bytes at an offset.
    #[napi]
    pub fn write(&self, data: Uint8Array, offset: f64, later: bool) -> napi::Result<Outcome<()>> {
        let data = Given::new(data, later);
        self.with(later, move |session| {
            session.write_at(length(offset)?, &data)
        })
    }

    /// Writes all bytes at the end. Returns where that was.
    #[napi]
    pub fn append(&self, data: Uint8Array, later: bool) -> napi::Result<Outcome<f64>> {
        let data = Given::new(data, later);
        self.with(later, move |session| {
            session.append(&data).map(|offset| offset as f64)
        })
    }

    #[napi]
    pub fn truncate(&self, size: f64, later: bool) -> napi::Result<Outcome<()>> {
        self.with(later, move |session| session.truncate(length(size)?))
    }

    #[napi]
    pub fn sync(&self, later: bool) -> napi::Result<Outcome<()>> {
        self.with(later, Session::sync)
    }

    /// Commits what was written, with attributes.
    #[napi]
    pub fn close(&self, attributes: Attributes, later: bool) -> napi::Result<Outcome<ClosedInfo>> {
        let handle = self.session.clone();
        self.with(later, move |session| {
            let closed = session.close_with(&attributes.set()?)?;
            handle.close();
            Ok(ClosedInfo::from(closed))
        })
    }

    /// Throws away what was written.
    #[napi]
    pub fn abort(&self, later: bool) -> napi::Result<Outcome<()>> {
        let handle = self.session.clone();
        self.with(later, move |session| {
            session.abort()?;
            handle.close();
            Ok(())
        })
    }

    /// Leaves the session open in the store.
    #[napi]
    pub fn detach(&self, later: bool) -> napi::Result<Outcome<f64>> {
        let session = self.session.clone();
        run_on(self.session.writes(), later, move || {
            session.take()?.detach().map(|id| id.0 as f64)
        })
    }
}
