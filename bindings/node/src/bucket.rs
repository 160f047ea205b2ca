//! Buckets.

use alknet_fs::{BranchInfo, Bucket, Cursor, Error, Retention, Sharing, TreeRef};
use napi::bindgen_prelude::{BigInt, ToNapiValue};
use napi_derive::napi;

use crate::content::{ConflictInfo, FetchInfo, NameConflictInfo, SettingsInfo, patience, policy};
use crate::convert::{DifferenceInfo, FilterOptions, cursor, timestamp, whole};
use crate::handle::Handle;
use crate::job::{Outcome, now, run, run_on};
use crate::lane::Lane;
use crate::task::TaskHandle;
use crate::tree::{Source, Tree};
use crate::waiting;
use crate::watch::EventInfo;

type Result<T> = std::result::Result<T, Error>;

/// A bucket.
#[napi]
pub struct BucketHandle {
    bucket: Handle<Bucket>,
}

impl From<Handle<Bucket>> for BucketHandle {
    fn from(bucket: Handle<Bucket>) -> Self {
        Self { bucket }
    }
}

impl BucketHandle {
    fn with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        call: impl FnOnce(&Bucket) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let bucket = self.bucket.clone();
        run(later, move || call(&*bucket.get()?))
    }

    fn change<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        call: impl FnOnce(&Bucket) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let bucket = self.bucket.clone();
        run_on(self.bucket.writes(), later, move || call(&*bucket.get()?))
    }

    fn make<T: Into<Source>>(
        &self,
        later: bool,
        call: impl FnOnce(&Bucket) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<Tree>> {
        let bucket = self.bucket.clone();
        run_on(self.bucket.writes(), later, move || {
            let made = call(&*bucket.get()?)?;
            Ok(Tree::new(&bucket, made.into()))
        })
    }
}

/// What is known of a branch.
#[napi(object)]
pub struct BranchFacts {
    pub name: String,
    pub created: BigInt,
    pub parent: Option<String>,
    pub live: bool,
    pub snapshots: f64,
}

impl From<BranchInfo> for BranchFacts {
    fn from(info: BranchInfo) -> Self {
        Self {
            name: info.name,
            created: info.created.0.into(),
            parent: info.parent,
            live: info.live,
            snapshots: info.snapshots as f64,
        }
    }
}

/// What one of several trees holds, and shares with the others.
#[napi(object)]
pub struct TreeSharingInfo {
    pub tree: String,
    pub files: f64,
    pub bytes: f64,
    pub shared_files: f64,
    pub stored: f64,
    pub shared: f64,
}

/// How much content trees have in common.
#[napi(object)]
pub struct SharingInfo {
    pub trees: Vec<TreeSharingInfo>,
    pub stored: f64,
    pub apart: f64,
}

impl From<Sharing> for SharingInfo {
    fn from(sharing: Sharing) -> Self {
        let trees = sharing.trees.into_iter().map(|tree| TreeSharingInfo {
            tree: tree.tree.to_string(),
            files: tree.files as f64,
            bytes: tree.bytes as f64,
            shared_files: tree.shared_files as f64,
            stored: tree.stored as f64,
            shared: tree.shared as f64,
        });
        Self {
            trees: trees.collect(),
            stored: sharing.stored as f64,
            apart: sharing.apart as f64,
        }
    }
}

#[napi]
impl BucketHandle {
    #[napi]
    pub fn name(&self) -> napi::Result<String> {
        now(|| self.bucket.get()?.name())
    }

    #[napi]
    pub fn branch(&self, name: String) -> napi::Result<Tree> {
        now(|| {
            let branch = self.bucket.get()?.branch(&name)?;
            Ok(Tree::new(&self.bucket, branch.into()))
        })
    }

    #[napi]
    pub fn branches(&self, later: bool) -> napi::Result<Outcome<Vec<BranchFacts>>> {
        self.with(later, |bucket| {
            let branches = bucket.branches()?.into_iter();
            Ok(branches.map(BranchFacts::from).collect())
        })
    }

    /// Opens a view of `BRANCH` or `BRANCH@SNAPSHOT`.
    #[napi]
    pub fn view(&self, tree: String, later: bool) -> napi::Result<Outcome<Tree>> {
        self.make(later, move |bucket| {
            let view = bucket.view(&tree.parse()?)?;
            Ok(view.fetching(&waiting::fetching(None)))
        })
    }

    /// Forks a branch off `BRANCH` or `BRANCH@SNAPSHOT`.
    #[napi]
    pub fn fork(&self, from: String, name: String, later: bool) -> napi::Result<Outcome<Tree>> {
        self.make(later, move |bucket| bucket.fork(&from.parse()?, &name))
    }

