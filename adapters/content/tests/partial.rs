//! Contents that arrive in pieces: any order, any fault, any power cut.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use alknet_fs_content::hash_tree::{TreeHasher, subtree};
use alknet_fs_content::partial::{Expected, Partial, Verifier, chunk_count};
use alknet_fs_content::{Area, Config, Fault, Files, SimFiles};
use alknet_fs_core::store::Store;
use alknet_fs_core::{ErrorKind, Hash, Result};
use common::{Bench, painted, tiny};

/// A parent or a leaf on its way.
#[derive(Debug, Clone)]
enum Item {
    Parent(u64, u64, [u8; 32], [u8; 32]),
    Leaf(u64, Vec<u8>),
}

/// The stream of the groups that are asked for, in pre-order.
fn stream(bytes: &[u8], asked: &dyn Fn(u64) -> bool) -> Vec<Item> {
    let mut hasher = TreeHasher::new();
    hasher.update(bytes);
    let (_, nodes) = hasher.finish();
    let size = bytes.len() as u64;
    let mut items = Vec::new();
    let mut stack = vec![Expected::root(size)];
    while let Some(next) = stack.pop() {
        let groups = next.groups();
        if !groups.clone().any(asked) {
            continue;
        }
        if groups.end - groups.start <= 1 {
            let range = next.bytes(size);
            let bytes = bytes[range.start as usize..range.end as usize].to_vec();
            items.push(Item::Leaf(range.start, bytes));
            continue;
        }
        let [left, right] = next.children([0; 32], [0; 32]);
        let cvs = [&left, &right].map(|child| subtree(&nodes, child.groups()).unwrap());
        items.push(Item::Parent(next.start, next.middle(), cvs[0], cvs[1]));
        stack.extend([right, left]);
    }
    items
}

fn send(partial: &mut Partial, items: &[Item]) -> Result<()> {
    let mut verifier = Verifier::new(partial.hash(), partial.size());
    for item in items {
        match item {
            Item::Parent(start, middle, left, right) => {
                partial.parent(&mut verifier, *start, *middle, *left, *right)?;
            }
            Item::Leaf(offset, bytes) => partial.leaf(&mut verifier, *offset, bytes)?,
        }
    }
    partial.flush()
}

fn finish(bench: &Bench, partial: Partial) -> Result<Hash> {
    let hash = bench.commit(partial.prepare(&bench.contents)?)?;
    partial.discard()?;
    Ok(hash)
}

/// Receives all that is missing, a part at a time; returns how many bytes came.
fn receive(bench: &Bench, bytes: &[u8]) -> Result<u64> {
    let hash = Hash::of(bytes);
    let mut partial = Partial::open(&bench.contents, hash, bytes.len() as u64)?;
    let mut came = 0;
    for part in 0..3 {
        let groups = partial.groups().clone();
        let items = stream(bytes, &|group| group % 3 == part && !groups.contains(group));
        came += items.iter().fold(0, |sum, item| match item {
            Item::Leaf(_, bytes) => sum + bytes.len() as u64,
            Item::Parent(..) => sum,
        });
        send(&mut partial, &items)?;
        if part == 1 {
            partial.sync()?;
        }
    }
    assert_eq!(finish(bench, partial)?, hash);
    Ok(came)
}

#[test]
fn groups_arrive_in_any_order() {
    for size in [
        1,
        1024,
        16_384,
        16_385,
        32_768,
        100_000,
        262_144,
        700_001,
        1 << 20,
    ] {
        let (bench, _) = Bench::sim(tiny());
        let bytes = painted(size, 1);
        assert_eq!(receive(&bench, &bytes).unwrap(), size as u64);
        bench.verify(&Hash::of(&bytes)).unwrap();
        assert!(bench.read(&Hash::of(&bytes)).unwrap() == bytes);
        assert_eq!(bench.contents.usage().unwrap().staged, 0);
        // Its tree is the one that hashing the bytes gives.
        let txn = bench.store.read().unwrap();
        let (other, _) = Bench::sim(tiny());
        other.put(&bytes).unwrap();
        let record = txn.content(&Hash::of(&bytes)).unwrap();
        let other = other.store.read().unwrap();
        assert_eq!(record, other.content(&Hash::of(&bytes)).unwrap());
    }
}

