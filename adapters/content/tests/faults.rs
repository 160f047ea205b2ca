//! Every call to the files can fail, and the power can go at every call: each commit is there as a
//! whole or not at all.
#![allow(clippy::unwrap_used)]

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use alknet_fs_content::{Fault, Prepared, SimFiles, Staged};
use alknet_fs_core::store::Store;
use alknet_fs_core::{Hash, Result};
use common::{Bench, Edit, painted, tiny};

/// Does every kind of work; stops at the first failure. Returns what was acknowledged.
fn work(bench: &Bench) -> (Vec<(Hash, Vec<u8>)>, Result<()>) {
    let mut done = Vec::new();
    let mut all = || -> Result<()> {
        let mut keep = |prepared: Prepared, bytes: Vec<u8>| -> Result<Hash> {
            assert_eq!(prepared.hash(), Hash::of(&bytes));
            let hash = bench.commit(prepared)?;
            done.push((hash, bytes));
            Ok(hash)
        };
        let small = painted(50, 1);
        keep(bench.contents.prepare_bytes(small.clone())?, small)?;
        let read = painted(70_000, 2);
        let prepared = bench.contents.prepare_read(&mut &read[..], None, true)?;
        keep(prepared, read)?;
        let late = painted(70_000, 3);
        let prepared = bench.contents.prepare_read(&mut &late[..], None, false)?;
        keep(prepared, late)?;
        let base = painted(100_000, 4);
        let mut hash = keep(bench.contents.prepare_bytes(base.clone())?, base.clone())?;
        let mut bytes = base;
        // A delta in the record, one in a file, a merged or stacked one, and a rewritten content.
        for (at, len) in [(40_000, 10), (20_000, 5000), (70_000, 10), (0, 60_000)] {
            let mut edit = Edit::over(&bytes);
            edit.write(at, &painted(len, 5));
            let txn = bench.store.read()?;
            let staged = Staged::Bytes(&edit.staged);
            let plan = edit.map.plan();
            let prepared = bench
                .contents
                .prepare_plan(&*txn, Some(&hash), staged, &plan)?;
            drop(txn);
            bytes = edit.model;
            hash = keep(prepared, bytes.clone())?;
        }
        let deltas: Vec<_> = done
            .iter()
            .map(|(hash, bytes)| (*hash, bytes.clone()))
            .collect();
        for (hash, _) in deltas {
            let txn = bench.store.read()?;
            let flat = bench.contents.flatten(&*txn, &hash)?;
            drop(txn);
            flat.map(|flat| bench.commit(flat)).transpose()?;
        }
        Ok(())
    };
    let result = all();
    (done, result)
}

/// Everything that was acknowledged is there, everything that is there is whole.
fn check(bench: &Bench, done: &[(Hash, Vec<u8>)], context: &str) {
    let txn = bench.store.read().unwrap();
    for (hash, bytes) in done {
        let found = bench.contents.open(&*txn, hash).and_then(|c| c.read_all());
        assert!(found.unwrap() == *bytes, "{context}");
    }
    for record in txn.contents_after(None, usize::MAX, false).unwrap() {
        let go_on = &mut |_| ControlFlow::Continue(());
        let verified = bench.contents.verify(&*txn, &record.hash, go_on);
        verified.unwrap_or_else(|e| panic!("{context}: {e}"));
    }
    drop(txn);
    // What was left behind goes, and nothing else.
    let mut txn = bench
        .store
        .write(alknet_fs_core::store::Durability::Full)
        .unwrap();
    let orphans = bench.contents.orphans(&*txn).unwrap();
    bench
        .contents
        .sweep(&mut *txn, &orphans, Duration::ZERO)
        .unwrap();
    txn.commit().unwrap();
    assert_eq!(bench.contents.usage().unwrap().staged, 0, "{context}");
    for (hash, _) in done {
        bench.verify(hash).unwrap();
    }
}

fn faulty(n: u64, fault: Fault, after: fn(&SimFiles)) -> bool {
    let (bench, files) = Bench::sim(tiny());
    files.fail_after(n, fault);
    let (done, result) = work(&bench);
    if fault == Fault::ShortWrite {
        result.as_ref().unwrap();
    }
    files.clear_fault();
    after(&files);
    let context = format!("{fault:?} at call {n}");
    check(&bench, &done, &context);
    // And the store goes on: the same work succeeds now, over whatever was left.
    let (again, ended) = work(&bench);
    ended.unwrap();
    after(&files);
    check(&bench, &again, &context);
    result.is_err()
}

#[test]
fn a_fault_at_any_call_leaves_all_or_nothing() {
    let after: [fn(&SimFiles); 2] = [SimFiles::restart, SimFiles::power_cut];
    let (bench, files) = Bench::sim(tiny());
    work(&bench).1.unwrap();
    let calls = files.calls();
    assert!(calls > 80, "{calls}");
    for after in after {
        for fault in [Fault::Io, Fault::NoSpace, Fault::ShortWrite, Fault::Death] {
            let mut failures = 0;
            for n in 1..=calls {
                failures += u64::from(faulty(n, fault, after));
            }
            if fault != Fault::ShortWrite {
                // Only removing a file that is not needed may fail unnoticed.
                assert!(failures + 15 > calls, "{fault:?}: {failures} of {calls}");
            }
        }
    }
}

#[test]
fn unsynced_contents_are_synced_by_the_commit() {
    for explicit in [false, true] {
        let (bench, files) = Bench::sim(tiny());
        let all: Vec<_> = (0..10).map(|i| painted(60_000, i)).collect();
        let mut prepared: Vec<_> = all
            .iter()
            .map(|bytes| {
                bench
                    .contents
                    .prepare_read(&mut &bytes[..], None, false)
                    .unwrap()
            })
            .collect();
        if explicit {
            bench.contents.sync(&mut prepared).unwrap();
        }
        for prepared in prepared {
            bench.commit(prepared).unwrap();
        }
        files.power_cut();
        for bytes in all {
            bench.verify(&Hash::of(&bytes)).unwrap();
        }
    }
}