    #[napi]
    pub fn delete_branch(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.change(later, move |bucket| bucket.delete_branch(&name))
    }

    #[napi]
    pub fn diff(
        &self,
        from: String,
        to: String,
        under: String,
        later: bool,
    ) -> napi::Result<Outcome<Vec<DifferenceInfo>>> {
        self.with(later, move |bucket| {
            let found = bucket.diff(&from.parse()?, &to.parse()?, under)?;
            Ok(found.into_iter().map(DifferenceInfo::new).collect())
        })
    }

    /// Lists events from the newest, or from those before a position.
    #[napi]
    pub fn log(
        &self,
        filter: FilterOptions,
        before: Option<f64>,
        limit: f64,
        later: bool,
    ) -> napi::Result<Outcome<Vec<EventInfo>>> {
        self.with(later, move |bucket| {
            let limit = whole(limit, "number of events")?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let before = before.map(cursor).transpose()?.unwrap_or(Cursor(u64::MAX));
            let events = bucket.log_before(before, &filter.filter()?, limit)?;
            Ok(events.into_iter().map(EventInfo::from).collect())
        })
    }

    #[napi]
    pub fn prune_events(
        &self,
        at_most: Option<f64>,
        not_before: Option<BigInt>,
        later: bool,
    ) -> napi::Result<Outcome<f64>> {
        self.change(later, move |bucket| {
            let at_most = at_most.map(|count| whole(count, "number of events"));
            let not_before = not_before.map(|time| timestamp(&time));
            let retention = Retention {
                at_most: at_most.transpose()?,
                not_before: not_before.transpose()?,
            };
            bucket.prune_events(&retention).map(|count| count as f64)
        })
    }

    #[napi]
    pub fn sharing(
        &self,
        trees: Vec<String>,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<SharingInfo>> {
        let task = task.task();
        let bucket = self.bucket.clone();
        run_on(self.bucket.tasks(), later, move || {
            let trees: Result<Vec<TreeRef>> = trees.iter().map(|tree| tree.parse()).collect();
            let sharing = bucket.get()?.sharing(&trees?, &task)?;
            Ok(SharingInfo::from(sharing))
        })
    }
}

/// Contents that are elsewhere, and conflicts.
#[napi]
impl BucketHandle {
    #[napi]
    pub fn content_settings(&self, later: bool) -> napi::Result<Outcome<SettingsInfo>> {
        self.with(later, |bucket| {
            bucket.content_settings().map(SettingsInfo::from)
        })
    }

    #[napi]
    pub fn set_content_policy(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.change(later, move |bucket| {
            bucket.set_content_policy(policy(&name)?)
        })
    }

    /// Sets how many milliseconds reads wait.
    #[napi]
    pub fn set_content_timeout(&self, timeout: f64, later: bool) -> napi::Result<Outcome<()>> {
        self.change(later, move |bucket| {
            bucket.set_content_timeout(patience(timeout)?)
        })
    }

    #[napi]
    pub fn pin(&self, pattern: String, later: bool) -> napi::Result<Outcome<()>> {
        self.change(later, move |bucket| bucket.pin(&pattern))
    }

    #[napi]
    pub fn has_match(&self, pattern: String, later: bool) -> napi::Result<Outcome<bool>> {
        self.with(later, move |bucket| bucket.has_match(&pattern))
    }

    #[napi]
    pub fn unpin(&self, pattern: String, later: bool) -> napi::Result<Outcome<()>> {
        self.change(later, move |bucket| bucket.unpin(&pattern))
    }

    #[napi]
    pub fn fetch(&self, task: &TaskHandle, later: bool) -> napi::Result<Outcome<FetchInfo>> {
        let (task, bucket) = (task.task(), self.bucket.clone());
        run_on(Lane::waiting(), later, move || {
            Ok(FetchInfo::from(bucket.get()?.fetch(&task)?))
        })
    }

    #[napi]
    pub fn conflicts(&self, later: bool) -> napi::Result<Outcome<Vec<ConflictInfo>>> {
        self.with(later, |bucket| {
            let conflicts = bucket.conflicts()?.into_iter();
            Ok(conflicts.map(ConflictInfo::from).collect())
        })
    }

    #[napi]
    pub fn name_conflicts(&self, later: bool) -> napi::Result<Outcome<Vec<NameConflictInfo>>> {
        self.with(later, |bucket| {
            let conflicts = bucket.name_conflicts()?.into_iter();
            Ok(conflicts.map(NameConflictInfo::from).collect())
        })
    }
}
