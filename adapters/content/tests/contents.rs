//! Round trips, deltas, verification and collection.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::ops::ControlFlow;
use std::time::Duration;

use alknet_fs_content::{Area, Config, Contents, SimFiles, Staged};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::session::{AssemblyPlan, Segment, Source};
use alknet_fs_core::store::{ContentForm, Durability, Store};
use alknet_fs_core::{Error, ErrorKind, Hash, Timestamp};
use common::{Bench, Edit, painted, tiny};
use proptest::prelude::*;

const SIZES: &[usize] = &[
    0,
    1,
    99,
    100,
    101,
    1023,
    1024,
    1025,
    16383,
    16384,
    16385,
    32768,
    65535,
    65536,
    65537,
    100_000,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
    (3 << 20) + 7,
];

#[test]
fn round_trips_at_all_sizes() {
    for config in [Config::default(), tiny()] {
        let (bench, _) = Bench::sim(config);
        for &size in SIZES {
            let bytes = painted(size, size as u64);
            let by_bytes = bench.put(&bytes).unwrap();
            assert_eq!(by_bytes, Hash::of(&bytes), "{size}");
            assert_eq!(bench.read(&by_bytes).unwrap(), bytes, "{size}");
            bench.verify(&by_bytes).unwrap();

            let other = painted(size, size as u64 + 1);
            for (hint, sync) in [(None, true), (Some(size as u64), false)] {
                let mut reader = &other[..];
                let read = bench.contents.prepare_read(&mut reader, hint, sync);
                let by_read = bench.commit(read.unwrap()).unwrap();
                assert_eq!(by_read, Hash::of(&other), "{size}");
                bench.verify(&by_read).unwrap();
            }
        }
        let txn = bench.store.read().unwrap();
        assert_eq!(bench.contents.orphans(&*txn).unwrap(), []);
        assert_eq!(bench.contents.usage().unwrap().staged, 0);
    }
}

#[test]
fn reads_ranges_and_survives_removal() {
    let (bench, _) = Bench::sim(tiny());
    for size in [50, 50_000] {
        let bytes = painted(size, 3);
        let hash = bench.put(&bytes).unwrap();
        let txn = bench.store.read().unwrap();
        let reader = bench.contents.open(&*txn, &hash).unwrap();
        drop(txn);
        let mut txn = bench.store.write(Durability::Full).unwrap();
        txn.remove_content(&hash).unwrap();
        let orphans = bench.contents.orphans(&*txn).unwrap();
        txn.commit().unwrap();
        let mut txn = bench.store.write(Durability::Full).unwrap();
        bench
            .contents
            .sweep(&mut *txn, &orphans, Duration::ZERO)
            .unwrap();
        txn.commit().unwrap();
        assert!(bench.read(&hash).unwrap_err().is_corrupt());
        assert_eq!(bench.contents.usage().unwrap().blobs, 0);

        let mut buf = [0; 30];
        assert_eq!(reader.read_at(10, &mut buf).unwrap(), 30);
        assert_eq!(buf, bytes[10..40]);
        assert_eq!(reader.read_at(size as u64 - 5, &mut buf).unwrap(), 5);
        assert_eq!(buf[..5], bytes[size - 5..]);
        assert_eq!(reader.read_at(size as u64 + 5, &mut buf).unwrap(), 0);
        assert_eq!(reader.read_at(u64::MAX, &mut buf).unwrap(), 0);
    }
}

#[test]
fn same_content_is_kept_once() {
    let (bench, files) = Bench::sim(tiny());
    let bytes = painted(5000, 4);
    let hash = bench.put(&bytes).unwrap();
    let twice = [(); 2].map(|()| bench.contents.prepare_bytes(bytes.clone()).unwrap());
    let fresh = [(); 2].map(|()| bench.contents.prepare_bytes(painted(5000, 5)).unwrap());
    let mut all: Vec<_> = twice.into_iter().chain(fresh).collect();
    let mut txn = bench.store.write(Durability::Full).unwrap();
    bench
        .contents
        .commit(&mut *txn, &mut all, Timestamp(2))
        .unwrap();
    txn.commit().unwrap();
    drop(all);
    let usage = bench.contents.usage().unwrap();
    assert_eq!((usage.blobs, usage.staged), (2, 0));

    // A file that was lost comes back with the content.
    use alknet_fs_content::Files;
    files.remove(Area::Blobs, &hash.to_hex()).unwrap();
    let lost = bench.read(&hash).unwrap_err();
    assert!(lost.is_corrupt() && lost.to_string().contains(&format!("blobs/{hash}")));
    bench.put(&bytes).unwrap();
    assert_eq!(bench.read(&hash).unwrap(), bytes);
}

