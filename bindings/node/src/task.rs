//! Long work that JavaScript cancels and follows.

use std::sync::Arc;

use alknet_fs::{Cancel, Progress, Task};
use napi_derive::napi;
use parking_lot::Mutex;

/// A switch that ends long work, and how far it has come.
#[napi]
pub struct TaskHandle {
    cancel: Cancel,
    progress: Option<Arc<Mutex<Progress>>>,
}

/// How far long work has come.
#[napi(object)]
pub struct ProgressInfo {
    pub files: f64,
    pub total_files: f64,
    pub bytes: f64,
    pub total_bytes: f64,
}

#[napi]
impl TaskHandle {
    /// Makes a switch; the progress is kept only where somebody follows.
    #[napi(constructor)]
    pub fn new(follow: bool) -> Self {
        Self {
            cancel: Cancel::new(),
            progress: follow.then(Arc::default),
        }
    }

    #[napi]
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    #[napi]
    pub fn progress(&self) -> Option<ProgressInfo> {
        let progress = *self.progress.as_ref()?.lock();
        Some(ProgressInfo {
            files: progress.files as f64,
            total_files: progress.total_files as f64,
            bytes: progress.bytes as f64,
            total_bytes: progress.total_bytes as f64,
        })
    }
}

impl TaskHandle {
    pub(crate) fn task(&self) -> Task {
        let task = Task::new().cancel_with(&self.cancel);
        match &self.progress {
            None => task,
            Some(progress) => {
                let progress = Arc::clone(progress);
                task.report_to(move |now| *progress.lock() = now)
            }
        }
    }
}
