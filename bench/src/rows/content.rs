//! Contents from one store to another over loopback.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use alknet_fs::Hash;
use alknet_fs_blobs::wire::{self, ContentProtocol, Fetcher, Outcome, Want};
use alknet_fs_blobs::{BlobStore, Options};
use alknet_fs_content::{Config, Contents, Prepared, Staged};
use alknet_fs_core::Timestamp;
use alknet_fs_core::session::ExtentMap;
use alknet_fs_core::store::{Durability, Store as _};
use alknet_fs_sqlite::SqliteStore;
use anyhow::{Context as _, Result, ensure};
use iroh::endpoint::{Connection, presets};
use iroh::protocol::{DynProtocolHandler, Router};
use iroh::{Endpoint, EndpointAddr, EndpointId, TransportAddr};
use iroh_blobs::BlobsProtocol;
use iroh_blobs::store::fs::FsStore;
use tokio::runtime::Runtime;

use crate::data;
use crate::harness::{Bench, Times, Unit, settle};

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let runtime = Runtime::new()?;
    large(bench, &runtime)?;
    small(bench, &runtime)
}

/// One large content, and then the same with one byte changed.
fn large(bench: &mut Bench, runtime: &Runtime) -> Result<()> {
    let (rounds, len) = bench.pick((3, 1 << 30), (2, 128 << 20));
    let mut data = data::bytes(3, len);
    let [mut ours, mut theirs, mut changed, mut bytes] = <[Times; 4]>::default();
    for round in bench.rounds("large contents", rounds) {
        data[..8].copy_from_slice(&round.to_le_bytes());
        let dir = bench.dir()?;
        let (from, to) = (dir.join("from"), dir.join("to"));
        {
            let pair = Pair::create(runtime, &from, &to)?;
            let want = pair.from.add(&data)?;
            settle()?;
            let fetched = ours.time(1, || runtime.block_on(pair.fetch(vec![want])));
            ensure!(fetched? == 1 && pair.to.holds(&want)?);
            let edited = pair.from.change(&want, len as u64 / 2)?;
            settle()?;
            let before = pair.received();
            let fetched = changed.time(1, || runtime.block_on(pair.fetch(vec![edited])));
            bytes.push((pair.received() - before) as f64);
            ensure!(fetched? == 1 && pair.to.holds(&edited)?);
            runtime.block_on(pair.close())?;
        }
        fs::remove_dir_all(&from)?;
        fs::remove_dir_all(&to)?;
        runtime.block_on(their_transfer(&mut theirs, &from, &to, &data))?;
        fs::remove_dir_all(dir)?;
    }
    let size = match len >> 20 {
        1024 => "1 GiB".to_owned(),
        mib => format!("{mib} MiB"),
    };
    let rate = |times: &Times| len as f64 / f64::from(1 << 20) / times.stats().median;
    let note = format!(
        "{:.0} MiB/s, durable; FsStore {:.0} MiB/s, not synced",
        rate(&ours),
        rate(&theirs)
    );
    let baseline = "iroh-blobs, FsStore both ends";
    bench
        .compare(
            format!("{size} to another store"),
            &ours,
            baseline,
            &theirs,
            1.25,
        )
        .note(note);
    let work = format!("1 byte changed in {size}");
    bench.value(&*work, Unit::Seconds, &changed, 1.0);
    bench.value(
        format!("{work}, on the wire"),
        Unit::Bytes,
        &bytes,
        f64::from(1 << 20),
    );
    Ok(())
}

fn small(bench: &mut Bench, runtime: &Runtime) -> Result<()> {
    let (rounds, count) = bench.pick((7, 10_000), (2, 2_000));
    let mut times = Times::default();
    for round in bench.rounds("small contents", rounds) {
        let dir = bench.dir()?;
        let pair = Pair::create(runtime, &dir.join("from"), &dir.join("to"))?;
        let blocks = data::blocks(100 + round as u64, count);
        let prepared = blocks
            .into_iter()
            .map(|b| pair.from.contents.prepare_bytes(b));
        let mut prepared = prepared.collect::<Result<Vec<_>, _>>()?;
        pair.from.commit(&mut prepared)?;
        let wants: Vec<_> = prepared.iter().map(want).collect();
        settle()?;
        let fetched = times.time(1, || runtime.block_on(pair.fetch(wants.clone())));
        ensure!(fetched? == count);
        for want in &wants {
            ensure!(pair.to.holds(want)?);
        }
        runtime.block_on(pair.close())?;
    }
    let rate = count as f64 / times.stats().median;
    let limit = count as f64 / 2000.0;
    bench
        .value(
            format!("{count} contents of 4 KiB"),
            Unit::Seconds,
            &times,
            limit,
        )
        .note(format!("{rate:.0} a second; the target is 2,000"));
    Ok(())
}

fn want(prepared: &Prepared) -> Want {
    Want {
        hash: prepared.hash(),
        size: prepared.size(),
        base: None,
    }
}