#[test]
fn a_rolled_back_commit_can_be_repeated_or_swept() {
    let (bench, _) = Bench::sim(tiny());
    let bytes = painted(5000, 6);
    let mut prepared = [bench.contents.prepare_bytes(bytes.clone()).unwrap()];
    let mut txn = bench.store.write(Durability::Full).unwrap();
    bench
        .contents
        .commit(&mut *txn, &mut prepared, Timestamp(1))
        .unwrap();
    drop(txn);
    let orphans = |bench: &Bench| {
        let txn = bench.store.read().unwrap();
        bench.contents.orphans(&*txn).unwrap()
    };
    assert_eq!(orphans(&bench).len(), 1);
    let [again] = prepared;
    let hash = bench.commit(again).unwrap();
    assert_eq!(bench.read(&hash).unwrap(), bytes);
    assert_eq!(orphans(&bench), []);

    let mut prepared = [bench.contents.prepare_bytes(painted(5000, 7)).unwrap()];
    let mut txn = bench.store.write(Durability::Full).unwrap();
    bench
        .contents
        .commit(&mut *txn, &mut prepared, Timestamp(1))
        .unwrap();
    drop(txn);
    // The same content, prepared anew, replaces the file that stayed behind.
    let hash = bench.put(&painted(5000, 7)).unwrap();
    bench.verify(&hash).unwrap();
    assert_eq!(orphans(&bench), []);
}

#[test]
fn orphans_are_found_and_swept() {
    let (bench, files) = Bench::sim(tiny());
    use alknet_fs_content::Files;
    let kept = bench.put(&painted(5000, 8)).unwrap();
    let preparing = bench.contents.prepare_bytes(painted(5000, 9)).unwrap();
    let gone = Hash::of(b"gone");
    for name in [
        gone.to_hex(),
        format!("{gone}.delta"),
        format!("{kept}.delta"),
    ] {
        files.create(Area::Blobs, &name).unwrap();
    }
    for name in ["p1-2", "77", "77.log"] {
        files.create(Area::Staging, name).unwrap();
    }
    files.create(Area::Blobs, "README").unwrap();
    let owned = files.create(Area::Staging, "78").unwrap();
    let mut txn = bench.store.write(Durability::Full).unwrap();
    let orphans = bench.contents.orphans(&*txn).unwrap();
    let mut names: Vec<_> = orphans.iter().map(|o| o.name.clone()).collect();
    let mut expected = vec![
        gone.to_hex(),
        format!("{gone}.delta"),
        format!("{kept}.delta"),
        "p1-2".into(),
        "77".into(),
        "77.log".into(),
    ];
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    bench
        .contents
        .sweep(&mut *txn, &orphans, Duration::ZERO)
        .unwrap();
    assert_eq!(bench.contents.orphans(&*txn).unwrap(), []);
    txn.commit().unwrap();
    drop(owned);
    bench.commit(preparing).unwrap();
    assert_eq!(bench.contents.usage().unwrap().blobs, 3);
}

#[test]
fn a_small_edit_of_a_large_content_is_a_small_delta() {
    let dir = tempfile::tempdir().unwrap();
    let contents = Contents::open_store(dir.path(), Config::default()).unwrap();
    let store = MemoryStore::new();
    let bench = Bench { store, contents };
    let mut bytes = painted(40 << 20, 10);
    let mut hash = bench.put(&bytes).unwrap();
    let before = bench.contents.usage().unwrap();
    let mut stored = 0;
    for i in 0..100 {
        let mut edit = Edit::over(&bytes);
        edit.write(i * 400_000 + 12_345, b"!");
        let txn = bench.store.read().unwrap();
        let staged = Staged::Bytes(&edit.staged);
        let prepared = bench
            .contents
            .prepare_plan(&*txn, Some(&hash), staged, &edit.map.plan());
        drop(txn);
        hash = bench.commit(prepared.unwrap()).unwrap();
        bytes = edit.model;
        let record = bench.store.read().unwrap().content(&hash).unwrap().unwrap();
        assert_eq!(record.form, ContentForm::Delta);
        stored += record.data.len();
    }
    assert_eq!(hash, Hash::of(&bytes));
    bench.verify(&hash).unwrap();
    assert_eq!(bench.contents.usage().unwrap(), before);
    let reader = bench
        .contents
        .open(&*bench.store.read().unwrap(), &hash)
        .unwrap();
    assert!(reader.depth() <= 3, "{}", reader.depth());
    assert!(stored < 100 * 33_000, "{stored}");
}

