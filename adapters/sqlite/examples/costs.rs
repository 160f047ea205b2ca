//! Prints what the store's basic operations cost on this machine, in microseconds each.
//!
//! `cargo run --release -p alknet-fs-sqlite --example costs [DIR]`

use std::path::PathBuf;
use std::time::Instant;

use alknet_fs_core::entry::{Attrs, Entry, Hash, Node, Timestamp};
use alknet_fs_core::event::{Change, Commit, Op};
use alknet_fs_core::store::{
    BranchId, BucketId, ContentForm, ContentRecord, Durability, Epoch, Layer, Row, Store,
};
use alknet_fs_core::{Result, TreePath};
use alknet_fs_sqlite::{Options, SqliteStore};

fn row() -> Row {
    let attrs = Attrs {
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Timestamp(1_700_000_000_000_000_000),
        ctime: Timestamp(1_700_000_000_000_000_000),
    };
    let node = Node::File {
        hash: Hash::EMPTY,
        size: 4096,
    };
    Row {
        entry: Some(Entry { node, attrs }),
        base: None,
    }
}

fn commit(path: TreePath) -> Commit {
    let change = Change {
        path: Some(path),
        new: Some(Hash::EMPTY),
        size: Some(4096),
        ..Change::new(Op::Create)
    };
    Commit {
        at: Timestamp(1_700_000_000_000_000_000),
        author: "costs".into(),
        branch: "main".into(),
        session: None,
        changes: vec![change],
    }
}

/// Runs `work` `times` times, three times over, and prints the best mean.
fn measure(what: &str, times: u32, mut work: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        for n in 0..times {
            work(n)?;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(times));
    }
    println!("{best:10.2} us  {what}");
    Ok(())
}

fn main() -> Result<()> {
    let parent = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("alkfs-costs-{}", std::process::id()));
    let result = run(&dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn run(dir: &std::path::Path) -> Result<()> {
    let start = Instant::now();
    let store = SqliteStore::create(dir, Options::default())?;
    println!("{:10.2} us  create", start.elapsed().as_secs_f64() * 1e6);
    let layer = |branch| Layer {
        branch: BranchId(branch),
        epoch: Epoch(1),
    };
    let mut txn = store.write(Durability::Full)?;
    let bucket: BucketId = txn.add_bucket("b", Timestamp(0))?.id;
    for n in 1..1000 {
        txn.add_branch(bucket, &format!("b{n}"), Timestamp(0))?;
    }
    txn.commit()?;

    let files: u32 = 100_000;
    let start = Instant::now();
    for batch in 0..files / 10_000 {
        let mut txn = store.write(Durability::Full)?;
        for n in 0..10_000 {
            let n = batch * 10_000 + n;
            txn.put_row(
                bucket,
                &format!("/dir/{}", n / 40),
                &format!("f{n}"),
                layer(1),
                &row(),
            )?;
        }
        txn.commit()?;
    }
    println!(
        "{:10.2} us  put_row, in batches of 10,000",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(files)
    );
    let mut txn = store.write(Durability::Full)?;
    for branch in 2..1000 {
        txn.put_row(bucket, "/dir/7", "f280", layer(branch), &row())?;
    }
    txn.commit()?;
    store.checkpoint()?;

    measure("open and close", 50, |_| {
        SqliteStore::open(dir, Options::default()).map(drop)
    })?;
    measure("read() + drop", 20_000, |_| store.read().map(drop))?;
    measure("read() + seek + drop", 20_000, |_| {
        store
            .read()?
            .seek(bucket, "/dir/9", "f360", layer(1))
            .map(drop)
    })?;
    let read = store.read()?;
    measure("seek in one transaction, the same path", 100_000, |_| {
        read.seek(bucket, "/dir/9", "f360", layer(1)).map(drop)
    })?;
    measure(
        "seek in one transaction, beside 1,000 siblings",
        100_000,
        |_| read.seek(bucket, "/dir/7", "f280", layer(1)).map(drop),
    )?;
    measure("seek in one transaction, random paths", 100_000, |n| {
        let n = n.wrapping_mul(2_654_435_761) % files;
        read.seek(
            bucket,
            &format!("/dir/{}", n / 40),
            &format!("f{n}"),
            layer(1),
        )
        .map(drop)
    })?;
    measure("scan_dir of 40 names", 10_000, |n| {
        read.scan_dir(
            bucket,
            &format!("/dir/{}", 100 + n % 2000),
            None,
            &mut |_, _, _| Ok(std::ops::ControlFlow::Continue(())),
        )
    })?;
    drop(read);

    for durability in [Durability::Full, Durability::Relaxed] {
        measure(
            &format!("empty write transaction, {durability:?}"),
            5_000,
            |_| store.write(durability)?.commit(),
        )?;
        let mut next = 0_u32;
        measure(
            &format!("write: 1 row, 1 event, {durability:?}"),
            1_000,
            |_| {
                next += 1;
                let name = format!("{durability:?}{next}");
                let mut txn = store.write(durability)?;
                txn.put_row(bucket, "/new", &name, layer(1), &row())?;
                txn.publish(bucket, &commit(TreePath::parse(&format!("/new/{name}"))?))?;
                txn.commit()
            },
        )?;
        let mut data = vec![7; 4096];
        measure(
            &format!("write: 1 row, 4 KiB, 1 event, {durability:?}"),
            1_000,
            |_| {
                next += 1;
                let name = format!("{durability:?}{next}");
                data[..4].copy_from_slice(&next.to_le_bytes());
                let content = ContentRecord {
                    hash: Hash::of(name.as_bytes()),
                    size: 4096,
                    form: ContentForm::Inline,
                    base: None,
                    data: data.clone(),
                    created: Timestamp(0),
                };
                let mut txn = store.write(durability)?;
                txn.add_content(&content)?;
                txn.put_row(bucket, "/new", &name, layer(1), &row())?;
                txn.publish(bucket, &commit(TreePath::parse(&format!("/new/{name}"))?))?;
                txn.commit()
            },
        )?;
    }
    let mut full = false;
    let mut n = 0;
    measure("write: 1 row, Full and Relaxed in turns", 1_000, |_| {
        full = !full;
        n += 1;
        let mut txn = store.write(if full {
            Durability::Full
        } else {
            Durability::Relaxed
        })?;
        txn.put_row(bucket, "/turns", &format!("{n}"), layer(1), &row())?;
        txn.commit()
    })?;
    measure(
        "lock + unlock in one write transaction, Relaxed",
        1_000,
        |_| {
            let mut txn = store.write(Durability::Relaxed)?;
            txn.lock("path:1:1:/a", "owner", 60)?;
            txn.unlock("path:1:1:/a", "owner")?;
            txn.commit()
        },
    )?;

    let mut txn = store.write(Durability::Full)?;
    for n in 0..10_000 {
        let parent = format!("/move/{}", n / 100);
        txn.put_row(bucket, &parent, &format!("f{n}"), layer(1), &row())?;
    }
    txn.commit()?;
    let dirs = [TreePath::parse("/move")?, TreePath::parse("/moved")?];
    measure("move_rows of 10,000", 10, |n| {
        let (from, to) = (n as usize % 2, (n as usize + 1) % 2);
        let mut txn = store.write(Durability::Relaxed)?;
        txn.move_rows(bucket, layer(1), &dirs[from], &dirs[to])?;
        txn.commit()
    })?;
    let start = Instant::now();
    let problems = store.check(true)?;
    println!(
        "{:10.2} us  full check of {files} entries: {problems:?}",
        start.elapsed().as_secs_f64() * 1e6
    );
    println!("{:?}", store.stats()?);
    Ok(())
}
