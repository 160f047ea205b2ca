//! Many changes, one commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alknet_fs::{Batch, Error, ErrorKind, SetAttrs};
use napi::bindgen_prelude::{ToNapiValue, Uint8Array};
use napi_derive::napi;
use parking_lot::Mutex;

use crate::bytes::Given;
use crate::convert::{Attributes, follow, put_mode};
use crate::handle::Handle;
use crate::job::{Outcome, now, run_on};

type Result<T> = std::result::Result<T, Error>;

/// Changes that are committed together. A batch that is let go changes nothing.
#[napi]
pub struct BatchHandle {
    batch: Handle<Mutex<Batch>>,
    counts: Arc<Counts>,
}

impl From<Handle<Mutex<Batch>>> for BatchHandle {
    fn from(batch: Handle<Mutex<Batch>>) -> Self {
        let counts = Arc::default();
        Self { batch, counts }
    }
}

/// What a batch has collected, for those who do not wait for an operation on it.
#[derive(Default)]
struct Counts {
    changes: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn note(&self, batch: &Batch) {
        self.changes.store(batch.len() as u64, Ordering::Relaxed);
        self.bytes.store(batch.content_bytes(), Ordering::Relaxed);
    }
}

impl BatchHandle {
    fn collect<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        collect: impl FnOnce(&mut Batch) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let (batch, counts) = (self.batch.clone(), Arc::clone(&self.counts));
        run_on(self.batch.writes(), later, move || {
            let batch = batch.get()?;
            let mut batch = batch.lock();
            let collected = collect(&mut batch);
            counts.note(&batch);
            collected
        })
    }
}

#[napi]
impl BatchHandle {
    /// The number of changes.
    #[napi]
    pub fn len(&self) -> napi::Result<f64> {
        now(|| {
            self.batch.get()?;
            Ok(self.counts.changes.load(Ordering::Relaxed) as f64)
        })
    }

    /// The number of content bytes.
    #[napi]
    pub fn content_bytes(&self) -> napi::Result<f64> {
        now(|| {
            self.batch.get()?;
            Ok(self.counts.bytes.load(Ordering::Relaxed) as f64)
        })
    }

    #[napi]
    pub fn put(
        &self,
        path: String,
        data: Uint8Array,
        attributes: Attributes,
        create: bool,
        replace: bool,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        let data = Given::new(data, later);
        self.collect(later, move |batch| {
            let mode = put_mode(create, replace)?;
            batch.put(path, data.into_vec(), &attributes.set()?, mode)
        })
    }

    #[napi]
    pub fn mkdir(
        &self,
        path: String,
        attributes: Attributes,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| {
            batch.mkdir_with(path, &attributes.set()?)
        })
    }

    #[napi]
    pub fn mkdir_all(
        &self,
        path: String,
        attributes: Attributes,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| {
            if attributes.set()? != SetAttrs::default() {
                let detail = "a batch makes directories above another without attributes";
                return Err(Error::with_detail(ErrorKind::Unsupported, detail));
            }
            batch.mkdir_all(path)
        })
    }

    #[napi]
    pub fn symlink(
        &self,
        target: String,
        path: String,
        attributes: Attributes,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| {
            batch.symlink_with(&target, path, &attributes.set()?)
        })
    }

    #[napi]
    pub fn remove(&self, path: String, later: bool) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| batch.remove(path))
    }

    #[napi]
    pub fn remove_dir(&self, path: String, later: bool) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| batch.remove_dir(path))
    }

    #[napi]
    pub fn remove_all(&self, path: String, later: bool) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| batch.remove_all(path))
    }

    #[napi]
    pub fn rename(&self, from: String, to: String, later: bool) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| batch.rename(from, to))
    }

    #[napi]
    pub fn copy(&self, from: String, to: String, later: bool) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| batch.copy(from, to))
    }

    #[napi]
    pub fn set_attributes(
        &self,
        path: String,
        attributes: Attributes,
        links: bool,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.collect(later, move |batch| {
            batch.set_attrs(path, &attributes.set()?, follow(links))
        })
    }

    /// Commits all changes; the batch is over then, also where that fails.
    #[napi]
    pub fn commit(&self, later: bool) -> napi::Result<Outcome<()>> {
        let batch = self.batch.clone();
        run_on(self.batch.writes(), later, move || {
            batch.take()?.into_inner().commit()
        })
    }

    /// Drops all changes.
    #[napi]
    pub fn abort(&self) -> napi::Result<()> {
        now(|| {
            self.batch.close();
            Ok(())
        })
    }
}
