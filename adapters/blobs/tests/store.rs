//! The commands of the store protocol, against iroh-blobs' own store in memory.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU64;
use std::time::Duration;

use alknet_fs::{GcOptions, Task};
use alknet_fs_blobs::Options;
use alknet_fs_sqlite::SqliteStore;
use bao_tree::io::mixed::EncodedItem;
use bao_tree::io::{BaoContentItem, Leaf};
use bao_tree::{ChunkNum, ChunkRanges};
use bytes::Bytes;
use common::{Node, Random, eventually, painted, some_ranges, whole_groups};
use futures_lite::StreamExt;
use iroh_blobs::api::blobs::BlobStatus;
use iroh_blobs::hashseq::HashSeq;
use iroh_blobs::protocol::ChunkRangesExt;
use iroh_blobs::store::mem::MemStore;
use iroh_blobs::{Hash, HashAndFormat};

const SIZES: [usize; 14] = [
    0,
    1,
    1023,
    1024,
    1025,
    16 * 1024 - 1,
    16 * 1024,
    16 * 1024 + 1,
    48 * 1024,
    64 * 1024,
    64 * 1024 + 1,
    100_000,
    1 << 20,
    (5 << 20) + 12_345,
];

/// The stream of some ranges, as items.
async fn items(
    store: &iroh_blobs::api::Store,
    hash: Hash,
    ranges: &ChunkRanges,
) -> Vec<BaoContentItem> {
    let mut stream = store.export_bao(hash, ranges.clone()).stream();
    let mut items = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            EncodedItem::Parent(parent) => items.push(parent.into()),
            EncodedItem::Leaf(leaf) => items.push(leaf.into()),
            EncodedItem::Error(error) => panic!("{error}"),
            EncodedItem::Size(_) | EncodedItem::Done => {}
        }
    }
    items
}