/// Writes pieces over a content, one version each; returns the bytes that each version moved, the
/// contents and the last hash.
fn edit_again_and_again(
    bench: &Bench,
    files: &SimFiles,
    mut bytes: Vec<u8>,
    edits: impl Iterator<Item = (usize, usize)>,
) -> (Vec<u64>, Vec<u8>, Hash) {
    let mut hash = bench.put(&bytes).unwrap();
    let mut moved = Vec::new();
    for (i, (at, len)) in edits.enumerate() {
        let before = files.moved();
        let mut edit = Edit::over(&bytes);
        edit.write(at, &painted(len, i as u64));
        let txn = bench.store.read().unwrap();
        let staged = Staged::Bytes(&edit.staged);
        let plan = edit.map.plan();
        let prepared = bench
            .contents
            .prepare_plan(&*txn, Some(&hash), staged, &plan);
        drop(txn);
        hash = bench.commit(prepared.unwrap()).unwrap();
        moved.push(files.moved() - before);
        bytes = edit.model;
        let reader = bench
            .contents
            .open(&*bench.store.read().unwrap(), &hash)
            .unwrap();
        assert!(reader.depth() <= 6, "{}", reader.depth());
    }
    assert_eq!(hash, Hash::of(&bytes));
    bench.verify(&hash).unwrap();
    (moved, bytes, hash)
}

fn scattered(count: usize, size: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).map(move |i| ((i + 1) * 7_919_777 % (size - len), len))
}

#[test]
fn edits_over_edits_cost_what_they_write() {
    const SIZE: usize = 32 << 20;
    const LEN: usize = 40_000;
    let (bench, files) = Bench::sim(Config::default());
    let edits = scattered(200, SIZE, LEN);
    let (moved, _, hash) = edit_again_and_again(&bench, &files, painted(SIZE, 30), edits);
    let record = bench.store.read().unwrap().content(&hash).unwrap().unwrap();
    assert_eq!(record.form, ContentForm::Delta);
    let total: u64 = moved.iter().sum();
    let written = (moved.len() * LEN) as u64;
    assert!(total < 16 * written, "{total} of {written}");
    // No version comes near the size of the file: it reads and writes all edits at most.
    let most = moved.iter().max().unwrap();
    assert!(*most < 2 * written + (1 << 20), "{most}");
}

#[test]
fn edits_of_one_place_stay_small() {
    const SIZE: usize = 8 << 20;
    const LEN: usize = 100_000;
    let (bench, files) = Bench::sim(Config::default());
    let edits = (0..100).map(|i| (3_000_000 + i * 10, LEN));
    let (moved, _, hash) = edit_again_and_again(&bench, &files, painted(SIZE, 31), edits);
    let record = bench.store.read().unwrap().content(&hash).unwrap().unwrap();
    assert_eq!(record.form, ContentForm::Delta);
    let most = moved.iter().max().unwrap();
    assert!(*most < 4 * LEN as u64, "{most}");
}

#[test]
fn a_content_with_many_edits_is_written_in_full_now_and_then() {
    const SIZE: usize = 4 << 20;
    const LEN: usize = 50_000;
    let (bench, files) = Bench::sim(Config::default());
    let edits = scattered(200, SIZE, LEN);
    let (moved, ..) = edit_again_and_again(&bench, &files, painted(SIZE, 32), edits);
    let full = moved.iter().filter(|&&n| n > SIZE as u64).count();
    // A quarter of the size is about twenty edits.
    assert!((4..=12).contains(&full), "{full}");
    let total: u64 = moved.iter().sum();
    let written = (moved.len() * LEN) as u64;
    assert!(total < 20 * written, "{total} of {written}");
}

