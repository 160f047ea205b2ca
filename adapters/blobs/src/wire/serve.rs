//! The answering side.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_content::ContentReader;
use alknet_fs_content::hash_tree::{GROUP_LEN, differing_groups, group_count};
use alknet_fs_content::partial::GROUP_CHUNKS;
use alknet_fs_core::store::{ContentForm, ReadTxn};
use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use bao_tree::{ChunkNum, ChunkRanges};
use bytes::Bytes;
use iroh::EndpointId;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use tokio::io::BufReader;
use tokio::task::JoinSet;

use super::asker::{readable, request};
use super::frames::{self, Answer, Ask, Question, RANGES_MAX, Raw, Slice, bits, malformed, put};
use super::{Access, INTERNAL, MALFORMED, MISSING, SMALL_MAX, TOO_SLOW, let_in, let_out};
use crate::BlobStore;
use crate::encode::{Encoder, Source};
use crate::shared::Shared;

/// How many streams of a connection are answered at once; others wait.
pub(super) const STREAMS_MAX: usize = 16;
/// For how long a stream may ask nothing, or take nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// About how much of a stream is in memory.
const BATCH: usize = 512 << 10;
/// What differs from a base is named where it has at most this part of the content, and so many
/// bytes: more is better sent as a whole.
const CHANGED_PART: u64 = 4;
pub(super) const CHANGED_MAX: u64 = 64 << 20;

/// Serves contents to those who may read them ([`ALPN`](super::ALPN)).
#[derive(Clone)]
pub struct ContentProtocol {
    shared: Arc<Shared>,
    access: Arc<dyn Access>,
}

impl fmt::Debug for ContentProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentProtocol").finish_non_exhaustive()
    }
}

impl ContentProtocol {
    /// Serves a store.
    pub fn new(blobs: &BlobStore, access: Arc<dyn Access>) -> Self {
        let shared = blobs.shared.clone();
        Self { shared, access }
    }
}

impl ProtocolHandler for ContentProtocol {
    async fn accept(&self, conn: Connection) -> std::result::Result<(), AcceptError> {
        let staying = self.access.staying();
        if !let_in(&self.shared, &self.access, &conn).await {
            return Ok(());
        }
        let out = let_out(&self.shared, &self.access, &conn, staying);
        tokio::pin!(out);
        let server = Server {
            shared: self.shared.clone(),
            access: self.access.clone(),
            peer: conn.remote_id(),
        };
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = streams.join_next() => {}
                stream = conn.accept_bi(), if streams.len() < STREAMS_MAX => match stream {
                    Ok((send, recv)) => {
                        streams.spawn(server.clone().stream(send, recv));
                    }
                    Err(_closed) => return Ok(()),
                },
                _ = conn.closed() => return Ok(()),
                () = &mut out => return Ok(()),
            }
        }
    }
}

/// Why a stream ends early.
#[derive(Debug)]
struct Refusal {
    code: VarInt,
    error: Error,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let code = INTERNAL;
        Self { code, error }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Error::from(error).into()
    }
}

fn refuse<T>(code: VarInt, error: Error) -> std::result::Result<T, Refusal> {
    Err(Refusal { code, error })
}

fn too_slow(_: tokio::time::error::Elapsed) -> Refusal {
    let error = Error::with_detail(ErrorKind::Io, "the peer takes too long");
    let code = TOO_SLOW;
    Refusal { code, error }
}

type Served<T> = std::result::Result<T, Refusal>;

/// Answers one peer.
#[derive(Clone)]
struct Server {
    shared: Arc<Shared>,
    access: Arc<dyn Access>,
    peer: EndpointId,
}

impl Server {
    async fn stream(self, mut send: SendStream, recv: RecvStream) {
        let mut recv = BufReader::new(recv);
        match self.answer_all(&mut send, &mut recv).await {
            Ok(()) => {}
            Err(Refusal { code, error }) => {
                match code {
                    MISSING => {}
                    MALFORMED => self.tell_of_malformed(&error),
                    // The peer went, or its stream did.
                    _ if error.kind() == ErrorKind::Io => {
                        tracing::debug!(peer = %self.access.label(self.peer), %error, "not answered");
                    }
                    _ => {
                        tracing::error!(peer = %self.access.label(self.peer), %error, "not answered")
                    }
                }
                // It may be closed already.
                let _ = send.reset(code);
                let _ = recv.get_mut().stop(code);
            }
        }
    }

