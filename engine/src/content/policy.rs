//! Which contents a bucket wants here.

use std::ops::ControlFlow;
use std::time::Duration;

use alknet_fs_core::event::glob_set;
use alknet_fs_core::store::{BucketId, ReadTxn, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Result, TreePath};
use serde::{Deserialize, Serialize};

use crate::bucket::Bucket;

/// Which contents are fetched before anybody reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentPolicy {
    /// All that the bucket's branches and snapshots show, and what lost in conflicts that nobody has
    /// decided.
    Eager,
    /// None but those of [pinned paths](Bucket::pin). The default.
    #[default]
    OnRead,
}

impl ContentPolicy {
    /// Returns the name as it appears in JSON: `"eager"` or `"on-read"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::OnRead => "on-read",
        }
    }
}

/// What a bucket does about contents that are not here. It is kept in the store: all processes follow
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentSettings {
    /// Which contents are fetched before anybody reads them.
    #[serde(default)]
    pub policy: ContentPolicy,
    /// How long a read waits for a content, unless [`Fetching`](crate::Fetching) says otherwise. 30 s
    /// by default.
    pub timeout: Duration,
    /// The pinned paths, as they were given.
    #[serde(default)]
    pub pins: Vec<String>,
}

impl Default for ContentSettings {
    fn default() -> Self {
        Self {
            policy: ContentPolicy::default(),
            timeout: Duration::from_secs(30),
            pins: Vec::new(),
        }
    }
}

const SETTINGS: &str = "settings";

/// Names the cursor of the events up to which what is wanted was queued.
pub(super) const CURSOR: &str = "cursor";

/// Names the number of the content that lost in a conflict up to which what is wanted was queued.
pub(super) const LOST: &str = "lost";

/// Returns the scope of the values that are kept of a bucket's contents.
pub(super) fn scope(bucket: BucketId) -> String {
    format!("content/{bucket}")
}

pub(super) fn load(txn: &dyn ReadTxn, bucket: BucketId) -> Result<ContentSettings> {
    let Some(value) = txn.value(&scope(bucket), SETTINGS)? else {
        return Ok(ContentSettings::default());
    };
    serde_json::from_slice(&value).map_err(|e| {
        let detail = format!("the bucket's content settings are bad: {e}");
        Error::with_detail(ErrorKind::Corrupt, detail)
    })
}

fn save(txn: &mut dyn WriteTxn, bucket: BucketId, settings: &ContentSettings) -> Result<()> {
    let value = serde_json::to_vec(settings).map_err(|e| Error::new(ErrorKind::Io).source(e))?;
    txn.set_value(&scope(bucket), SETTINGS, Some(&value))
}

impl Bucket {
    /// Returns what the bucket does about contents that are not here.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where what is kept of that does not parse.
    pub fn content_settings(&self) -> Result<ContentSettings> {
        load(&*self.inner.tree.read()?, self.id)
    }

    /// Sets which contents are fetched before anybody reads them. What is missing by then is fetched
    /// in the background, by the process that runs the node.
    pub fn set_content_policy(&self, policy: ContentPolicy) -> Result<()> {
        self.change_settings(|settings| {
            settings.policy = policy;
            Ok(())
        })
    }

    /// Sets how long reads wait for a content.
    pub fn set_content_timeout(&self, timeout: Duration) -> Result<()> {
        self.change_settings(|settings| {
            settings.timeout = timeout;
            Ok(())
        })
    }

    /// Pins paths, in all branches and snapshots of the bucket: their contents are fetched in the
    /// background, and stay.
    ///
    /// A pattern is a path, with all below it, or a glob: `*` and `?` stop at `/`, `**` does not, and a
    /// pattern without a `/` matches names at any depth.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed pattern.
    pub fn pin(&self, pattern: &str) -> Result<()> {
        if pattern.is_empty() {
            let why = "a pin is a path or a pattern of paths: `**` keeps all";
            return Err(Error::with_detail(ErrorKind::InvalidInput, why).op("pin"));
        }
        Pins::new(&[pattern.to_owned()]).map_err(|e| e.op("pin").path(pattern))?;
        self.change_settings(|settings| {
            if !settings.pins.iter().any(|other| other == pattern) {
                settings.pins.push(pattern.to_owned());
            }
            Ok(())
        })
    }

    /// Tells whether a pin would be of anything that is there: on a branch, or in what was there before and
    /// is not collected yet. The cost follows the size of the bucket where it is not.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed pattern.
    pub fn has_match(&self, pattern: &str) -> Result<bool> {
        let pins = Pins::new(&[pattern.to_owned()]).map_err(|e| e.op("match").path(pattern))?;
        let mut found = false;
        let txn = self.inner.tree.read()?;
        txn.scan_tree(self.id, &TreePath::root(), &mut |parent, name, _, row| {
            let path = TreePath::from_stored(parent, name);
            let inside = path.as_str().get(1..).unwrap_or_default();
            found = row.entry.is_some() && pins.0.is_match(inside);
            Ok(match found {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })?;
        Ok(found)
    }

    /// Takes a pin off, given as it was set. What is here stays until it is evicted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such pin.
    pub fn unpin(&self, pattern: &str) -> Result<()> {
        self.change_settings(|settings| {
            let before = settings.pins.len();
            settings.pins.retain(|other| other != pattern);
            if settings.pins.len() == before {
                let detail = "no such pin";
                return Err(Error::with_detail(ErrorKind::NotFound, detail)
                    .op("unpin")
                    .path(pattern));
            }
            Ok(())
        })
    }

    fn change_settings(
        &self,
        change: impl FnOnce(&mut ContentSettings) -> Result<()>,
    ) -> Result<()> {
        let mut txn = self.inner.write()?;
        // A bucket that is gone keeps nothing.
        self.name_in(&*txn)?;
        let mut settings = load(&*txn, self.id)?;
        let before = (settings.policy, settings.pins.clone());
        change(&mut settings)?;
        save(&mut *txn, self.id, &settings)?;
        if before != (settings.policy, settings.pins.clone()) {
            // What is missing now is looked for anew.
            for queued in [CURSOR, LOST] {
                txn.set_value(&scope(self.id), queued, None)?;
            }
        }
        txn.commit()
    }
}

/// The pinned paths of a bucket, to be matched.
#[derive(Debug)]
struct Pins(globset::GlobSet);

impl Pins {
    fn new(patterns: &[String]) -> Result<Self> {
        let below = patterns.iter().map(|pattern| {
            let dir = pattern.trim_end_matches('/');
            match dir.contains('/') || dir.is_empty() {
                true => format!("{dir}/**"),
                false => format!("**/{dir}/**"),
            }
        });
        glob_set(patterns.iter().cloned().chain(below)).map(Self)
    }
}

/// Which contents a bucket wants to have here.
#[derive(Debug)]
pub(super) enum Wanted {
    All,
    Pinned(Box<globset::GlobSet>),
}

impl Wanted {
    /// Returns what the settings want; nothing where that is nothing.
    pub(super) fn of(settings: &ContentSettings) -> Result<Option<Self>> {
        Ok(match settings.policy {
            ContentPolicy::Eager => Some(Self::All),
            ContentPolicy::OnRead if settings.pins.is_empty() => None,
            ContentPolicy::OnRead => {
                let pins = Pins::new(&settings.pins)?;
                Some(Self::Pinned(Box::new(pins.0)))
            }
        })
    }

    /// Tells whether the content of an absolute path is wanted.
    pub(super) fn has(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Pinned(pins) => pins.is_match(path.get(1..).unwrap_or_default()),
        }
    }
}
