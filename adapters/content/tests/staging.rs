//! Staging files: resuming, closing, hashing on the way.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use alknet_fs_content::hash_tree::TreeHasher;
use alknet_fs_content::{Area, Contents, Fault, Files, SimFiles, Staged, StagingFile};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::session::Source;
use alknet_fs_core::store::{
    BranchId, ContentForm, ContentRecord, Durability, SessionId, SessionRecord, Staging, Store,
};
use alknet_fs_core::{ErrorKind, Hash, Result, Timestamp, TreePath};
use common::{Bench, painted, tiny};
use proptest::prelude::*;

const ID: SessionId = SessionId(7);

/// What a session should show: its staged bytes over the base.
fn shown(staging: &StagingFile, base: &[u8]) -> Vec<u8> {
    let map = staging.extents();
    let mut bytes = Vec::new();
    for s in map.range(0, map.size()) {
        let len = s.len as usize;
        match s.source {
            Source::Base(at) => bytes.extend_from_slice(&base[at as usize..][..len]),
            Source::Zeros => bytes.resize(bytes.len() + len, 0),
            Source::Staged(at) => {
                let mut part = vec![0; len];
                let n = staging.read_at(at, &mut part).unwrap();
                assert_eq!(n, len, "staged bytes are missing");
                bytes.extend(part);
            }
        }
    }
    bytes
}

fn write(staging: &mut StagingFile, model: &mut Vec<u8>, at: usize, bytes: &[u8]) -> Result<()> {
    staging.write_at(at as u64, bytes)?;
    if !bytes.is_empty() {
        let end = at + bytes.len();
        model.resize(model.len().max(end), 0);
        model[at..end].copy_from_slice(bytes);
    }
    Ok(())
}

fn close(bench: &Bench, staging: &mut StagingFile, base: Option<&Hash>) -> Result<Hash> {
    let txn = bench.store.read()?;
    let plan = staging.extents().plan();
    let staged = Staged::File(staging);
    let prepared = bench.contents.prepare_plan(&*txn, base, staged, &plan)?;
    drop(txn);
    bench.commit(prepared)
}

/// Closes a session in a transaction that does not come about; returns the content's hash.
fn close_in_vain(bench: &Bench, staging: &mut StagingFile, base: Option<&Hash>) -> Result<Hash> {
    let txn = bench.store.read()?;
    let plan = staging.extents().plan();
    let staged = Staged::File(staging);
    let mut prepared = [bench.contents.prepare_plan(&*txn, base, staged, &plan)?];
    drop(txn);
    let mut txn = bench.store.write(Durability::Full)?;
    let contents = &bench.contents;
    contents.commit(&mut *txn, &mut prepared, Timestamp(1))?;
    drop(txn);
    Ok(prepared[0].hash())
}

/// The record of a content, as a commit would have left it that failed and came about after all.
fn commit_after_all(bench: &Bench, hash: Hash, bytes: &[u8]) {
    let mut hasher = TreeHasher::new();
    hasher.update(bytes);
    let (found, nodes) = hasher.finish();
    assert_eq!(found, hash);
    let mut txn = bench.store.write(Durability::Full).unwrap();
    let record = ContentRecord {
        hash,
        size: bytes.len() as u64,
        form: ContentForm::File,
        base: None,
        data: if nodes.len() <= 200 {
            nodes
        } else {
            Vec::new()
        },
        created: Timestamp(1),
    };
    txn.add_content(&record).unwrap();
    txn.commit().unwrap();
}

/// Makes the session known to the store.
fn add_session(bench: &Bench) {
    let mut txn = bench.store.write(Durability::Full).unwrap();
    let record = SessionRecord {
        id: SessionId(0),
        branch: BranchId(1),
        path: TreePath::root(),
        owner: String::new(),
        holder: String::new(),
        exclusive: false,
        create_new: false,
        base: None,
        mode: 0o644,
        created: Timestamp(1),
        touched: Timestamp(1),
        staging: Staging::File,
    };
    while txn.add_session(&record).unwrap() != ID {}
    txn.commit().unwrap();
}

fn sweep(bench: &Bench) {
    let mut txn = bench.store.write(Durability::Full).unwrap();
    let orphans = bench.contents.orphans(&*txn).unwrap();
    let none = Duration::ZERO;
    bench.contents.sweep(&mut *txn, &orphans, none).unwrap();
    txn.commit().unwrap();
}

fn kinds_of_files() -> [SimFiles; 2] {
    [SimFiles::new(), SimFiles::without_links()]
}