/// Sends items to a store; returns what it answers.
async fn send(
    store: &iroh_blobs::api::Store,
    hash: Hash,
    size: u64,
    items: impl IntoIterator<Item = BaoContentItem>,
) -> Result<(), iroh_blobs::api::Error> {
    let size = NonZeroU64::new(size).unwrap();
    let handle = store.import_bao(hash, size, 4).await.unwrap();
    for item in items {
        if handle.tx.send(item).await.is_err() {
            break;
        }
    }
    drop(handle.tx);
    handle.rx.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_equal_those_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::create(dir.path());
    let reference = MemStore::new();
    let mut random = Random(7);
    let base = painted(3 << 20, 99);
    node.put(base.clone());
    let (_, edited) = node.edit(&base, 1_000_000, b"a delta");
    let contents = SIZES.iter().map(|&size| painted(size, size as u64));
    for bytes in contents.chain([edited]) {
        let size = bytes.len() as u64;
        let hash = match node.has(Hash::new(&bytes)) {
            true => Hash::new(&bytes),
            false => node.put(bytes.clone()),
        };
        let tag = reference.add_bytes(bytes.clone()).temp_tag().await.unwrap();
        assert_eq!(tag.hash(), hash);
        assert_eq!(node.blobs.get_bytes(hash).await.unwrap(), bytes);
        let mut asked = vec![
            ChunkRanges::all(),
            ChunkRanges::empty(),
            ChunkRanges::last_chunk(),
        ];
        asked.extend((0..30).map(|_| some_ranges(&mut random, size)));
        for ranges in asked {
            let ours = node
                .blobs
                .export_bao(hash, ranges.clone())
                .bao_to_vec()
                .await
                .unwrap();
            let theirs = reference
                .export_bao(hash, ranges.clone())
                .bao_to_vec()
                .await
                .unwrap();
            assert!(ours == theirs, "{size} {ranges:?}");
        }
        for _ in 0..10 {
            let start = random.below(size + 1);
            let end = start + random.below(size + 2);
            let got = node
                .blobs
                .export_ranges(hash, start..end)
                .concatenate()
                .await
                .unwrap();
            assert_eq!(got, bytes[start as usize..end.min(size) as usize]);
        }
        let target = dir.path().join("out/file");
        assert_eq!(node.blobs.export(hash, &target).await.unwrap(), size);
        assert_eq!(std::fs::read(&target).unwrap(), bytes);
        assert_eq!(
            node.blobs.status(hash).await.unwrap(),
            BlobStatus::Complete { size }
        );
        assert!(node.blobs.observe(hash).await.unwrap().is_complete());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::create(dir.path());
    let bytes = painted(1 << 20, 1);
    let hash = node.put(bytes.clone());
    let file = dir.path().join(format!("blobs/{hash}"));
    let mut damaged = bytes.clone();
    damaged[700_000] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    assert!(node.blobs.get_bytes(hash).await.is_err());
    let good = ChunkRanges::bytes(..600_000);
    let served = node.blobs.export_bao(hash, good).data_to_bytes().await;
    assert!(bytes.starts_with(&served.unwrap()));
    // Within the group, what is asked for may be whole, but the rest of it proves nothing.
    for ranges in [
        ChunkRanges::bytes(699_000..699_100),
        ChunkRanges::bytes(690_000..710_000),
    ] {
        assert!(
            node.blobs
                .export_bao(hash, ranges)
                .data_to_bytes()
                .await
                .is_err()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_become_contents() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::create(dir.path());
    for size in SIZES {
        let bytes = painted(size, 1);
        let tag = node
            .blobs
            .add_bytes(bytes.clone())
            .temp_tag()
            .await
            .unwrap();
        assert_eq!(tag.hash(), Hash::new(&bytes));
        assert_eq!(node.read(tag.hash()), bytes);

        let bytes = painted(size, 2);
        let path = dir.path().join("in");
        std::fs::write(&path, &bytes).unwrap();
        let tag = node.blobs.add_path(&path).temp_tag().await.unwrap();
        assert_eq!(node.read(tag.hash()), bytes);

        let bytes = painted(size, 3);
        let pieces: Vec<_> = bytes
            .chunks(7_777)
            .map(|b| Ok(Bytes::copy_from_slice(b)))
            .collect();
        let stream = node
            .blobs
            .add_stream(futures_lite::stream::iter(pieces))
            .await;
        let tag = stream.temp_tag().await.unwrap();
        assert_eq!(node.read(tag.hash()), bytes);
    }
    let broken = [
        Ok(Bytes::from_static(b"half")),
        Err(io::Error::other("gone")),
    ];
    let stream = node
        .blobs
        .add_stream(futures_lite::stream::iter(broken))
        .await;
    assert!(stream.temp_tag().await.is_err());
    assert!(!node.has(Hash::new(b"half")));
    assert!(
        node.blobs
            .add_path(dir.path().join("none"))
            .temp_tag()
            .await
            .is_err()
    );
    let listed = node.blobs.list().hashes().await.unwrap();
    let listed: BTreeSet<_> = listed.into_iter().collect();
    let all = SIZES
        .iter()
        .flat_map(|&size| [1, 2, 3].map(|seed| Hash::new(painted(size, seed))));
    assert_eq!(listed, all.collect());
    node.blobs.sync_db().await.unwrap();
    node.blobs.wait_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_become_contents_in_every_form() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    for size in SIZES {
        let bytes = painted(size, 5);
        let hash = from.put(bytes.clone());
        if size == 0 {
            continue;
        }
        let all = items(&from.blobs, hash, &ChunkRanges::all()).await;
        send(&to.blobs, hash, size as u64, all).await.unwrap();
        assert_eq!(to.read(hash), bytes);
        let again = items(&to.blobs, hash, &ChunkRanges::all()).await;
        send(&to.blobs, hash, size as u64, again).await.unwrap();
        assert!(send(&to.blobs, hash, size as u64 + 1, []).await.is_err());
    }
    assert_eq!(to.contents.usage().unwrap().staged, 0);
    assert_eq!(to.contents.partials().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_kept_by_whole_groups_and_add_up() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let mut random = Random(3);
    for round in 0..30u64 {
        let size = 70_000 + random.below(600_000);
        let bytes = painted(size as usize, round);
        let hash = from.put(bytes.clone());
        let mut present = ChunkRanges::empty();
        for _ in 0..4 {
            let ranges = some_ranges(&mut random, size);
            let part = items(&from.blobs, hash, &ranges).await;
            send(&to.blobs, hash, size, part).await.unwrap();
            // What lies past the end asks for the last chunk.
            let chunks = size.div_ceil(1024);
            let last = ChunkRanges::from(ChunkNum(chunks - 1)..);
            let mut asked = ranges.clone();
            if !asked.is_disjoint(&last) {
                asked |= last;
            }
            present |= whole_groups(&asked, size);
            let bits = to.blobs.observe(hash).await.unwrap();
            assert_eq!(
                bits.ranges,
                whole_groups(&present, size),
                "{size} {ranges:?}"
            );
            if bits.is_complete() {
                break;
            }
            match to.blobs.status(hash).await.unwrap() {
                BlobStatus::Partial { size: proven } => assert_eq!(proven, bits.validated_size()),
                other => assert!(present.is_empty(), "{other:?}"),
            }
            // What is there is served on, verified.
            for range in bits.ranges.boundaries().chunks(2) {
                let end = range.get(1).map_or(chunks, |end| end.0.min(chunks));
                let range = ChunkRanges::from(range[0]..ChunkNum(end));
                let served = to
                    .blobs
                    .export_bao(hash, range.clone())
                    .bao_to_vec()
                    .await
                    .unwrap();
                let meant = from
                    .blobs
                    .export_bao(hash, range)
                    .bao_to_vec()
                    .await
                    .unwrap();
                assert!(served == meant);
            }
            let missing = &ChunkRanges::from(..ChunkNum(chunks)) - &bits.ranges;
            let start = missing.boundaries()[0];
            let missing = ChunkRanges::from(start..start + 1);
            assert!(
                to.blobs
                    .export_bao(hash, missing)
                    .data_to_bytes()
                    .await
                    .is_err()
            );
        }
        let bits = to.blobs.observe(hash).await.unwrap();
        let rest = items(&from.blobs, hash, &(&ChunkRanges::all() - &bits.ranges)).await;
        if !bits.is_complete() {
            send(&to.blobs, hash, size, rest).await.unwrap();
        }
        assert_eq!(to.read(hash), bytes);
    }
    assert_eq!(to.contents.usage().unwrap().staged, 0);
}

fn flip(item: &mut BaoContentItem, random: &mut Random) {
    match item {
        BaoContentItem::Leaf(Leaf { data, .. }) => {
            let mut bytes = data.to_vec();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            *data = bytes.into();
        }
        BaoContentItem::Parent(parent) => {
            let mut left = *parent.pair.0.as_bytes();
            left[random.below(32) as usize] ^= 1;
            parent.pair.0 = left.into();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_not_believed() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let mut random = Random(11);
    for round in 0..60u64 {
        let size = 1 + random.below(500_000);
        let bytes = painted(size as usize, round + 100);
        let hash = from.put(bytes.clone());
        let mut sent = items(&from.blobs, hash, &ChunkRanges::all()).await;
        let at = random.below(sent.len() as u64) as usize;
        let mut claimed = size;
        match round % 5 {
            0 => flip(&mut sent[at], &mut random),
            1 => claimed = size + 1 + random.below(40_000),
            2 if size > 1 => claimed = 1 + random.below(size - 1),
            3 if at > 0 && matches!(sent[0], BaoContentItem::Parent(_)) => {
                sent.remove(0);
            }
            _ => {
                if let (Some(BaoContentItem::Leaf(leaf)), true) = (sent.get_mut(at), size > 1) {
                    leaf.data = leaf.data.slice(..leaf.data.len() - 1);
                } else {
                    flip(&mut sent[at], &mut random);
                }
            }
        }
        let answer = send(&to.blobs, hash, claimed, sent).await;
        assert!(answer.is_err(), "{round} {size} {claimed}");
        assert!(!to.has(hash));
        assert_ne!(
            to.blobs.status(hash).await.unwrap(),
            BlobStatus::Complete { size }
        );
        // What is said to be there is there.
        let bits = to.blobs.observe(hash).await.unwrap();
        if claimed != size {
            assert_eq!(bits.validated_size(), None);
        }
        for range in bits.ranges.boundaries().chunks(2) {
            let end = range.get(1).map_or(size, |end| end.to_bytes().min(size));
            let start = range[0].to_bytes();
            let got = to
                .blobs
                .export_ranges(hash, start..end)
                .concatenate()
                .await
                .unwrap();
            assert!(got == bytes[start as usize..end as usize]);
        }
        let good = items(&from.blobs, hash, &ChunkRanges::all()).await;
        send(&to.blobs, hash, size, good).await.unwrap();
        assert_eq!(to.read(hash), bytes);
        assert_eq!(to.contents.partials().unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_where_it_was_dropped() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let from = Node::create(dirs[0].path());
    let size = 6_000_000;
    let bytes = painted(size, 1);
    let hash = from.put(bytes.clone());
    Node::create(dirs[1].path()).shutdown().await;
    let mut random = Random(5);
    let mut received = 0;
    let mut rounds = 0;
    loop {
        let to = Node::open(dirs[1].path());
        let bits = to.blobs.observe(hash).await.unwrap();
        if bits.is_complete() {
            assert_eq!(to.read(hash), bytes);
            break;
        }
        rounds += 1;
        let before = bits.total_bytes();
        let mut rest = items(&from.blobs, hash, &(&ChunkRanges::all() - &bits.ranges)).await;
        rest.truncate(1 + random.below(200) as usize);
        let leaves = rest.iter().filter_map(|item| match item {
            BaoContentItem::Leaf(leaf) => Some(leaf.data.len() as u64),
            BaoContentItem::Parent(_) => None,
        });
        let sum: u64 = leaves.sum();
        received += sum;
        let size = NonZeroU64::new(size as u64).unwrap();
        let handle = to.blobs.import_bao(hash, size, 64).await.unwrap();
        for item in rest {
            handle.tx.send(item).await.unwrap();
        }
        if rounds % 2 == 0 {
            // The actor ends with the last handle, in the middle of the stream.
            let observed = async || to.blobs.observe(hash).await.unwrap();
            eventually("all that was sent is there", async || {
                let bits = observed().await;
                bits.is_complete() || bits.total_bytes() == before + sum
            })
            .await;
            let Node {
                contents, blobs, ..
            } = to;
            drop(blobs);
            let ended = async || contents.partials().unwrap().iter().all(|p| !p.in_use);
            eventually("the actor has ended", ended).await;
            drop(handle);
        } else {
            drop(handle.tx);
            handle.rx.await.unwrap().unwrap();
            to.shutdown().await;
        }
    }
    assert!(rounds > 3);
    assert_eq!(received, size as u64, "nothing came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_imports_of_one_hash_at_once() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let second = Node::open(dirs[1].path());
    for size in [40_000u64, 2_000_000] {
        let bytes = painted(size as usize, 8);
        let hash = from.put(bytes.clone());
        let mut tasks = Vec::new();
        for at in 0..12 {
            let all = items(&from.blobs, hash, &ChunkRanges::all()).await;
            let node = if at % 3 == 0 { &second } else { &to };
            let blobs = node.blobs.clone();
            tasks.push(tokio::spawn(
                async move { send(&blobs, hash, size, all).await },
            ));
        }
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(to.read(hash), bytes);
        assert!(second.has(hash));
    }
    assert_eq!(to.contents.partials().unwrap(), []);
    assert_eq!(to.contents.usage().unwrap().staged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_see_what_arrives() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [from, to] = [0, 1].map(|at: usize| Node::create(dirs[at].path()));
    let size = 3_000_000u64;
    let hash = from.put(painted(size as usize, 4));
    let mut seen = Box::pin(to.blobs.observe(hash).stream().await.unwrap());
    assert!(seen.next().await.unwrap().is_empty());
    let all = items(&from.blobs, hash, &ChunkRanges::all()).await;
    let blobs = to.blobs.clone();
    let sending = tokio::spawn(async move { send(&blobs, hash, size, all).await });
    let mut last = 0;
    loop {
        let bits = seen.next().await.unwrap();
        assert!(bits.total_bytes() >= last);
        last = bits.total_bytes();
        if bits.is_complete() {
            break;
        }
    }
    sending.await.unwrap().unwrap();
    // A content that comes by another way is seen, too.
    let bytes = painted(100_000, 40);
    let waiting = to.blobs.observe(Hash::new(&bytes)).await_completion();
    let put = async { to.put(bytes.clone()) };
    let (bits, _) = tokio::join!(waiting, put);
    assert_eq!(bits.unwrap().size(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_there_in_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::create(dir.path());
    let hash = node
        .blobs
        .add_slice(b"one")
        .with_named_tag("a")
        .await
        .unwrap()
        .hash;
    let seq = HashAndFormat::hash_seq(Hash::new(b"other"));
    node.blobs.tags().set("b", seq).await.unwrap();
    node.blobs
        .tags()
        .set([0xff, 0], HashAndFormat::raw(hash))
        .await
        .unwrap();
    let auto = node
        .blobs
        .tags()
        .create(HashAndFormat::raw(hash))
        .await
        .unwrap();
    node.shutdown().await;

    let node = Node::open(dir.path());
    let tags = node.blobs.tags();
    assert_eq!(tags.get("b").await.unwrap().unwrap().hash_and_format(), seq);
    assert_eq!(tags.get([0xff, 0]).await.unwrap().unwrap().hash, hash);
    tags.rename("b", "c").await.unwrap();
    assert!(tags.rename("b", "d").await.is_err());
    let names = async || -> Vec<_> {
        let list = tags.list().await.unwrap();
        list.map(|tag| tag.unwrap().name).collect().await
    };
    assert_eq!(names().await.len(), 4);
    let seqs: Vec<_> = tags.list_hash_seq().await.unwrap().collect().await;
    assert_eq!(seqs.len(), 1);
    assert_eq!(tags.delete("c").await.unwrap(), 1);
    assert_eq!(tags.delete("c").await.unwrap(), 0);
    assert!(names().await.contains(&auto));
    assert_eq!(tags.delete_all().await.unwrap(), 3);
    assert_eq!(names().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tags_live_as_long_as_they_are_held() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::create(dir.path());
    let count = async || {
        let tags = node.blobs.tags().list_temp_tags().await.unwrap();
        tags.collect::<Vec<_>>().await.len()
    };
    let tag = node.blobs.add_slice(b"x").temp_tag().await.unwrap();
    assert_eq!(count().await, 1);
    let batch = node.blobs.batch().await.unwrap();
    let other = batch.add_slice(b"y").await.unwrap();
    let _third = batch.temp_tag(other.hash()).await.unwrap();
    assert_eq!(count().await, 2);
    drop(tag);
    assert_eq!(count().await, 1);
    drop(batch);
    eventually("the batch has ended", async || count().await == 0).await;
    assert!(node.has(other.hash()));
}

/// What is tagged outlives the time for which whatever arrives is kept; what is let go goes.
#[tokio::test(flavor = "multi_thread")]
async fn collection_takes_what_no_tag_names_and_leaves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    SqliteStore::create(dir.path(), Default::default()).unwrap();
    let pin = Duration::from_secs(2);
    let node = Node::open_with(
        dir.path(),
        Options {
            pin,
            ..Default::default()
        },
    );
    let store = alknet_fs::Store::open(dir.path()).unwrap();
    let collect = || {
        let options = GcOptions::new().grace(Duration::ZERO);
        store.gc(&options, &Task::default()).unwrap();
    };
    let gone = async |hash: Hash| {
        eventually("what nothing names is collected", async || {
            collect();
            !node.has(hash)
        })
        .await;
    };
    let add = |bytes: &'static [u8]| node.blobs.add_slice(bytes);
    let loose = async |bytes: &'static [u8]| add(bytes).temp_tag().await.unwrap().hash();

    let named = add(b"named").with_named_tag("a").await.unwrap().hash;
    // A list keeps its members, whether they come before it or after it.
    let member = loose(b"member").await;
    let late = &b"another member"[..];
    let list = Bytes::from(HashSeq::from_iter([member, Hash::new(late)]));
    let tags = node.blobs.tags();
    let tag = HashAndFormat::hash_seq(Hash::new(&list));
    tags.set("list", tag).await.unwrap();
    let list = node.blobs.add_bytes(list).temp_tag().await.unwrap();
    let late = loose(late).await;
    let held = add(b"held").temp_tag().await.unwrap();
    let batch = node.blobs.batch().await.unwrap();
    let in_batch = batch.add_slice(b"in a batch").await.unwrap();
    let listed = [list.hash(), member, late];
    let others = [named, held.hash(), in_batch.hash()];
    // Twice, so that whatever is kept was kept again.
    for bytes in [&b"one"[..], b"two"] {
        gone(loose(bytes).await).await;
        for hash in listed.into_iter().chain(others) {
            assert!(node.has(hash), "{hash}");
        }
    }

    assert_eq!(tags.delete("a").await.unwrap(), 1);
    drop((list, held, in_batch, batch));
    for hash in others {
        gone(hash).await;
    }
    for hash in listed {
        assert!(node.has(hash), "{hash}");
    }
    assert_eq!(tags.delete("list").await.unwrap(), 1);
    for hash in listed {
        gone(hash).await;
    }
}
