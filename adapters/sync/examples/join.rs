use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, PutMode, SetAttrs};
use alknet_fs_core::store::*;
use alknet_fs_core::sync::*;
use alknet_fs_core::{Hash, Timestamp, TreePath, branch};
use alknet_fs_sqlite::{Options, SqliteStore};
use alknet_fs_sync::Bucket;
use std::sync::Arc;
use std::time::Instant;
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    let g = |k: &str| {
        s.lines()
            .find(|l| l.starts_with(k))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1024
    };
    println!("   rss {} peak {}", g("VmRSS"), g("VmHWM"));
    0
}
fn main() {
    let n: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ctx = Context {
        now: Timestamp(1_700_000_000_000_000_000),
        author: "t".into(),
        uid: 0,
        gid: 0,
    };
    let make = |name: &str| {
        let s: Arc<dyn Store> =
            Arc::new(SqliteStore::create(&dir.path().join(name), Options::default()).unwrap());
        let mut t = s.write(Durability::Full).unwrap();
        let (b, m) = branch::create_bucket(&mut *t, "b", &ctx).unwrap();
        t.commit().unwrap();
        (s, b.id, m.id)
    };
    let (a, ab, am) = make("a");
    let (b, bb, _) = make("b");
    let t0 = Instant::now();
    let mut k = 0;
    while k < n {
        let mut t = a.write(Durability::Full).unwrap();
        let chain = Chain::load(&*t, am, None).unwrap();
        let mut e = Editor::new(&mut *t, &chain, ctx.clone());
        let end = (k + 50_000).min(n);
        let set = SetAttrs::default();
        while k < end {
            let path: TreePath = format!("/d{}/e{}/file-{k}.txt", k / 10_000, k / 100)
                .parse()
                .unwrap();
            if k % 100 == 0 {
                e.mkdir_all(&path.parent().unwrap(), &set).unwrap();
            }
            e.put_file(
                &path,
                Hash::of(&k.to_le_bytes()),
                100,
                &set,
                PutMode::CreateOrReplace,
            )
            .unwrap();
            k += 1;
        }
        e.finish(None).unwrap();
        t.commit().unwrap();
    }
    println!("make {:?}", t0.elapsed());
    rss();
    let t0 = Instant::now();
    let mut x = Bucket::open(Arc::clone(&a), ab, ReplicaId([1; 16])).unwrap();
    x.gather(Timestamp(5)).unwrap();
    println!("attach {:?}", t0.elapsed());
    rss();
    drop(x); // as after a restart
    let mut x = Bucket::open(Arc::clone(&a), ab, ReplicaId([1; 16])).unwrap();
    let mut y = Bucket::open(Arc::clone(&b), bb, ReplicaId([2; 16])).unwrap();
    y.gather(Timestamp(5)).unwrap();
    rss();
    let t0 = Instant::now();
    let mut p = Peer::new(Pace::default());
    let mut q = Peer::new(Pace::default());
    let mut bytes = 0;
    let mut frames = 0;
    loop {
        let mut any = false;
        while let Some(f) = p.poll_transmit(Timestamp(9), &x).unwrap() {
            any = true;
            let f = f.encode();
            bytes += f.len();
            frames += 1;
            q.receive(Frame::decode(&f).unwrap(), &mut y).unwrap();
            for s in y.take_news() {
                q.changed(s);
            }
        }
        while let Some(f) = q.poll_transmit(Timestamp(9), &y).unwrap() {
            any = true;
            let f = f.encode();
            bytes += f.len();
            frames += 1;
            p.receive(Frame::decode(&f).unwrap(), &mut x).unwrap();
            for s in x.take_news() {
                p.changed(s);
            }
        }
        if !any {
            break;
        }
    }
    println!(
        "join {:?} {bytes} bytes {frames} frames in step {}",
        t0.elapsed(),
        p.is_in_step(&x).unwrap()
    );
    rss();
    for i in 0..5 {
        let mut t = a.write(Durability::Full).unwrap();
        let chain = Chain::load(&*t, am, None).unwrap();
        let mut e = Editor::new(&mut *t, &chain, ctx.clone());
        let path: TreePath = format!("/d0/e{i}/new.txt").parse().unwrap();
        e.put_file(
            &path,
            Hash::of(b"x"),
            100,
            &SetAttrs::default(),
            PutMode::CreateOrReplace,
        )
        .unwrap();
        e.finish(None).unwrap();
        t.commit().unwrap();
        let t0 = Instant::now();
        x.gather(Timestamp(5)).unwrap();
        for s in x.take_news() {
            p.changed(s);
        }
        let tg = t0.elapsed();
        let mut bytes = 0;
        loop {
            let mut any = false;
            while let Some(f) = p.poll_transmit(Timestamp(9), &x).unwrap() {
                any = true;
                let f = f.encode();
                bytes += f.len();
                q.receive(Frame::decode(&f).unwrap(), &mut y).unwrap();
                for s in y.take_news() {
                    q.changed(s);
                }
            }
            while let Some(f) = q.poll_transmit(Timestamp(9), &y).unwrap() {
                any = true;
                let f = f.encode();
                bytes += f.len();
                p.receive(Frame::decode(&f).unwrap(), &mut x).unwrap();
                for s in x.take_news() {
                    p.changed(s);
                }
            }
            if !any {
                break;
            }
        }
        println!(
            "one change: gather {tg:?} all {:?} {bytes} bytes",
            t0.elapsed()
        );
    }
    for s in ["a", "b"] {
        println!(
            "{s} {} MiB",
            std::fs::metadata(dir.path().join(s).join("store.db"))
                .unwrap()
                .len()
                >> 20
        );
    }
}