#[test]
fn a_session_whose_commit_failed_goes_on() {
    for (again, die) in [(false, false), (true, false), (false, true), (true, true)] {
        for sim in kinds_of_files() {
            let (bench, sim) = Bench::over(sim, tiny());
            let files: Arc<dyn Files> = Arc::new(sim.clone());
            add_session(&bench);
            let mut staging = StagingFile::create(&files, ID, 0).unwrap();
            let mut model = Vec::new();
            write(&mut staging, &mut model, 0, &painted(60_000, 1)).unwrap();
            close_in_vain(&bench, &mut staging, None).unwrap();
            sweep(&bench);
            if die {
                drop(staging);
                sim.restart();
                sweep(&bench);
                staging = StagingFile::resume(&files, ID).unwrap();
            } else {
                staging.reopen();
            }
            assert!(shown(&staging, &[]) == model);
            if again {
                close_in_vain(&bench, &mut staging, None).unwrap();
                staging.reopen();
                write(&mut staging, &mut model, 50_000, &painted(30_000, 2)).unwrap();
                staging.truncate(70_000).unwrap();
                model.truncate(70_000);
                staging.sync().unwrap();
                drop(staging);
                sim.power_cut();
                staging = StagingFile::resume(&files, ID).unwrap();
                assert!(shown(&staging, &[]) == model);
            }
            let hash = close(&bench, &mut staging, None).unwrap();
            assert_eq!(hash, Hash::of(&model));
            staging.discard().unwrap();
            sim.power_cut();
            bench.verify(&hash).unwrap();
            let mut txn = bench.store.write(Durability::Full).unwrap();
            txn.remove_session(ID).unwrap();
            txn.commit().unwrap();
            sweep(&bench);
            assert_eq!(files.list(Area::Staging).unwrap(), []);
            assert!(bench.read(&hash).unwrap() == model);
        }
    }
}

#[test]
fn a_commit_that_failed_and_came_about_keeps_its_bytes() {
    for (cut, truncate) in [(false, false), (false, true), (true, false)] {
        for sim in kinds_of_files() {
            let (bench, sim) = Bench::over(sim, tiny());
            let files: Arc<dyn Files> = Arc::new(sim.clone());
            add_session(&bench);
            let mut staging = StagingFile::create(&files, ID, 0).unwrap();
            let mut model = Vec::new();
            write(&mut staging, &mut model, 0, &painted(60_000, 1)).unwrap();
            let hash = close_in_vain(&bench, &mut staging, None).unwrap();
            staging.reopen();
            let committed = model.clone();
            if truncate {
                staging.truncate(30_000).unwrap();
                model.truncate(30_000);
            } else {
                write(&mut staging, &mut model, 10_000, b"later").unwrap();
            }
            assert!(shown(&staging, &[]) == model);
            staging.sync().unwrap();
            drop(staging);
            if cut {
                sim.power_cut();
            } else {
                sim.restart();
            }
            commit_after_all(&bench, hash, &committed);
            bench.verify(&hash).unwrap();
            let staging = StagingFile::resume(&files, ID).unwrap();
            assert!(shown(&staging, &[]) == model);
            staging.discard().unwrap();
            bench.verify(&hash).unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize),
    Append(usize),
    Truncate(usize),
    Sync,
    Resume,
    PowerCut,
    FailedClose,
    FailedCommit,
}

fn step(max: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..max, 0..max / 4).prop_map(|(at, len)| Step::Write(at, len)),
        6 => (0..max / 4).prop_map(Step::Append),
        3 => (0..max).prop_map(Step::Truncate),
        1 => Just(Step::Sync),
        2 => Just(Step::Resume),
        1 => Just(Step::PowerCut),
        1 => Just(Step::FailedClose),
        1 => Just(Step::FailedCommit),
    ]
}