/// A store of ours.
struct Side {
    store: Arc<SqliteStore>,
    contents: Contents,
    blobs: BlobStore,
}

impl Side {
    fn create(dir: &Path) -> Result<Self> {
        SqliteStore::create(dir, Default::default())?;
        let store = Arc::new(SqliteStore::open(dir, Default::default())?);
        let contents = Contents::open_store(dir, Config::default())?;
        let blobs = BlobStore::spawn(store.clone(), contents.clone(), Options::default())?;
        Ok(Self {
            store,
            contents,
            blobs,
        })
    }

    fn commit(&self, prepared: &mut [Prepared]) -> Result<()> {
        let mut txn = self.store.write(Durability::Full)?;
        self.contents.commit(&mut *txn, prepared, Timestamp(1))?;
        Ok(txn.commit()?)
    }

    fn add(&self, data: &[u8]) -> Result<Want> {
        let mut prepared = [self.contents.prepare_bytes(data.to_vec())?];
        self.commit(&mut prepared)?;
        Ok(want(&prepared[0]))
    }

    /// Adds a version with another byte at an offset.
    fn change(&self, base: &Want, at: u64) -> Result<Want> {
        let mut extents = ExtentMap::new(base.size);
        extents.write(at, 1, 0)?;
        let txn = self.store.read()?;
        let staged = Staged::Bytes(b"!");
        let plan = extents.plan();
        let prepared = self
            .contents
            .prepare_plan(&*txn, Some(&base.hash), staged, &plan)?;
        drop(txn);
        let mut prepared = [prepared];
        self.commit(&mut prepared)?;
        let base = Some(base.hash);
        Ok(Want {
            base,
            ..want(&prepared[0])
        })
    }

    fn holds(&self, want: &Want) -> Result<bool> {
        let txn = self.store.read()?;
        Ok(self.contents.open(&*txn, &want.hash)?.size() == want.size)
    }
}

/// Two of them, and a connection.
struct Pair {
    from: Side,
    to: Side,
    router: Router,
    endpoint: Endpoint,
    conn: Connection,
}

impl Pair {
    fn create(runtime: &Runtime, from: &Path, to: &Path) -> Result<Self> {
        runtime.block_on(async {
            let (from, to) = (Side::create(from)?, Side::create(to)?);
            let everybody = |_: EndpointId, hashes: &[Hash]| Ok(vec![true; hashes.len()]);
            let served = ContentProtocol::new(&from.blobs, Arc::new(everybody));
            let (router, endpoint, conn) = connect(wire::ALPN, served).await?;
            Ok(Self {
                from,
                to,
                router,
                endpoint,
                conn,
            })
        })
    }

    /// Fetches; returns how many contents came.
    async fn fetch(&self, wants: Vec<Want>) -> Result<usize> {
        let fetcher = Fetcher::new(&self.to.blobs);
        let fetched = fetcher.fetch(&self.conn, wants, |_| {}).await;
        let came = fetched
            .iter()
            .filter(|(_, o)| matches!(o, Outcome::Fetched));
        Ok(came.count())
    }

    fn received(&self) -> u64 {
        self.conn.stats().udp_rx.bytes
    }

    async fn close(self) -> Result<()> {
        self.endpoint.close().await;
        self.router.shutdown().await?;
        self.from.blobs.shutdown().await?;
        self.to.blobs.shutdown().await?;
        Ok(())
    }
}

async fn their_transfer(times: &mut Times, from: &Path, to: &Path, data: &[u8]) -> Result<()> {
    let (from, to) = (FsStore::load(from).await?, FsStore::load(to).await?);
    let tag = from.add_slice(data).temp_tag().await?;
    let served = BlobsProtocol::new(&from, None);
    let (router, endpoint, conn) = connect(iroh_blobs::ALPN, served).await?;
    tokio::task::spawn_blocking(settle).await??;
    let start = std::time::Instant::now();
    let stats = to.remote().fetch(conn, tag.hash()).await?;
    times.push(start.elapsed().as_secs_f64());
    ensure!(stats.payload_bytes_read == data.len() as u64);
    endpoint.close().await;
    router.shutdown().await?;
    to.shutdown().await?;
    Ok(())
}

async fn connect(
    alpn: &[u8],
    served: impl Into<Box<dyn DynProtocolHandler>>,
) -> Result<(Router, Endpoint, Connection)> {
    let router = Router::builder(endpoint().await?)
        .accept(alpn, served)
        .spawn();
    let sockets = router.endpoint().bound_sockets().into_iter();
    let sockets = sockets.map(TransportAddr::Ip);
    let addr = EndpointAddr::from_parts(router.endpoint().id(), sockets);
    let endpoint = endpoint().await?;
    let conn = endpoint
        .connect(addr, alpn)
        .await
        .context("no connection")?;
    Ok((router, endpoint, conn))
}

async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
    Ok(builder.bind_addr("127.0.0.1:0")?.bind().await?)
}