#[test]
fn a_fault_at_any_call_believes_nothing_that_is_not_there() {
    let bytes = painted(300_000, 2);
    let hash = Hash::of(&bytes);
    for links in [true, false] {
        let make = || {
            if links {
                SimFiles::new()
            } else {
                SimFiles::without_links()
            }
        };
        let (bench, files) = Bench::over(make(), tiny());
        files.power_cut();
        receive(&bench, &bytes).unwrap();
        let calls = files.calls();
        assert!(calls > 50, "{calls}");
        let after: [fn(&SimFiles); 2] = [SimFiles::restart, SimFiles::power_cut];
        for (after, fault) in after.iter().flat_map(|after| {
            [Fault::Io, Fault::NoSpace, Fault::ShortWrite, Fault::Death].map(|fault| (after, fault))
        }) {
            for n in 1..=calls {
                let context = format!("{fault:?} at call {n}");
                let (bench, files) = Bench::over(make(), tiny());
                // Before the first, the machine has no number.
                files.power_cut();
                files.fail_after(n, fault);
                let first = receive(&bench, &bytes);
                files.clear_fault();
                after(&files);
                if first.is_ok() && bench.read(&hash).is_ok() {
                    assert!(bench.read(&hash).unwrap() == bytes, "{context}");
                    continue;
                }
                receive(&bench, &bytes).unwrap_or_else(|e| panic!("{context}: {e}"));
                bench
                    .verify(&hash)
                    .unwrap_or_else(|e| panic!("{context}: {e}"));
                bench.contents.remove_partials(&mut |_, _| true).unwrap();
                // What a fault left beside is an orphan like any other.
                let mut txn = bench.store.write(Default::default()).unwrap();
                let orphans = bench.contents.orphans(&*txn).unwrap();
                let sweep = bench
                    .contents
                    .sweep(&mut *txn, &orphans, Default::default());
                sweep.unwrap();
                txn.commit().unwrap();
                assert_eq!(bench.contents.usage().unwrap().staged, 0, "{context}");
                bench.verify(&hash).unwrap();
            }
        }
    }
}

#[test]
fn what_was_synced_outlives_a_power_cut_and_the_rest_a_crash() {
    let bytes = painted(1 << 20, 3);
    let hash = Hash::of(&bytes);
    let size = bytes.len() as u64;
    for lose_power in [false, true] {
        let (bench, files) = Bench::sim(Config::default());
        files.power_cut();
        let mut partial = Partial::open(&bench.contents, hash, size).unwrap();
        send(&mut partial, &stream(&bytes, &|group| group < 20)).unwrap();
        partial.sync().unwrap();
        send(&mut partial, &stream(&bytes, &|group| group >= 40)).unwrap();
        assert!(partial.is_size_proven());
        let other = Partial::open(&bench.contents, hash, size).unwrap();
        assert_eq!(other.groups().count(), 0, "another process begins its own");
        drop((partial, other));
        if lose_power {
            // Nothing says in which order what was not synced reaches the disk.
            let log = format!("r{hash}-{size}-0.log");
            files
                .open(Area::Staging, &log)
                .unwrap()
                .sync_data()
                .unwrap();
            files.power_cut();
        } else {
            files.restart();
        }
        let partial = Partial::find(&bench.contents, hash, size).unwrap().unwrap();
        let kept = partial.groups().as_slice().to_vec();
        let parts = if lose_power { 1 } else { 2 };
        assert_eq!(kept, [0..20, 40..64][..parts]);
        drop(partial);
        files.restart();
        let missing = size - kept.iter().map(|r| (r.end - r.start) * 16_384).sum::<u64>();
        assert_eq!(receive(&bench, &bytes).unwrap(), missing);
        bench.verify(&hash).unwrap();
        let is_gone = |bench: &Bench| bench.contents.partials().unwrap().is_empty();
        bench.contents.remove_partials(&mut |_, _| true).unwrap();
        assert!(is_gone(&bench));
        assert_eq!(bench.contents.usage().unwrap().staged, 0);
    }
}