#[test]
fn one_byte_costs_little_space() {
    let (bench, _) = Bench::sim(Config::default());
    let bytes = painted(32 << 20, 11);
    let hash = bench.put(&bytes).unwrap();
    let mut edit = Edit::over(&bytes);
    edit.write(20_000_000, b"!");
    let txn = bench.store.read().unwrap();
    let staged = Staged::Bytes(&edit.staged);
    let plan = edit.map.plan();
    let prepared = bench
        .contents
        .prepare_plan(&*txn, Some(&hash), staged, &plan)
        .unwrap();
    drop(txn);
    let edited = bench.commit(prepared).unwrap();
    let record = bench
        .store
        .read()
        .unwrap()
        .content(&edited)
        .unwrap()
        .unwrap();
    assert!(record.data.len() < 500, "{}", record.data.len());
    assert_eq!(edited, Hash::of(&edit.model));
}

#[test]
fn a_large_hole_costs_little_space() {
    let (bench, files) = Bench::sim(Config::default());
    let size = (200 << 20) + 5;
    let mut edit = Edit::over(b"");
    edit.write(1000, b"start");
    edit.truncate(size);
    edit.write(size - 3, b"end");
    let plan = edit.map.plan();
    let txn = bench.store.read().unwrap();
    let staged = Staged::Bytes(&edit.staged);
    let prepared = bench
        .contents
        .prepare_plan(&*txn, None, staged, &plan)
        .unwrap();
    assert_eq!(prepared.form(), ContentForm::Delta);
    drop(txn);
    let hash = bench.commit(prepared).unwrap();
    assert_eq!(hash, Hash::of(&edit.model));
    let record = bench.store.read().unwrap().content(&hash).unwrap().unwrap();
    assert!(record.data.len() < 40_000, "{}", record.data.len());
    bench.verify(&hash).unwrap();

    // Writing into the hole needs the nodes that were not kept.
    let mut again = Edit::over(&edit.model);
    again.write(100 << 20, b"middle");
    let txn = bench.store.read().unwrap();
    let staged = Staged::Bytes(&again.staged);
    let plan = again.map.plan();
    let prepared = bench
        .contents
        .prepare_plan(&*txn, Some(&hash), staged, &plan)
        .unwrap();
    assert_eq!(prepared.form(), ContentForm::Delta);
    drop(txn);
    let hash = bench.commit(prepared).unwrap();
    assert_eq!(hash, Hash::of(&again.model));
    bench.verify(&hash).unwrap();
    use alknet_fs_content::Files;
    assert_eq!(files.list(Area::Blobs).unwrap(), []);
}

