//! Verified ranges of a large content, as they arrive.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use alknet_fs_content::hash_tree::{CV_LEN, Cv};
use alknet_fs_content::partial::{Expected, GROUP_CHUNKS, Verifier};
use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use iroh::endpoint::{Connection, ReadError, RecvStream};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::MISSING;
use super::frames::{self, Question, malformed, put};
use crate::shared::{Entry, Shared};

/// How many bytes of a transfer wait in memory while others are verified and written.
const BATCH: usize = 1 << 20;
/// How many bytes are worth waking a thread for.
const ENOUGH: usize = 64 << 10;
/// The length of a parent: two chaining values.
const PARENT_LEN: usize = 2 * CV_LEN as usize;

/// Goes when nobody wants the work any more.
pub(super) type Stop = watch::Receiver<()>;

/// A piece of a stream of verified ranges.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// The first chunk below it, the first of its right child, and its children.
    Parent {
        start: u64,
        middle: u64,
        left: Cv,
        right: Cv,
    },
    /// Bytes at an offset.
    Leaf { offset: u64, bytes: &'a [u8] },
}

/// Cuts a stream of ranges of groups into parents and leaves. It verifies nothing.
#[derive(Debug)]
pub(super) struct Decoder {
    size: u64,
    groups: Vec<Range<u64>>,
    /// The subtrees to come, the next one last.
    stack: Vec<Expected>,
    /// The start of an item whose end has not come.
    rest: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(size: u64, groups: Vec<Range<u64>>) -> Self {
        Self {
            size,
            groups,
            stack: vec![Expected::root(size)],
            rest: Vec::new(),
        }
    }

    /// Returns the next subtree that comes.
    fn next(&mut self) -> Option<Expected> {
        loop {
            let covered = self.stack.last()?.groups();
            let after = self.groups.partition_point(|r| r.end <= covered.start);
            if self
                .groups
                .get(after)
                .is_some_and(|r| r.start < covered.end)
            {
                return self.stack.last().copied();
            }
            self.stack.pop();
        }
    }

    pub(super) fn is_done(&mut self) -> bool {
        self.next().is_none()
    }

    fn pop(&mut self, bytes: &[u8], each: &mut Each<'_>) -> Result<()> {
        let Some(top) = self.stack.pop() else {
            return Ok(());
        };
        if is_leaf(&top) {
            let offset = top.bytes(self.size).start;
            return each(Item::Leaf { offset, bytes });
        }
        let (mut left, mut right) = ([0; CV_LEN as usize], [0; CV_LEN as usize]);
        left.copy_from_slice(&bytes[..CV_LEN as usize]);
        right.copy_from_slice(&bytes[CV_LEN as usize..]);
        let [first, second] = top.children(left, right);
        self.stack.extend([second, first]);
        each(Item::Parent {
            start: top.start,
            middle: top.middle(),
            left,
            right,
        })
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where there are more than were asked for; what `each` returns.
    pub(super) fn feed(&mut self, mut bytes: &[u8], each: &mut Each<'_>) -> Result<()> {
        while !bytes.is_empty() {
            let Some(next) = self.next() else {
                return Err(malformed("more than it was asked for"));
            };
            let len = match is_leaf(&next) {
                true => {
                    let range = next.bytes(self.size);
                    (range.end - range.start) as usize
                }
                false => PARENT_LEN,
            };
            if self.rest.is_empty() && bytes.len() >= len {
                let (item, after) = bytes.split_at(len);
                bytes = after;
                self.pop(item, each)?;
                continue;
            }
            let (now, after) = bytes.split_at((len - self.rest.len()).min(bytes.len()));
            bytes = after;
            self.rest.extend_from_slice(now);
            if self.rest.len() == len {
                let mut item = std::mem::take(&mut self.rest);
                self.pop(&item, each)?;
                item.clear();
                self.rest = item;
            }
        }
        Ok(())
    }
}

type Each<'a> = dyn FnMut(Item<'_>) -> Result<()> + 'a;

fn is_leaf(subtree: &Expected) -> bool {
    subtree.end - subtree.start <= GROUP_CHUNKS
}

/// Where verified ranges go.
pub(super) trait Sink: Send + 'static {
    /// Takes bytes of the stream, on a thread that may block.
    fn take(&mut self, shared: &Shared, decoder: &mut Decoder, bytes: &[u8]) -> Result<()>;
}

/// Adds to a partial content.
pub(super) struct ToEntry {
    pub(super) entry: Arc<Entry>,
    pub(super) verifier: Verifier,
}

impl Sink for ToEntry {
    fn take(&mut self, shared: &Shared, decoder: &mut Decoder, bytes: &[u8]) -> Result<()> {
        let verifier = &mut self.verifier;
        let was_open = self.entry.add(shared, |partial| {
            decoder.feed(bytes, &mut |item| match item {
                Item::Parent {
                    start,
                    middle,
                    left,
                    right,
                } => partial.parent(verifier, start, middle, left, right),
                Item::Leaf { offset, bytes } => partial.leaf(verifier, offset, bytes),
            })
        })?;
        match was_open {
            true => Ok(()),
            // Others brought all of it; there may be no more of this than was asked for.
            false => decoder.feed(bytes, &mut |_| Ok(())),
        }
    }
}

/// Keeps groups in memory, one after the other.
pub(super) struct ToMemory {
    pub(super) verifier: Verifier,
    pub(super) bytes: Vec<u8>,
}

