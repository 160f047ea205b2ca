//! Stores and buckets.

use std::time::Duration;

use alknet_fs::{Bucket, Durability, Error, ErrorKind, Options, Store};
use napi_derive::napi;

use crate::job::{Outcome, raised, run};
use crate::tree::Tree;

/// How to open a store.
#[napi(object)]
pub struct StoreOptions {
    /// `"open"`, `"create"`, or either as needed.
    pub mode: Option<String>,
    pub author: Option<String>,
    pub relaxed: Option<bool>,
    pub busy_timeout: Option<u32>,
}

impl StoreOptions {
    fn open(self, path: Option<String>) -> Result<Store, Error> {
        let mut options = Options::new();
        if let Some(author) = self.author {
            options = options.author(author);
        }
        if self.relaxed == Some(true) {
            options = options.durability(Durability::Relaxed);
        }
        if let Some(timeout) = self.busy_timeout {
            options = options.busy_timeout(Duration::from_millis(timeout.into()));
        }
        let Some(path) = path else {
            return options.memory();
        };
        match self.mode.as_deref() {
            None => options.open_or_create(path),
            Some("open") => options.open(path),
            Some("create") => options.create(path),
            Some(other) => {
                let detail = format!("{other:?} is no way to open a store");
                Err(Error::with_detail(ErrorKind::InvalidInput, detail))
            }
        }
    }
}

/// A store.
#[napi]
pub struct StoreHandle {
    store: Store,
}

#[napi]
impl StoreHandle {
    /// Opens a store in a directory, or makes one in memory.
    #[napi]
    pub fn open(
        path: Option<String>,
        options: StoreOptions,
        later: bool,
    ) -> napi::Result<Outcome<StoreHandle>> {
        run(later, move || {
            options.open(path).map(|store| StoreHandle { store })
        })
    }

    #[napi]
    pub fn path(&self) -> Option<String> {
        let path = self.store.path()?;
        Some(path.to_string_lossy().into_owned())
    }

    #[napi]
    pub fn bucket(&self, name: String) -> napi::Result<BucketHandle> {
        let bucket = self.store.bucket(&name).map_err(raised)?;
        Ok(BucketHandle { bucket })
    }

    #[napi]
    pub fn buckets(&self, later: bool) -> napi::Result<Outcome<Vec<String>>> {
        let store = self.store.clone();
        run(later, move || store.buckets())
    }

    #[napi]
    pub fn create_bucket(&self, name: String, later: bool) -> napi::Result<Outcome<BucketHandle>> {
        let store = self.store.clone();
        run(later, move || {
            store
                .create_bucket(&name)
                .map(|bucket| BucketHandle { bucket })
        })
    }

    #[napi]
    pub fn rename_bucket(
        &self,
        name: String,
        to: String,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        let store = self.store.clone();
        run(later, move || store.rename_bucket(&name, &to))
    }

    #[napi]
    pub fn delete_bucket(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        let store = self.store.clone();
        run(later, move || store.delete_bucket(&name))
    }
}

/// A bucket.
#[napi]
pub struct BucketHandle {
    bucket: Bucket,
}

/// What is known of a branch.
#[napi(object)]
pub struct BranchFacts {
    pub name: String,
    pub parent: Option<String>,
    pub live: bool,
    pub snapshots: u32,
}

#[napi]
impl BucketHandle {
    #[napi]
    pub fn name(&self) -> napi::Result<String> {
        self.bucket.name().map_err(raised)
    }

    #[napi]
    pub fn branch(&self, name: String) -> napi::Result<Tree> {
        self.bucket.branch(&name).map(Tree::from).map_err(raised)
    }

    #[napi]
    pub fn branches(&self, later: bool) -> napi::Result<Outcome<Vec<BranchFacts>>> {
        let bucket = self.bucket.clone();
        run(later, move || {
            let branches = bucket.branches()?.into_iter();
            let facts = branches.map(|info| BranchFacts {
                name: info.name,
                parent: info.parent,
                live: info.live,
                snapshots: u32::try_from(info.snapshots).unwrap_or(u32::MAX),
            });
            Ok(facts.collect())
        })
    }

    #[napi]
    pub fn delete_branch(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        let bucket = self.bucket.clone();
        run(later, move || bucket.delete_branch(&name))
    }
}