#[test]
fn an_unchanged_plan_stands_for_the_base() {
    let (bench, _) = Bench::sim(tiny());
    let bytes = painted(5000, 12);
    let hash = bench.put(&bytes).unwrap();
    let plan = Edit::over(&bytes).map.plan();
    let txn = bench.store.read().unwrap();
    let prepared = bench
        .contents
        .prepare_plan(&*txn, Some(&hash), Staged::Nothing, &plan)
        .unwrap();
    drop(txn);
    assert_eq!(bench.commit(prepared).unwrap(), hash);

    let txn = bench.store.read().unwrap();
    let prepared = bench
        .contents
        .prepare_plan(&*txn, Some(&hash), Staged::Nothing, &plan)
        .unwrap();
    drop(txn);
    let mut txn = bench.store.write(Durability::Full).unwrap();
    txn.remove_content(&hash).unwrap();
    txn.commit().unwrap();
    assert_eq!(bench.commit(prepared).unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn refuses_plans_that_do_not_fit() {
    let (bench, _) = Bench::sim(tiny());
    let bytes = painted(5000, 13);
    let hash = bench.put(&bytes).unwrap();
    let segment = |offset, len, source| Segment {
        offset,
        len,
        source,
    };
    let plans = [
        (5001, vec![segment(0, 5001, Source::Base(0))]),
        (5000, vec![segment(0, 4000, Source::Base(0))]),
        (10, vec![segment(0, 10, Source::Staged(0))]),
        (10, vec![segment(0, 10, Source::Base(u64::MAX - 3))]),
        (
            20,
            vec![
                segment(0, 10, Source::Base(0)),
                segment(5, 15, Source::Zeros),
            ],
        ),
        (0, vec![segment(0, 0, Source::Zeros)]),
        (10, vec![]),
    ];
    let txn = bench.store.read().unwrap();
    for (size, segments) in plans {
        let plan = AssemblyPlan { size, segments };
        let staged = Staged::Bytes(b"short");
        let result = bench
            .contents
            .prepare_plan(&*txn, Some(&hash), staged, &plan);
        assert_eq!(
            result.unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{plan:?}"
        );
    }
    let plan = AssemblyPlan {
        size: 1 << 50,
        segments: vec![segment(0, 1 << 50, Source::Zeros)],
    };
    let result = bench
        .contents
        .prepare_plan(&*txn, None, Staged::Nothing, &plan);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn a_flipped_bit_is_named() {
    for in_file in [false, true] {
        let mut config = tiny();
        if in_file {
            config.delta_inline_max = 0;
            config.delta_merge_max = 0;
        }
        let (bench, files) = Bench::sim(config);
        let bytes = painted(100_000, 14);
        let base = bench.put(&bytes).unwrap();
        let mut edit = Edit::over(&bytes);
        edit.write(50_000, &[7; 100]);
        let txn = bench.store.read().unwrap();
        let staged = Staged::Bytes(&edit.staged);
        let plan = edit.map.plan();
        let prepared = bench
            .contents
            .prepare_plan(&*txn, Some(&base), staged, &plan)
            .unwrap();
        drop(txn);
        let delta = bench.commit(prepared).unwrap();
        let flip = |name: &str, at, hash: &Hash| {
            files.flip_bit(Area::Blobs, name, at).unwrap();
            let error = bench.verify(hash).unwrap_err();
            files.flip_bit(Area::Blobs, name, at).unwrap();
            bench.verify(hash).unwrap();
            assert!(error.is_corrupt());
            let text = error.to_string();
            assert!(text.contains(&format!("blobs/{name} is damaged")), "{text}");
        };
        let (base_name, tree) = (base.to_hex(), format!("{base}.tree"));
        flip(&base_name, 77_777, &base);
        flip(&base_name, 77_777, &delta);
        flip(&tree, 100, &base);
        if in_file {
            let name = format!("{delta}.delta");
            flip(&name, 50, &delta);
            flip(&name, 140, &delta);
        }
        // A base that is damaged where it is read gives no new content.
        for (name, at) in [
            (&base_name, 50_001),
            (&tree, 32 * 2),
            (&tree, 32 * 4),
            (&tree, 32 * 10),
        ] {
            files.flip_bit(Area::Blobs, name, at).unwrap();
            let txn = bench.store.read().unwrap();
            let staged = Staged::Bytes(&edit.staged);
            let result = bench
                .contents
                .prepare_plan(&*txn, Some(&base), staged, &plan);
            assert!(result.unwrap_err().is_corrupt(), "{name} {at}");
            files.flip_bit(Area::Blobs, name, at).unwrap();
        }
    }
}

#[test]
fn verify_can_be_cancelled() {
    let (bench, _) = Bench::sim(tiny());
    let hash = bench.put(&painted(3 << 20, 15)).unwrap();
    let mut seen = Vec::new();
    let txn = bench.store.read().unwrap();
    let result = bench.contents.verify(&*txn, &hash, &mut |done| {
        seen.push(done);
        if seen.len() == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(result.unwrap_err().is_cancelled());
    assert_eq!(seen, [1 << 20, 2 << 20]);
}

#[test]
fn errors_of_a_reader_come_back_and_leave_nothing() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(Error::new(ErrorKind::Cancelled).into());
            }
            let n = buf.len().min(self.0);
            self.0 -= n;
            Ok(n)
        }
    }
    let (bench, _) = Bench::sim(tiny());
    for len in [10, 1000, 5 << 20] {
        let result = bench.contents.prepare_read(&mut Failing(len), None, true);
        assert!(result.unwrap_err().is_cancelled());
    }
    assert_eq!(bench.contents.usage().unwrap(), Default::default());
}

#[test]
fn in_memory_everything_is_in_records() {
    let bench = Bench {
        store: MemoryStore::new(),
        contents: Contents::in_memory(),
    };
    let bytes = painted(3 << 20, 16);
    let hash = bench.put(&bytes).unwrap();
    let mut edit = Edit::over(&bytes);
    edit.write(1 << 20, b"edited");
    let txn = bench.store.read().unwrap();
    let staged = Staged::Bytes(&edit.staged);
    let plan = edit.map.plan();
    let prepared = bench
        .contents
        .prepare_plan(&*txn, Some(&hash), staged, &plan)
        .unwrap();
    drop(txn);
    let edited = bench.commit(prepared).unwrap();
    assert_eq!(bench.read(&edited).unwrap(), edit.model);
    let prepared = bench
        .contents
        .prepare_read(&mut &bytes[..], None, true)
        .unwrap();
    assert_eq!(
        (prepared.form(), prepared.hash()),
        (ContentForm::Inline, hash)
    );
}

#[cfg(unix)]
#[test]
fn files_are_private() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let contents = Contents::open_store(dir.path(), tiny()).unwrap();
    let bench = Bench {
        store: MemoryStore::new(),
        contents,
    };
    let hash = bench.put(&painted(200_000, 17)).unwrap();
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("blobs"), mode("staging")), (0o700, 0o700));
    assert_eq!(mode(&format!("blobs/{hash}")), 0o600);
    assert_eq!(mode(&format!("blobs/{hash}.tree")), 0o600);
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize),
    Truncate(usize),
    Close,
    Flatten,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..140_000usize, 0..300usize).prop_map(|(at, len)| Step::Write(at, len)),
        2 => (0..140_000usize, 0..40_000usize).prop_map(|(at, len)| Step::Write(at, len)),
        2 => (0..180_000usize).prop_map(Step::Truncate),
        6 => Just(Step::Close),
        1 => Just(Step::Flatten),
    ]
}