impl Sink for ToMemory {
    fn take(&mut self, _: &Shared, decoder: &mut Decoder, bytes: &[u8]) -> Result<()> {
        let Self {
            verifier,
            bytes: kept,
        } = self;
        decoder.feed(bytes, &mut |item| match item {
            Item::Parent {
                start,
                middle,
                left,
                right,
            } => verifier.parent(start, middle, left, right).map(drop),
            Item::Leaf { offset, bytes } => {
                if let Some((_, group)) = verifier.leaf(offset, bytes)? {
                    kept.extend_from_slice(group);
                }
                Ok(())
            }
        })
    }
}

/// Opens a stream and asks one question on it.
pub(super) async fn ask(
    conn: &Connection,
    question: &Question,
    patience: Duration,
) -> Result<RecvStream> {
    let mut frame = Vec::new();
    put(&mut frame, question)?;
    let asked = async {
        let (mut send, recv) = conn.open_bi().await.map_err(io::Error::from)?;
        send.write_all(&frame).await.map_err(io::Error::from)?;
        send.finish().map_err(io::Error::from)?;
        Ok(recv)
    };
    in_time(patience, asked).await
}

/// Gives up what takes too long.
pub(super) async fn in_time<T>(
    patience: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => Ok(done?),
        Err(_) => {
            let detail = format!("nothing came for {} s", patience.as_secs_f32());
            Err(Error::with_detail(ErrorKind::Io, detail))
        }
    }
}

/// Tells whether a peer ended its stream because it has not got the content.
fn is_missing(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    let os = source.and_then(|e| e.downcast_ref::<io::Error>());
    let read = os.and_then(|e| e.get_ref()?.downcast_ref::<ReadError>());
    read == Some(&ReadError::Reset(MISSING))
}

/// What is to be received.
pub(super) struct Ranges {
    pub(super) hash: Hash,
    pub(super) size: u64,
    pub(super) groups: Vec<Range<u64>>,
}

type Work<S> = Pin<Box<dyn Future<Output = Result<(S, Decoder, Vec<u8>)>> + Send>>;

fn begin_work<S: Sink>(
    shared: &Arc<Shared>,
    mut sink: S,
    mut decoder: Decoder,
    mut bytes: Vec<u8>,
) -> Work<S> {
    let shared = shared.clone();
    Box::pin(async move {
        let work = move |shared: &Shared| {
            sink.take(shared, &mut decoder, &bytes)?;
            bytes.clear();
            Ok((sink, decoder, bytes))
        };
        shared.run(work).await?
    })
}

/// Receives ranges of groups; returns nothing where the peer has not got the content.
///
/// `progress` is told how many bytes of the stream have been taken.
pub(super) async fn receive<S: Sink>(
    shared: &Arc<Shared>,
    conn: &Connection,
    wanted: Ranges,
    sink: S,
    patience: Duration,
    stop: &mut Stop,
    mut progress: impl FnMut(u64),
) -> Result<Option<S>> {
    let Ranges { hash, size, groups } = wanted;
    let question = Question::Ranges {
        hash: frames::raw(&hash),
        groups: groups.iter().map(|r| (r.start, r.end - r.start)).collect(),
    };
    let mut recv = ask(conn, &question, patience).await?;
    let mut header = [0; 8];
    let claimed = in_time(patience, AsyncReadExt::read_exact(&mut recv, &mut header)).await;
    match claimed {
        Err(error) if is_missing(&error) => return Ok(None),
        claimed => drop(claimed?),
    }
    let claimed = u64::from_le_bytes(header);
    if claimed != size {
        let detail = format!("it has {claimed} bytes there, not {size}");
        return Err(Error::with_detail(ErrorKind::Corrupt, detail));
    }
    let mut idle = Some((sink, Decoder::new(size, groups)));
    let mut work: Option<Work<S>> = None;
    let mut buf = Vec::with_capacity(BATCH);
    let mut spare = Vec::with_capacity(BATCH);
    let mut taken = 0;
    let mut broken = None;
    let mut is_open = true;
    loop {
        if !is_open && buf.is_empty() && work.is_none() {
            break;
        }
        let is_enough = buf.len() >= ENOUGH || !is_open && !buf.is_empty();
        if is_enough && let Some((sink, decoder)) = idle.take() {
            let full = std::mem::replace(&mut buf, std::mem::take(&mut spare));
            taken += full.len() as u64;
            work = Some(begin_work(shared, sink, decoder, full));
        }
        let working = async {
            match &mut work {
                Some(work) => work.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = in_time(patience, recv.read_buf(&mut buf)), if is_open && buf.len() < BATCH => {
                match read {
                    Ok(0) => is_open = false,
                    Ok(_) => {}
                    Err(error) => {
                        // What came before is taken.
                        is_open = false;
                        broken = Some(error);
                    }
                }
            }
            worked = working => {
                work = None;
                let (sink, decoder, bytes) = worked?;
                idle = Some((sink, decoder));
                spare = bytes;
                progress(taken);
            }
            _ = stop.changed() => {
                if let Some(work) = work {
                    work.await?;
                }
                return Err(ErrorKind::Cancelled.into());
            }
        }
    }
    if let Some(error) = broken {
        return if is_missing(&error) {
            Ok(None)
        } else {
            Err(error)
        };
    }
    let (sink, mut decoder) = idle.ok_or(ErrorKind::Io)?;
    match decoder.is_done() {
        true => Ok(Some(sink)),
        false => {
            let detail = "the stream ended early";
            Err(Error::with_detail(ErrorKind::Io, detail))
        }
    }
}
