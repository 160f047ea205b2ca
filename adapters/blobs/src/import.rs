//! What comes in.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use alknet_fs_content::Prepared;
use alknet_fs_content::partial::{Partial, Verifier};
use alknet_fs_core::{ErrorKind, Hash, Result};
use bao_tree::io::BaoContentItem;
use bytes::{Buf, Bytes};
use iroh_blobs::api::blobs::AddProgressItem;
use iroh_blobs::api::proto::ImportByteStreamUpdate;
use irpc::channel::mpsc;

use crate::shared::{Begun, Entry, Shared, State, bits, to_io};

/// How many bytes of a transfer wait in memory while others are verified and written: so a
/// transfer takes twice as much, and what iroh-blobs buffers (64 groups of 16 KiB).
const BATCH: usize = 1 << 20;

type Io<T> = io::Result<T>;

/// Receives a content from a peer.
pub(crate) async fn bao(
    shared: &Arc<Shared>,
    hash: Hash,
    size: u64,
    mut items: mpsc::Receiver<BaoContentItem>,
) -> Io<()> {
    let entry = match shared
        .run(move |s| s.begin(hash, size))
        .await?
        .map_err(to_io)?
    {
        Begun::Exists(kept) if kept != size => {
            let detail = format!("content {hash} has {kept} bytes, not {size}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        Begun::Exists(_) => {
            while items.recv().await?.is_some() {}
            return Ok(());
        }
        Begun::Arriving(entry) => entry,
    };
    let received = receive(shared, &entry, items).await;
    let is_kept = entry.size > shared.contents.config().inline_max;
    drop(entry);
    if is_kept {
        shared.run(move |s| s.settle(&hash)).await?.map_err(to_io)?;
    } else {
        shared.let_go(hash).await;
    }
    received
}

async fn receive(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    mut items: mpsc::Receiver<BaoContentItem>,
) -> Io<()> {
    let mut verifier = Some(Verifier::new(entry.hash, entry.size));
    let mut batch = Vec::new();
    let mut waiting = 0;
    let mut is_open = true;
    let mut work: Option<Pin<Box<dyn Future<Output = Io<Worked>> + Send>>> = None;
    loop {
        if work.is_none() {
            if batch.is_empty() && !is_open {
                break;
            }
            if let (false, Some(mut verifier)) =
                (batch.is_empty(), verifier.take_if(|_| !batch.is_empty()))
            {
                let (entry, shared, batch) =
                    (entry.clone(), shared.clone(), std::mem::take(&mut batch));
                waiting = 0;
                work = Some(Box::pin(async move {
                    let work = move |shared: &Shared| {
                        let result =
                            entry.take(shared, |partial| take_items(partial, &mut verifier, batch));
                        result.map(|finished| Worked { verifier, finished })
                    };
                    shared.run(work).await?.map_err(to_io)
                }));
            }
        }
        let working = async {
            match &mut work {
                Some(work) => work.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            item = items.recv(), if is_open && waiting < BATCH => match item? {
                Some(item) => {
                    waiting += match &item {
                        BaoContentItem::Leaf(leaf) => leaf.data.len(),
                        BaoContentItem::Parent(_) => 64,
                    };
                    batch.push(item);
                }
                None => is_open = false,
            },
            worked = working => {
                work = None;
                let worked = worked?;
                verifier = Some(worked.verifier);
                if let Some((partial, prepared)) = worked.finished {
                    entry.finish(shared, partial, prepared).await?;
                }
            }
        }
    }
    entry.finished().await
}

fn take_items(
    partial: &mut Partial,
    verifier: &mut Verifier,
    items: Vec<BaoContentItem>,
) -> Result<()> {
    for item in items {
        match item {
            BaoContentItem::Parent(parent) => {
                let middle = parent.node.mid().0;
                let half = 1u64.checked_shl(parent.node.level()).unwrap_or(u64::MAX);
                let (left, right) = parent.pair;
                let (left, right) = (*left.as_bytes(), *right.as_bytes());
                let start = middle.saturating_sub(half);
                partial.parent(verifier, start, middle, left, right)?;
            }
            BaoContentItem::Leaf(leaf) => partial.leaf(verifier, leaf.offset, &leaf.data)?,
        }
    }
    Ok(())
}

struct Worked {
    verifier: Verifier,
    finished: Option<(Box<Partial>, Prepared)>,
}

/// Lets somebody add to a partial content; what came before a wrong item is verified, and stays.
fn feed_and_flush(
    partial: &mut Partial,
    feed: impl FnOnce(&mut Partial) -> Result<()>,
) -> Result<()> {
    let fed = feed(partial);
    partial.flush()?;
    fed
}

impl Entry {
    /// Takes what arrives, and leaves it to [`take`](Self::take) to make a content of it. Returns whether
    /// anything was missing still: others may have brought it.
    pub(crate) fn add(
        &self,
        shared: &Shared,
        feed: impl FnOnce(&mut Partial) -> Result<()>,
    ) -> Result<bool> {
        let added = match &mut *self.state.lock() {
            State::Open(partial) => feed_and_flush(partial, feed).map(|()| true),
            State::Finishing(..) | State::Done => Ok(false),
        };
        shared.notify(&self.hash);
        added
    }

    /// Takes what arrives; returns the content if it is complete now.
    pub(crate) fn take(
        &self,
        shared: &Shared,
        feed: impl FnOnce(&mut Partial) -> Result<()>,
    ) -> Result<Option<(Box<Partial>, Prepared)>> {
        let taken = self.take_quietly(shared, feed);
        shared.notify(&self.hash);
        taken
    }

    fn take_quietly(
        &self,
        shared: &Shared,
        feed: impl FnOnce(&mut Partial) -> Result<()>,
    ) -> Result<Option<(Box<Partial>, Prepared)>> {
        let mut state = self.state.lock();
        let State::Open(partial) = &mut *state else {
            return Ok(None);
        };
        let before = bits(partial);
        feed_and_flush(partial, feed)?;
        if !partial.is_complete() {
            return Ok(None);
        }
        match partial.prepare(&shared.contents) {
            Ok(prepared) => {
                let finishing = State::Finishing(partial.reader(), before);
                self.finishing.send_replace(true);
                match std::mem::replace(&mut *state, finishing) {
                    State::Open(partial) => Ok(Some((partial, prepared))),
                    _ => Ok(None),
                }
            }
            Err(error) => {
                if error.kind() == ErrorKind::Corrupt
                    && let State::Open(partial) = std::mem::replace(&mut *state, State::Done)
                {
                    partial.discard()?;
                }
                Err(error)
            }
        }
    }

    /// Waits until nobody commits it any more.
    pub(crate) async fn finished(&self) -> Io<()> {
        let mut finishing = self.finishing.subscribe();
        while *finishing.borrow_and_update() {
            finishing.changed().await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Commits what is complete.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        partial: Box<Partial>,
        prepared: Prepared,
    ) -> Io<()> {
        let committed = shared.commit(prepared).await;
        let (entry, is_content) = (self.clone(), committed.is_ok());
        let settle = move |_: &Shared| {
            if is_content {
                *entry.state.lock() = State::Done;
                return partial.discard();
            }
            *entry.state.lock() = State::Open(partial);
            Ok(())
        };
        let settled = shared.run(settle).await;
        self.finishing.send_replace(false);
        shared.notify(&self.hash);
        committed?;
        settled?.map_err(to_io)
    }
}

impl Shared {
    /// Ends an import of what is kept in files: it is a content now, or may be gone on with later.
    pub(crate) fn settle(&self, hash: &Hash) -> Result<()> {
        if self.size_of(hash)?.is_some() {
            self.forget(hash);
            return Ok(());
        }
        self.sync_partials(hash)?;
        self.release(hash);
        Ok(())
    }
}

/// Adds bytes.
pub(crate) async fn bytes(
    shared: &Arc<Shared>,
    data: Bytes,
    progress: &mpsc::Sender<AddProgressItem>,
) -> Io<Hash> {
    progress
        .send(AddProgressItem::Size(data.len() as u64))
        .await?;
    progress.send(AddProgressItem::CopyDone).await?;
    let prepared = shared
        .run(move |s| s.contents.prepare_bytes(data.into()))
        .await?;
    add(shared, prepared.map_err(to_io)?).await
}

/// Commits what is prepared.
async fn add(shared: &Arc<Shared>, prepared: Prepared) -> Io<Hash> {
    let hash = prepared.hash();
    shared.commit(prepared).await?;
    shared.run(move |s| s.forget(&hash)).await?;
    shared.notify(&hash);
    Ok(hash)
}

/// Reads the pieces that an asynchronous task sends.
struct Pieces {
    pieces: tokio::sync::mpsc::Receiver<Io<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> Io<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let len = self.piece.len().min(buf.len());
        self.piece.copy_to_slice(&mut buf[..len]);
        Ok(len)
    }
}

/// Adds a stream of bytes.
pub(crate) async fn stream(
    shared: &Arc<Shared>,
    mut updates: mpsc::Receiver<ImportByteStreamUpdate>,
    progress: &mpsc::Sender<AddProgressItem>,
) -> Io<Hash> {
    let (send, pieces) = tokio::sync::mpsc::channel(4);
    let forward = async {
        let mut size = 0;
        loop {
            let piece = match updates.recv().await {
                Ok(Some(ImportByteStreamUpdate::Bytes(bytes))) => Ok(bytes),
                Ok(Some(ImportByteStreamUpdate::Done)) => break,
                Ok(None) => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the stream of bytes ended before it was done",
                )),
                Err(error) => Err(error.into()),
            };
            let is_end = piece.is_err();
            size += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
            if send.send(piece).await.is_err() || is_end {
                break;
            }
            progress
                .try_send(AddProgressItem::CopyProgress(size))
                .await?;
        }
        drop(send);
        Io::Ok(size)
    };
    let mut pieces = Pieces {
        pieces,
        piece: Bytes::new(),
    };
    let read = shared.run_slow(move |s| s.contents.prepare_read(&mut pieces, None, true));
    let (size, prepared) = tokio::join!(forward, read);
    let prepared = prepared?.map_err(to_io)?;
    progress.send(AddProgressItem::Size(size?)).await?;
    progress.send(AddProgressItem::CopyDone).await?;
    add(shared, prepared).await
}

/// Adds a file. It is copied, whatever the mode: only what is in the store cannot change.
pub(crate) async fn path(
    shared: &Arc<Shared>,
    path: PathBuf,
    progress: &mpsc::Sender<AddProgressItem>,
) -> Io<Hash> {
    let open = move |_: &Shared| {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Io::Ok((file, len))
    };
    let (mut file, len) = shared.run_slow(open).await??;
    let read = move |s: &Shared| s.contents.prepare_read(&mut file, Some(len), true);
    let prepared = shared.run_slow(read).await?.map_err(to_io)?;
    progress
        .send(AddProgressItem::Size(prepared.size()))
        .await?;
    progress.send(AddProgressItem::CopyDone).await?;
    add(shared, prepared).await
}