/// Steps over contents with holes of many MiB.
fn sparse_step() -> impl Strategy<Value = Step> {
    const MAX: usize = 5 << 20;
    prop_oneof![
        4 => (0..MAX, 0..3000usize).prop_map(|(at, len)| Step::Write(at, len)),
        1 => (0..MAX, 0..100_000usize).prop_map(|(at, len)| Step::Write(at, len)),
        3 => (0..MAX).prop_map(Step::Truncate),
        5 => Just(Step::Close),
    ]
}

/// Chains of edits through any number of contents give what a byte vector gives.
fn run(len: usize, steps: &[Step], merge_max: u64, depth_max: u32) -> Result<(), TestCaseError> {
    let mut config = tiny();
    config.delta_merge_max = merge_max;
    config.delta_depth_max = depth_max;
    let (bench, _) = Bench::sim(config);
    let mut bytes = painted(len, 0);
    let mut hash = bench.put(&bytes)?;
    let mut edit = Edit::over(&bytes);
    for (i, step) in steps.iter().chain([&Step::Close]).enumerate() {
        match *step {
            Step::Write(at, len) => edit.write(at, &painted(len, i as u64 + 1)),
            Step::Truncate(size) => edit.truncate(size),
            Step::Close => {
                let txn = bench.store.read()?;
                let staged = Staged::Bytes(&edit.staged);
                let prepared =
                    bench
                        .contents
                        .prepare_plan(&*txn, Some(&hash), staged, &edit.map.plan())?;
                drop(txn);
                hash = bench.commit(prepared)?;
                bytes = edit.model;
                prop_assert_eq!(hash, Hash::of(&bytes));
                prop_assert!(bench.read(&hash)? == bytes);
                bench.verify(&hash)?;
                edit = Edit::over(&bytes);
            }
            Step::Flatten => {
                let txn = bench.store.read()?;
                let flat = bench.contents.flatten(&*txn, &hash)?;
                drop(txn);
                if let Some(flat) = flat {
                    bench.commit(flat)?;
                    let record = bench.store.read()?.content(&hash)?.unwrap();
                    prop_assert_eq!(record.form, ContentForm::File);
                    bench.verify(&hash)?;
                }
            }
        }
    }
    prop_assert_eq!(bench.contents.usage()?.staged, 0);
    let reader = bench.contents.open(&*bench.store.read()?, &hash)?;
    prop_assert!(reader.depth() <= depth_max.max(1));
    Ok(())
}

fn merge_max() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(2000), Just(1 << 20)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_agree_with_a_byte_vector(
        len in 0..150_000usize,
        steps in proptest::collection::vec(step(), 1..40),
        merge_max in merge_max(),
        depth_max in 0..5u32,
    ) {
        run(len, &steps, merge_max, depth_max)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn plans_with_large_holes_agree_with_a_byte_vector(
        steps in proptest::collection::vec(sparse_step(), 1..30),
        merge_max in merge_max(),
        depth_max in 0..5u32,
    ) {
        run(0, &steps, merge_max, depth_max)?;
    }
}