    fn tell_of_malformed(&self, error: &Error) {
        let counts = &self.shared.refusals.malformed;
        if let Some(questions) = counts.count(self.peer, Instant::now()) {
            let peer = self.access.label(self.peer);
            tracing::warn!(%peer, questions, %error, "a peer breaks the protocol of contents");
        }
    }

    async fn answer_all(
        &self,
        send: &mut SendStream,
        recv: &mut BufReader<RecvStream>,
    ) -> Served<()> {
        let mut frame = Vec::new();
        loop {
            let read = frames::read(recv, frames::QUESTION_MAX, &mut frame);
            let more = tokio::time::timeout(PATIENCE, read).await;
            let question = match more.map_err(too_slow)? {
                Ok(true) => frames::question(&frame),
                Ok(false) => break,
                Err(error) => Err(error),
            };
            match question {
                Ok(Question::Ranges { hash, groups }) => {
                    self.ranges(hash, groups, send).await?;
                    break;
                }
                Ok(Question::Wants(asks)) => self.wants(asks, send).await?,
                Ok(question) => {
                    let server = self.clone();
                    let answer = move |s: &Shared| match question {
                        Question::Has(hashes) => server.has(s, &hashes),
                        Question::Keep(hashes) => server.keep(s, &hashes),
                        Question::Nodes {
                            hash,
                            level,
                            first,
                            count,
                        } => server.nodes(s, hash, level.into(), first, count),
                        Question::Wants(_) | Question::Ranges { .. } => Ok(Vec::new()),
                    };
                    let answer = self.shared.run(answer).await?;
                    transmit(send, answer.or_else(of_peer)?).await?;
                }
                Err(error) => return of_peer(error),
            }
        }
        // Where the peer stopped the stream, it needs no end.
        let _ = send.finish();
        Ok(())
    }

    /// Answers for each of the wants.
    async fn wants(&self, asks: Vec<Ask>, send: &mut SendStream) -> Served<()> {
        let server = self.clone();
        let work = move |s: &Shared| {
            let may_read = server.may_read(s, &asks)?;
            Ok::<_, Error>((server, asks, may_read))
        };
        let mut state = self.shared.run(work).await??;
        let mut at = 0;
        while at < state.1.len() {
            let work = move |s: &Shared| {
                let (server, asks, may_read) = &state;
                let answered = server.some_wants(s, asks, may_read, at);
                (state, answered)
            };
            let (back, answered) = self.shared.run(work).await?;
            state = back;
            let (bytes, next) = answered?;
            transmit(send, bytes).await?;
            at = next;
        }
        Ok(())
    }

    fn request(&self, shared: &Shared, hashes: &[Hash]) -> Result<Vec<bool>> {
        request(shared, &*self.access, self.peer, hashes)
    }

    /// Returns whether the peer may read each content, and each base.
    fn may_read(&self, shared: &Shared, asks: &[Ask]) -> Result<Vec<(bool, bool)>> {
        let hashes: Vec<_> = asks.iter().map(|ask| Hash::from_bytes(ask.hash)).collect();
        let bases = asks.iter().filter_map(|ask| ask.base);
        let bases: Vec<_> = bases.map(Hash::from_bytes).collect();
        let contents = self.request(shared, &hashes)?;
        // A base is the asker's own, and nothing of it is sent.
        let mut bases = match &bases[..] {
            [] => Vec::new(),
            bases => readable(&*self.access, self.peer, bases)?,
        }
        .into_iter();
        let both = contents.into_iter().zip(asks).map(|(content, ask)| {
            let base = ask.base.and_then(|_| bases.next());
            (content, base.unwrap_or(false))
        });
        Ok(both.collect())
    }