#[test]
fn a_sync_beside_what_arrives_covers_what_came_before_it() {
    let bytes = painted(48 << 20, 4);
    let hash = Hash::of(&bytes);
    let size = bytes.len() as u64;
    let (bench, files) = Bench::sim(Config::default());
    files.power_cut();
    let mut partial = Partial::open(&bench.contents, hash, size).unwrap();
    let log = files.open(Area::Staging, &format!("r{hash}-{size}-0.log"));
    let log = log.unwrap();
    send(&mut partial, &stream(&bytes, &|group| group < 2100)).unwrap();
    send(
        &mut partial,
        &stream(&bytes, &|group| (2500..2600).contains(&group)),
    )
    .unwrap();
    // Its first record, two of groups, and one of the sync.
    let deadline = Instant::now() + Duration::from_secs(30);
    while log.size().unwrap() < 4 * 32 {
        assert!(Instant::now() < deadline, "no sync");
        partial.flush().unwrap();
    }
    drop(partial);
    log.sync_data().unwrap();
    files.power_cut();
    let partial = Partial::find(&bench.contents, hash, size).unwrap().unwrap();
    assert_eq!(
        partial.groups().as_slice(),
        std::slice::from_ref(&(0..2100))
    );
    drop(partial);
    files.restart();
    assert_eq!(receive(&bench, &bytes).unwrap(), size - 2100 * 16_384);
    bench.verify(&hash).unwrap();
}

#[test]
fn partial_contents_are_listed_and_are_no_orphans() {
    let (bench, files) = Bench::sim(tiny());
    let bytes = painted(200_000, 4);
    let hash = Hash::of(&bytes);
    let mut partial = Partial::open(&bench.contents, hash, 200_000).unwrap();
    send(&mut partial, &stream(&bytes, &|group| group == 3)).unwrap();
    let orphans = |bench: &Bench| {
        let txn = bench.store.read().unwrap();
        bench.contents.orphans(&*txn).unwrap()
    };
    assert_eq!(orphans(&bench), []);
    let listed = bench.contents.partials().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].hash, listed[0].size), (hash, 200_000));
    assert!(listed[0].in_use);
    assert_eq!(
        bench.contents.remove_partials(&mut |_, _| true).unwrap().0,
        0
    );
    drop(partial);
    files.restart();
    assert!(!bench.contents.partials().unwrap()[0].in_use);
    assert_eq!(orphans(&bench), []);
    assert_eq!(
        bench.contents.remove_partials(&mut |_, _| false).unwrap().0,
        0
    );
    assert_eq!(
        bench
            .contents
            .remove_partials(&mut |h, _| *h == hash)
            .unwrap(),
        (1, bytes.len() as u64)
    );
    assert_eq!(bench.contents.usage().unwrap().staged, 0);
}

#[test]
fn a_tree_that_was_damaged_beside_does_not_become_a_content() {
    let (bench, files) = Bench::sim(tiny());
    let bytes = painted(200_000, 5);
    let hash = Hash::of(&bytes);
    let mut partial = Partial::open(&bench.contents, hash, 200_000).unwrap();
    send(&mut partial, &stream(&bytes, &|_| true)).unwrap();
    let tree = format!("r{hash}-200000-0.tree");
    files.flip_bit(Area::Staging, &tree, 40).unwrap();
    let refused = partial.prepare(&bench.contents).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    files.flip_bit(Area::Staging, &tree, 40).unwrap();
    assert_eq!(finish(&bench, partial).unwrap(), hash);
    bench.verify(&hash).unwrap();
}

#[test]
fn too_many_sizes_of_one_hash_are_refused() {
    let (bench, _) = Bench::sim(tiny());
    let hash = Hash::of(b"whatever");
    let open: Vec<_> = (0..8)
        .map(|at| Partial::open(&bench.contents, hash, 100_000 + at).unwrap())
        .collect();
    let refused = Partial::open(&bench.contents, hash, 50_000);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
    drop(open);
    let too_large = Partial::open(&bench.contents, hash, u64::MAX);
    assert_eq!(too_large.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(chunk_count(0), 1);
}
