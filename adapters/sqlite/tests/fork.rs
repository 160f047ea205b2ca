//! The child of a fork opens a store that its parent has open.
#![cfg(all(unix, target_pointer_width = "64"))]
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![expect(unsafe_code, reason = "fork is an interface of C")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use alknet_fs_core::store::{Durability, Store};
use alknet_fs_sqlite::{Options, SqliteStore};

/// Forks; the child does its work and is over.
fn child(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child only opens files and computes, and ends without running what the parent
    // would at its end.
    unsafe {
        match libc::fork() {
            0 => {
                // One that hangs is killed by the signal, and so fails.
                libc::alarm(60);
                let done = catch_unwind(AssertUnwindSafe(work));
                libc::_exit(i32::from(done.is_err()));
            }
            pid => {
                assert!(pid > 0, "fork failed");
                pid
            }
        }
    }
}

fn wait_for(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: a child of this process that nobody waited for.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "the child failed");
}

fn count(store: &SqliteStore) -> u32 {
    let value = store.read().unwrap().value("test", "count").unwrap();
    value.map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
}

/// Adds one to a counter that it reads in the same transaction.
fn add(store: &SqliteStore) {
    let mut txn = store.write(Durability::Relaxed).unwrap();
    let value = txn.value("test", "count").unwrap();
    let count = value.map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    let next = (count + 1).to_le_bytes();
    txn.set_value("test", "count", Some(&next)).unwrap();
    txn.commit().unwrap();
}

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(dir, Options::default()).unwrap()
}

#[test]
fn parent_and_children_write_in_turns() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    let store = SqliteStore::create(&dir, Options::default()).unwrap();
    add(&store);
    // Its lock on the file is what a child must not believe to have.
    let reading = store.read().unwrap();
    let children = [(); 3].map(|()| {
        child(|| {
            let store = open(&dir);
            for _ in 0..200 {
                add(&store);
            }
            // And of a child.
            let grandchild = child(|| add(&open(&dir)));
            add(&store);
            wait_for(grandchild);
        })
    });
    for _ in 0..200 {
        add(&store);
    }
    drop(reading);
    children.into_iter().for_each(wait_for);
    assert_eq!(count(&store), 1 + 3 * 202 + 200);
}

#[test]
fn a_child_opens_while_threads_of_its_parent_do() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("store");
    drop(SqliteStore::create(&dir, Options::default()).unwrap());
    let over = AtomicBool::new(false);
    let added = thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut added = 0;
                while !over.load(Ordering::Relaxed) {
                    add(&open(&dir));
                    added += 1;
                }
                added
            })
        });
        let forked = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..100 {
                wait_for(child(|| add(&open(&dir))));
            }
        }));
        over.store(true, Ordering::Relaxed);
        forked.unwrap();
        threads.map(|thread| thread.join().unwrap())
    });
    let added: u32 = added.iter().sum();
    assert_eq!(count(&open(&dir)), added + 100);
}