    /// Answers from one want on, until there is enough to send; returns where to go on.
    fn some_wants(
        &self,
        shared: &Shared,
        asks: &[Ask],
        may_read: &[(bool, bool)],
        from: usize,
    ) -> Result<(Vec<u8>, usize)> {
        let mut out = Vec::new();
        let mut at = from;
        let txn = shared.store.read()?;
        let mut compared = false;
        while at < asks.len() && out.len() < BATCH && !compared {
            let (ask, (content, base)) = (&asks[at], may_read[at]);
            // That takes longer, and others wait for the thread.
            compared = content && base;
            let hash = Hash::from_bytes(ask.hash);
            let answered = match content {
                true => answer_want(shared, &*txn, &hash, ask.base.filter(|_| base), &mut out),
                false => put(&mut out, &Answer::Missing),
            };
            if let Err(error) = answered {
                tracing::error!(%hash, %error, "a content that is here cannot be sent");
                put(&mut out, &Answer::Missing)?;
            }
            at += 1;
        }
        Ok((out, at))
    }

    fn has(&self, shared: &Shared, hashes: &[Raw]) -> Result<Vec<u8>> {
        let hashes: Vec<_> = hashes.iter().copied().map(Hash::from_bytes).collect();
        let mut has = self.request(shared, &hashes)?;
        let txn = shared.store.read()?;
        for (hash, has) in hashes.iter().zip(&mut has) {
            *has = *has && (*hash == Hash::EMPTY || txn.has_content(hash)?);
        }
        let mut out = Vec::new();
        put(&mut out, &Answer::Has(Slice(&bits(&has))))?;
        Ok(out)
    }

    fn keep(&self, shared: &Shared, hashes: &[Raw]) -> Result<Vec<u8>> {
        let hashes: Vec<_> = hashes.iter().copied().map(Hash::from_bytes).collect();
        let mut kept = self.request(shared, &hashes)?;
        let asked = hashes.iter().zip(&kept).filter(|(_, may)| **may);
        let asked: Vec<_> = asked.map(|(hash, _)| *hash).collect();
        let mut stays = self.access.keep(self.peer, &asked)?.into_iter();
        for kept in kept.iter_mut().filter(|kept| **kept) {
            *kept = stays.next().unwrap_or(false);
        }
        let mut out = Vec::new();
        put(&mut out, &Answer::Has(Slice(&bits(&kept))))?;
        Ok(out)
    }

    fn nodes(
        &self,
        shared: &Shared,
        hash: Raw,
        level: u32,
        first: u64,
        count: u64,
    ) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let hash = Hash::from_bytes(hash);
        let Some(reader) = self.readable_content(shared, &hash)? else {
            put(&mut out, &Answer::Missing)?;
            return Ok(out);
        };
        let nodes = group_count(reader.size()) >> level;
        let end = first.checked_add(count).filter(|end| *end <= nodes);
        let end = end.ok_or_else(|| malformed("a question for nodes that are not there"))?;
        let tree = reader.nodes()?;
        let mut bytes = Vec::with_capacity(count as usize * 32);
        for index in first..end {
            bytes.extend_from_slice(&tree.node(level, index)?);
        }
        put(&mut out, &Answer::Nodes(Slice(&bytes)))?;
        Ok(out)
    }

    fn readable_content(&self, shared: &Shared, hash: &Hash) -> Result<Option<ContentReader>> {
        match &self.request(shared, &[*hash])?[..] {
            [true] => shared.open(hash),
            _ => Ok(None),
        }
    }

    /// Sends verified ranges: the size, and then parents and leaves.
    async fn ranges(
        &self,
        hash: Raw,
        groups: Vec<(u64, u64)>,
        send: &mut SendStream,
    ) -> Served<()> {
        let hash = Hash::from_bytes(hash);
        let server = self.clone();
        let begin = move |s: &Shared| {
            let Some(reader) = server.readable_content(s, &hash)? else {
                return Ok(None);
            };
            let ranges = chunk_ranges(&groups)?;
            let size = reader.size();
            Ok(Some((Encoder::new(Source::Whole(reader), &ranges), size)))
        };
        let Some((mut encoder, size)) = self.shared.run(begin).await?.or_else(of_peer)? else {
            return refuse(MISSING, ErrorKind::NotFound.into());
        };
        let mut batch = size.to_le_bytes().to_vec();
        let mut more = true;
        while more || !batch.is_empty() {
            let ready = std::mem::take(&mut batch);
            let next = async {
                if !more {
                    return Ok(None);
                }
                let work = move |_: &Shared| {
                    let mut out = Vec::with_capacity(BATCH + BATCH / 8);
                    let more = encoder.write(BATCH, &mut out);
                    (encoder, more, out)
                };
                self.shared.run(work).await.map(Some)
            };
            // The next bytes are read while these are sent.
            let (sent, next) = tokio::join!(transmit(send, ready), next);
            sent?;
            let Some((back, is_more, out)) = next? else {
                break;
            };
            encoder = back;
            more = is_more?;
            batch = out;
        }
        Ok(())
    }
}