fn run(base: &[u8], steps: &[Step], sim: SimFiles) -> Result<()> {
    let (bench, sim) = Bench::over(sim, tiny());
    let files: Arc<dyn Files> = Arc::new(sim.clone());
    let base_hash = bench.put(base)?;
    let mut staging = StagingFile::create(&files, ID, base.len() as u64)?;
    staging.sync()?;
    let mut model = base.to_vec();
    let mut synced = Some(model.clone());
    for (i, step) in steps.iter().enumerate() {
        match *step {
            Step::Write(at, len) => {
                write(&mut staging, &mut model, at, &painted(len, i as u64 + 1))?;
            }
            Step::Append(len) => {
                let at = model.len();
                write(&mut staging, &mut model, at, &painted(len, i as u64 + 1))?;
            }
            Step::Truncate(size) => {
                staging.truncate(size as u64)?;
                model.resize(size, 0);
            }
            Step::Sync => {
                staging.sync()?;
                synced = Some(model.clone());
            }
            Step::Resume => {
                drop(staging);
                staging = StagingFile::resume(&files, ID)?;
            }
            Step::PowerCut => {
                drop(staging);
                sim.power_cut();
                staging = StagingFile::resume(&files, ID)?;
                model = synced.get_or_insert_with(|| shown(&staging, base)).clone();
            }
            Step::FailedClose => {
                let txn = bench.store.read()?;
                let plan = staging.extents().plan();
                let staged = Staged::File(&mut staging);
                let prepared =
                    bench
                        .contents
                        .prepare_plan(&*txn, Some(&base_hash), staged, &plan)?;
                assert_eq!(prepared.hash(), Hash::of(&model));
                drop(prepared);
                staging.reopen();
                // The close has synced bytes that the journal may still lose.
                synced = None;
            }
            Step::FailedCommit => {
                let hash = close_in_vain(&bench, &mut staging, Some(&base_hash))?;
                assert_eq!(hash, Hash::of(&model));
                staging.reopen();
                synced = None;
            }
        }
        assert_eq!(staging.extents().size(), model.len() as u64);
        assert!(shown(&staging, base) == model, "after step {i}");
    }
    let hash = close(&bench, &mut staging, Some(&base_hash))?;
    assert_eq!(hash, Hash::of(&model));
    staging.discard()?;
    bench.verify(&hash)?;
    assert!(bench.read(&hash)? == model);
    // A power cut may bring names back.
    sweep(&bench);
    assert_eq!(bench.contents.usage()?.staged, 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn sessions_agree_with_a_byte_vector(
        len in prop_oneof![Just(0), 0..100_000usize],
        steps in proptest::collection::vec(step(100_000), 0..40),
        no_links in any::<bool>(),
    ) {
        run(&painted(len, 0), &steps, kinds_of_files()[usize::from(no_links)].clone())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Sizes at which a thread follows the session.
    #[test]
    fn large_sessions_agree_with_a_byte_vector(
        len in prop_oneof![Just(0), 0..10_000_000usize],
        steps in proptest::collection::vec(step(20_000_000), 0..12),
        no_links in any::<bool>(),
    ) {
        run(&painted(len, 0), &steps, kinds_of_files()[usize::from(no_links)].clone())?;
    }
}

#[test]
fn overwritten_bytes_below_the_hashed_ones_count() {
    let dir = tempfile::tempdir().unwrap();
    let contents = Contents::open_store(dir.path(), tiny()).unwrap();
    let bench = Bench {
        store: MemoryStore::new(),
        contents,
    };
    let files = bench.contents.files().unwrap().clone();
    let mut staging = StagingFile::create(&files, ID, 0).unwrap();
    let mut model = Vec::new();
    for i in 0..800 {
        let at = model.len();
        write(&mut staging, &mut model, at, &painted(32 << 10, i)).unwrap();
        if i % 3 == 0 {
            let at = (i as usize * 7_919_777) % model.len();
            write(&mut staging, &mut model, at, &painted(5000, i)).unwrap();
        }
        if i % 250 == 249 {
            let size = model.len() - 3_000_001;
            staging.truncate(size as u64).unwrap();
            model.truncate(size);
        }
    }
    let hash = close(&bench, &mut staging, None).unwrap();
    staging.discard().unwrap();
    assert_eq!(hash, Hash::of(&model));
    bench.verify(&hash).unwrap();
    assert_eq!(bench.contents.usage().unwrap().staged, 0);
}

#[test]
fn a_session_without_base_becomes_the_content() {
    let (bench, sim) = Bench::sim(tiny());
    let files: Arc<dyn Files> = Arc::new(sim.clone());
    let mut staging = StagingFile::create(&files, ID, 0).unwrap();
    let mut model = Vec::new();
    write(&mut staging, &mut model, 70_000, b"end").unwrap();
    write(&mut staging, &mut model, 0, b"start").unwrap();
    staging.truncate(80_000).unwrap();
    model.resize(80_000, 0);
    let hash = close(&bench, &mut staging, None).unwrap();
    assert_eq!(
        staging.write_at(0, b"x").unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let record = bench.store.read().unwrap().content(&hash).unwrap().unwrap();
    assert_eq!(record.form, ContentForm::File);
    // The session could still be resumed, had the process died before the commit.
    assert!(files.open(Area::Staging, "7").is_ok());
    staging.discard().unwrap();
    assert_eq!(files.list(Area::Staging).unwrap(), []);
    assert!(bench.read(&hash).unwrap() == model);
}

#[test]
fn one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let contents = Contents::open_store(dir.path(), tiny()).unwrap();
    let disk = contents.files().unwrap().clone();
    let sim: Arc<dyn Files> = Arc::new(SimFiles::new());
    for files in [disk, sim] {
        let kind = |r: Result<StagingFile>| r.unwrap_err().kind();
        assert_eq!(kind(StagingFile::resume(&files, ID)), ErrorKind::NotFound);
        let mut staging = StagingFile::create(&files, ID, 0).unwrap();
        staging.write_at(0, &[1; 6 << 20]).unwrap();
        assert_eq!(
            kind(StagingFile::create(&files, ID, 0)),
            ErrorKind::AlreadyExists
        );
        assert_eq!(kind(StagingFile::resume(&files, ID)), ErrorKind::Locked);
        drop(staging);
        let staging = StagingFile::resume(&files, ID).unwrap();
        assert_eq!(staging.extents().staged_len(), 6 << 20);
        staging.discard().unwrap();
        StagingFile::remove(&files, ID).unwrap();
    }
}

#[test]
fn refuses_what_is_too_large() {
    let files: Arc<dyn Files> = Arc::new(SimFiles::new());
    let mut staging = StagingFile::create(&files, ID, 0).unwrap();
    let kind = |r: Result<()>| r.unwrap_err().kind();
    assert_eq!(kind(staging.write_at(u64::MAX, b"xy")), ErrorKind::TooLarge);
    assert_eq!(
        kind(staging.write_at(u64::MAX / 2, b"xy")),
        ErrorKind::TooLarge
    );
    assert_eq!(kind(staging.truncate(u64::MAX)), ErrorKind::TooLarge);
    staging.truncate(u64::MAX / 2).unwrap();
    assert_eq!(staging.extents().size(), u64::MAX / 2);
}

/// Cuts a journal to `len` bytes, and flips a bit of its last byte where asked to.
fn tear(files: &SimFiles, len: u64, flip: bool) {
    let log = files.reopen(Area::Staging, "7.log").unwrap();
    log.set_len(len).unwrap();
    drop(log);
    if flip && len > 0 {
        files.flip_bit(Area::Staging, "7.log", len - 1).unwrap();
    }
}

#[test]
fn a_torn_journal_gives_what_was_before_the_tear() {
    for flip in [false, true] {
        let log_len = 32 * 6;
        for len in 0..=log_len {
            let sim = SimFiles::new();
            let files: Arc<dyn Files> = Arc::new(sim.clone());
            let mut staging = StagingFile::create(&files, ID, 0).unwrap();
            staging.truncate(1000).unwrap();
            staging.write_at(500, &[1; 100]).unwrap(); // a tail
            staging.write_at(0, &[2; 100]).unwrap();
            staging.write_at(200, &[3; 100]).unwrap();
            staging.write_at(300, &[4; 100]).unwrap();
            drop(staging);
            tear(&sim, len, flip);
            let kept = (len - u64::from(flip && len % 32 == 0 && len > 0)) / 32;
            let resumed = StagingFile::resume(&files, ID);
            if kept == 0 {
                assert_eq!(resumed.unwrap_err().kind(), ErrorKind::Corrupt);
                continue;
            }
            let mut staging = resumed.unwrap();
            let mut model = vec![0; if kept > 1 { 1000 } else { 0 }];
            if kept > 2 {
                model[500..600].fill(1);
            }
            for (i, at) in [(3, 0), (4, 200), (5, 300)] {
                if kept > i {
                    model[at..at + 100].fill(i as u8 - 1);
                }
            }
            assert_eq!(shown(&staging, &[]), model, "{len}");
            staging.write_at(5, b"on").unwrap();
            drop(staging);
            let staging = StagingFile::resume(&files, ID).unwrap();
            model.resize(model.len().max(7), 0);
            model[5..7].copy_from_slice(b"on");
            assert_eq!(shown(&staging, &[]), model, "{len}");
        }
    }
}

/// Runs a session whose `n`-th call to the files shows a fault; returns whether it came to that.
fn faulty_session(n: u64, fault: Fault, cut_power: bool, sim: SimFiles) -> bool {
    let (bench, sim) = Bench::over(sim, tiny());
    let files: Arc<dyn Files> = Arc::new(sim.clone());
    let base = painted(50_000, 1);
    let base_hash = bench.put(&base).unwrap();
    sim.fail_after(n, fault);
    let Ok(mut staging) = StagingFile::create(&files, ID, base.len() as u64) else {
        return true;
    };
    let mut model = base.clone();
    let mut synced = None;
    let mut closed = None;
    // Applies one step after the other; stops at the first that fails, which may have done
    // anything within its own range.
    let mut touched = 0..0;
    let mut next_size = None;
    let mut was_cut = false;
    let result = (|| -> Result<()> {
        for (i, at, len) in [
            (1, 0, 3000),
            (2, 3000, 3000),
            (3, 60_000, 500),
            (4, 1000, 100),
        ] {
            touched = at..at + len;
            write(&mut staging, &mut model, at, &painted(len, i))?;
        }
        touched = 0..0;
        staging.sync()?;
        synced = Some(model.clone());
        next_size = Some(5000);
        was_cut = true;
        staging.truncate(5000)?;
        model.resize(5000, 0);
        next_size = None;
        touched = 20_000..90_000;
        write(&mut staging, &mut model, 20_000, &painted(70_000, 9))?;
        touched = 0..0;
        close_in_vain(&bench, &mut staging, Some(&base_hash))?;
        staging.reopen();
        touched = 5000..5100;
        write(&mut staging, &mut model, 5000, &painted(100, 10))?;
        touched = 0..0;
        closed = Some(close(&bench, &mut staging, Some(&base_hash))?);
        Ok(())
    })();
    if fault == Fault::ShortWrite {
        result.as_ref().unwrap();
    }
    let failed = result.is_err();
    drop(staging);
    if cut_power {
        sim.power_cut();
    } else {
        sim.restart();
    }
    bench.verify(&base_hash).unwrap();
    if let Some(hash) = closed {
        assert_eq!(hash, Hash::of(&model));
        bench.verify(&hash).unwrap();
        return failed;
    }
    let resumed = match StagingFile::resume(&files, ID) {
        Ok(resumed) => resumed,
        // Before the first sync, a power cut may take the session away.
        Err(error) if cut_power && synced.is_none() => {
            assert!(
                matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt),
                "{error}"
            );
            return true;
        }
        Err(error) => panic!("{error}"),
    };
    let mut found = shown(&resumed, &base);
    if cut_power {
        // Nothing at all, or what was synced; where it was cut or overwritten later, anything.
        let expected = synced.unwrap_or_else(|| base.clone());
        assert_eq!(found.len(), expected.len(), "call {n}");
        let kept = if was_cut { 5000 } else { found.len() };
        assert!(found[..kept] == expected[..kept], "call {n}");
    } else if next_size.is_some_and(|size| found.len() == size) {
        model.resize(found.len(), 0);
        assert!(found == model, "call {n}");
    } else {
        // All that was acknowledged, and anything where the failed write was.
        assert!(found.len() >= model.len(), "call {n}");
        model.resize(found.len(), 0);
        let touched = touched.start.min(found.len())..touched.end.min(found.len());
        found[touched.clone()].fill(0);
        model[touched].fill(0);
        assert!(found == model, "call {n}");
    }
    let mut resumed = resumed;
    let expected = Hash::of(&shown(&resumed, &base));
    assert_eq!(
        close(&bench, &mut resumed, Some(&base_hash)).unwrap(),
        expected
    );
    resumed.discard().unwrap();
    bench.verify(&expected).unwrap();
    failed
}

#[test]
fn a_fault_at_any_call_loses_nothing_acknowledged() {
    for (cut_power, links) in [(false, true), (true, true), (false, false), (true, false)] {
        for fault in [Fault::Io, Fault::NoSpace, Fault::Death, Fault::ShortWrite] {
            let mut n = 1;
            let mut failures = 0;
            loop {
                let sim = match links {
                    true => SimFiles::new(),
                    false => SimFiles::without_links(),
                };
                let failed = faulty_session(n, fault, cut_power, sim);
                failures += u32::from(failed);
                n += 1;
                if !failed && (fault != Fault::ShortWrite || n > 60) {
                    break;
                }
            }
            assert!(
                failures > 20 || fault == Fault::ShortWrite,
                "{fault:?}: {failures}"
            );
        }
    }
}
