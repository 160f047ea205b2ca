//! What goes out.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use alknet_fs_core::Hash;
use bao_tree::ChunkRanges;
use bao_tree::io::mixed::EncodedItem;
use bao_tree::io::{EncodeError, Leaf};
use iroh_blobs::api::blobs::{Bitfield, ExportProgressItem};
use iroh_blobs::api::proto::ExportRangesItem;
use iroh_blobs::protocol::ChunkRangesExt;
use irpc::channel::mpsc;

use crate::encode::{Encoder, Source};
use crate::shared::{Shared, to_io};

/// How much is read at once; so much of a transfer is in memory, and what its channel holds.
const BATCH: usize = 512 << 10;
/// The size of the pieces in which plain ranges are sent.
const PIECE: usize = 64 << 10;

fn not_found(hash: &Hash) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("content {hash} is not here"),
    )
}

async fn open(shared: &Arc<Shared>, hash: Hash) -> io::Result<(Source, Bitfield)> {
    let source = shared.run(move |s| s.source(&hash)).await?.map_err(to_io)?;
    source.ok_or_else(|| not_found(&hash))
}

/// Sends verified ranges.
pub(crate) async fn bao(
    shared: &Arc<Shared>,
    hash: Hash,
    ranges: ChunkRanges,
    items: &mpsc::Sender<EncodedItem>,
) -> io::Result<()> {
    let sent = send_bao(shared, hash, ranges, items).await;
    shared.let_go(hash).await;
    sent
}

async fn send_bao(
    shared: &Arc<Shared>,
    hash: Hash,
    ranges: ChunkRanges,
    items: &mpsc::Sender<EncodedItem>,
) -> io::Result<()> {
    let source = match open(shared, hash).await {
        Ok((source, _)) => source,
        Err(error) => return Ok(items.send(EncodeError::Io(error).into()).await?),
    };
    items.send(EncodedItem::Size(source.size())).await?;
    let mut encoder = Encoder::new(source, &ranges);
    loop {
        let work = move |_: &Shared| {
            let batch = encoder.next(BATCH);
            (encoder, batch)
        };
        let (back, batch) = shared.run(work).await?;
        encoder = back;
        if batch.is_empty() {
            return Ok(items.send(EncodedItem::Done).await?);
        }
        for item in batch {
            let is_last = matches!(item, EncodedItem::Error(_));
            items.send(item).await?;
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Sends plain ranges of bytes, cut to the size.
pub(crate) async fn ranges(
    shared: &Arc<Shared>,
    hash: Hash,
    ranges: Vec<Range<u64>>,
    items: &mpsc::Sender<ExportRangesItem>,
) -> io::Result<()> {
    let (source, bits) = open(shared, hash).await?;
    let source = Arc::new(source);
    let size = source.size();
    items.send(ExportRangesItem::Size(size)).await?;
    for range in ranges {
        let (start, end) = (range.start.min(size), range.end.min(size));
        let wanted = ChunkRanges::bytes(start..end);
        if start < end && !bits.ranges.is_superset(&wanted) {
            let detail = format!("content {hash} is not here from {start} to {end}");
            return Err(io::Error::new(io::ErrorKind::NotFound, detail));
        }
        let mut at = start;
        while at < end {
            let len = (end - at).min(BATCH as u64) as usize;
            let reader = source.clone();
            let bytes = shared.run(move |_| reader.read(at, len)).await?;
            let bytes = bytes::Bytes::from(bytes.map_err(to_io)?);
            if bytes.len() < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for from in (0..len).step_by(PIECE) {
                let data = bytes.slice(from..len.min(from + PIECE));
                let offset = at + from as u64;
                items.send(Leaf { offset, data }.into()).await?;
            }
            at += len as u64;
        }
    }
    Ok(())
}

/// Writes what is there to a file; what is not reads as zeros.
pub(crate) async fn path(
    shared: &Arc<Shared>,
    hash: Hash,
    target: PathBuf,
    progress: &mpsc::Sender<ExportProgressItem>,
) -> io::Result<()> {
    if !target.is_absolute() {
        let detail = "the path of an export must be absolute";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
    }
    let (source, bits) = open(shared, hash).await?;
    let size = source.size();
    progress.send(ExportProgressItem::Size(size)).await?;
    let create = move |_: &Shared| {
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::create(target)?;
        file.set_len(size)?;
        io::Result::Ok(file)
    };
    let file = Arc::new(shared.run(create).await??);
    let source = Arc::new(source);
    let present = &bits.ranges & &ChunkRanges::bytes(..size);
    for bounds in present.boundaries().chunks(2) {
        let end = bounds.get(1).map_or(size, |end| end.to_bytes().min(size));
        let mut at = bounds[0].to_bytes();
        while at < end {
            let len = (end - at).min(BATCH as u64) as usize;
            let (reader, file) = (source.clone(), file.clone());
            let copy = move |_: &Shared| {
                let bytes = reader.read(at, len).map_err(to_io)?;
                if bytes.len() < len {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                write_all_at(&file, &bytes, at)
            };
            shared.run(copy).await??;
            at += len as u64;
            progress
                .try_send(ExportProgressItem::CopyProgress(at))
                .await?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_all_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}