/// Returns the chunks of some groups.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] where no content has such groups.
pub(super) fn chunk_ranges(groups: &[(u64, u64)]) -> Result<ChunkRanges> {
    let mut ranges = ChunkRanges::empty();
    for (first, count) in groups {
        let Some(end) = first
            .checked_add(*count)
            .filter(|end| *end <= u64::MAX / GROUP_LEN)
        else {
            return Err(malformed("a range past every end"));
        };
        let (start, end) = (first * GROUP_CHUNKS, end * GROUP_CHUNKS);
        ranges |= ChunkRanges::from(ChunkNum(start)..ChunkNum(end));
    }
    Ok(ranges)
}

/// Tells an error that the peer made from others.
fn of_peer<T>(error: Error) -> Served<T> {
    match error.kind() {
        ErrorKind::InvalidInput => refuse(MALFORMED, error),
        _ => Err(error.into()),
    }
}

async fn transmit(send: &mut SendStream, bytes: Vec<u8>) -> Served<()> {
    let mut bytes = [Bytes::from(bytes)];
    let mut left = match bytes[0].is_empty() {
        true => &mut [][..],
        false => &mut bytes[..],
    };
    while !left.is_empty() {
        let sent = tokio::time::timeout(PATIENCE, send.write_many_chunks(&mut left)).await;
        sent.map_err(too_slow)?.map_err(io::Error::from)?;
    }
    Ok(())
}

fn answer_want(
    shared: &Shared,
    txn: &dyn ReadTxn,
    hash: &Hash,
    base: Option<Raw>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let Some(record) = txn.content(hash)? else {
        return put(out, &Answer::Missing);
    };
    let size = record.size;
    if size <= SMALL_MAX {
        let bytes = match record.form {
            ContentForm::Inline => record.data,
            _ => shared.contents.open(txn, hash)?.into_bytes()?,
        };
        return put(out, &Answer::Small(Slice(&bytes)));
    }
    if let Some(base) = base
        && let Some(groups) = changed(shared, txn, hash, &Hash::from_bytes(base))?
    {
        return put(out, &Answer::Changed { size, groups });
    }
    put(out, &Answer::Large { size })
}

/// Returns which groups of a content a base does not have, where both are here and that is little.
fn changed(
    shared: &Shared,
    txn: &dyn ReadTxn,
    hash: &Hash,
    base: &Hash,
) -> Result<Option<Vec<(u64, u64)>>> {
    if !txn.has_content(base)? {
        return Ok(None);
    }
    let new = shared.contents.open(txn, hash)?;
    // A base that is damaged here may be whole where it is asked from.
    let Ok(base) = shared.contents.open(txn, base) else {
        return Ok(None);
    };
    let max = changed_max(new.size());
    let (base_nodes, nodes) = (base.nodes()?, new.nodes()?);
    let found = differing_groups(&*base_nodes, base.size(), &*nodes, new.size(), max)?;
    let found = found.filter(|found| found.len() <= RANGES_MAX);
    Ok(found.map(|found| found.iter().map(|r| (r.start, r.end - r.start)).collect()))
}

/// Returns how many groups may differ for it to be worth telling which.
pub(super) fn changed_max(size: u64) -> u64 {
    (group_count(size) / CHANGED_PART).min(CHANGED_MAX / GROUP_LEN)
}
