//! All that a branch's documents hold, page by page: for peers that are too far behind for cuts, and
//! for those that left out what a moment needs.
//!
//! Pages are made as they are asked for, so documents change in between. What they lack of what was
//! written since the first page was made is in the cuts that follow on the documents, and all is
//! applied at once, with the last page.

use std::collections::{BTreeMap, BTreeSet};

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::sync::{Clock, Cut, Page, ReplicaId, Taken, VersionVector, Want, affected};
use alknet_fs_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::branch::{Applied, Branch, Written, note, shares_of};
use crate::document::{ABOUT, Document, Order, Share, number_of, stamp_of};
use crate::kept;
use crate::thin::{Thinned, leave_out};

/// After what time a replica's pages are not waited for any more, where another has some.
const STALE: i64 = 60_000_000_000;

/// More cuts than any replica writes.
const CUTS_MAX: u64 = 1 << 62;

/// For how long a page is not asked for again.
const SOON: i64 = 2_000_000_000;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// Whose pages these are.
    replica: ReplicaId,
    /// What it knew, and how many cuts had come, when it began.
    start: VersionVector,
    came: u64,
    /// What was known at the moment that is asked for; nothing where all is.
    moment: Option<VersionVector>,
    /// Whether what was asked for is not to be had any more, and all begins anew.
    anew: bool,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum At {
    /// In a document, after a share of it.
    Document { number: u16, after: Option<Order> },
    /// In the list of cuts, which goes up to a vector.
    Cuts { upto: VersionVector, came: u64 },
}

impl Position {
    fn is_first(&self) -> bool {
        let at = At::Document {
            number: 0,
            after: None,
        };
        self.at == at
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Body {
    documents: Vec<Part>,
    cuts: Vec<Cut>,
}

/// Some of a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Part {
    number: u16,
    /// What the document's branch knew then, and what it left out; with the first part.
    known: Option<(VersionVector, Thinned)>,
    shares: Vec<Share>,
}

/// Pages that are kept until the last has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Incoming {
    next: Position,
    heard: Timestamp,
    pages: u64,
    /// How many of these have documents.
    of_documents: u64,
}

impl Branch {
    fn begin(&self, txn: &dyn ReadTxn) -> Result<Position> {
        let log = self.place.log(txn)?;
        Ok(Position {
            replica: self.place.replica,
            start: log.applied(),
            came: log.came,
            moment: None,
            anew: false,
            at: At::Document {
                number: 0,
                after: None,
            },
        })
    }

    /// Returns where the pages of all that is here begin.
    ///
    /// # Errors
    /// Those of the store.
    pub fn first_page(&self, txn: &dyn ReadTxn) -> Result<Vec<u8>> {
        Ok(kept::encode(&self.begin(txn)?))
    }

    /// Returns a page of about a number of bytes, without what a vector covers; nothing where it is
    /// not to be had.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a position that never was one, and those of the store.
    pub fn page(
        &self,
        txn: &dyn ReadTxn,
        what: &Want,
        seen: &VersionVector,
        bytes: usize,
    ) -> Result<Option<Page>> {
        let from = match what {
            Want::Moment(moment) => {
                if !self.can_show(txn, moment)? {
                    return Ok(None);
                }
                let moment = Some(moment.clone());
                let begin = self.begin(txn)?;
                Position { moment, ..begin }
            }
            Want::From(position) => decode(position)?,
        };
        let log = self.place.log(txn)?;
        // Cuts that have to follow on the documents are not kept any more.
        let lost = from.moment.is_none() && !from.start.covers(&log.floor);
        if from.replica != self.place.replica || lost {
            let anew = true;
            let begin = self.begin(txn)?;
            let from = kept::encode(&Position { anew, ..begin });
            let (next, page) = (Some(from.clone()), Vec::new());
            return Ok(Some(Page { from, next, page }));
        }
        let mut body = Body::default();
        let next = match &from.at {
            At::Document { .. } => {
                let next = self.document_page(txn, &from, seen, bytes, &mut body)?;
                match next {
                    Some((number, after)) => Some(At::Document { number, after }),
                    None if from.moment.is_some() => None,
                    None => {
                        let (upto, came) = (log.applied(), from.came);
                        Some(At::Cuts { upto, came })
                    }
                }
            }
            At::Cuts { upto, came } => {
                let mut size = 0;
                let mut came = (*came).max(log.dropped);
                while came < log.came && size < bytes {
                    came += 1;
                    let cut = self.place.cut(txn, came)?;
                    if cut.number > from.start.get(cut.replica)
                        && cut.number <= upto.get(cut.replica)
                    {
                        size += cut.changes.len();
                        body.cuts.push(cut);
                    }
                }
                let upto = upto.clone();
                (came < log.came).then_some(At::Cuts { upto, came })
            }
        };
        let page = kept::encode(&body);
        let next = next.map(|at| kept::encode(&Position { at, ..from.clone() }));
        let from = kept::encode(&from);
        Ok(Some(Page { from, next, page }))
    }

    /// Fills a page with shares; returns where the next one goes on.
    fn document_page(
        &self,
        txn: &dyn ReadTxn,
        from: &Position,
        seen: &VersionVector,
        bytes: usize,
        body: &mut Body,
    ) -> Result<Option<(u16, Option<Order>)>> {
        let At::Document { number, mut after } = from.at else {
            return Ok(None);
        };
        let mut size = 0;
        for number in number..=ABOUT {
            // Those that nobody else uses are not kept in memory for this.
            let cached = self.documents.borrow();
            let shares = match cached.get(&number) {
                Some(document) => document.as_ref().map(Document::shares).transpose()?,
                None => match self.place.load(txn, number)? {
                    Some(document) => Some(document.shares()?),
                    None => None,
                },
            };
            drop(cached);
            let mut shares = shares.unwrap_or_default();
            match &from.moment {
                Some(moment) => {
                    shares.retain(|share| share.number <= moment.get(share.replica));
                    shares = leave_out(shares, &[]);
                }
                None => shares.retain(|share| share.number > seen.get(share.replica)),
            }
            shares.retain(|share| after.is_none_or(|after| share.order() > after));
            if shares.is_empty() {
                after = None;
                continue;
            }
            let known = match after {
                None => {
                    let thinned = self.place.thinned(txn, number)?;
                    Some((self.place.log(txn)?.applied(), thinned))
                }
                Some(_) => None,
            };
            let mut part = Part {
                number,
                known,
                shares: Vec::new(),
            };
            for share in shares {
                if size >= bytes {
                    let last = part.shares.last().map(Share::order);
                    let position = (number, last.or(after));
                    if !part.shares.is_empty() {
                        body.documents.push(part);
                    }
                    return Ok(Some(position));
                }
                let values = share.values.iter();
                size += values
                    .map(|(key, value)| key.len() + value.len())
                    .sum::<usize>();
                part.shares.push(share);
            }
            body.documents.push(part);
            after = None;
        }
        Ok(None)
    }

    fn pages(&self) -> String {
        format!("{}/pages", self.place.scope)
    }

    fn is_missing(&self, txn: &dyn ReadTxn, position: &Position) -> Result<bool> {
        match &position.moment {
            Some(moment) => Ok(!self.can_show(txn, moment)?),
            None => Ok(!self.vector(txn)?.covers(&position.start)),
        }
    }

    /// Keeps a page that came. Returns nothing where it was the last one: what they say is to be
    /// [absorbed](Self::absorb) then.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the page is none, and those of the store.
    pub fn keep_page(
        &mut self,
        txn: &mut dyn WriteTxn,
        page: &Page,
        now: Timestamp,
    ) -> Result<Option<Taken>> {
        let from: Position = decode(&page.from)?;
        let scope = self.pages();
        let mut incoming: Option<Incoming> = kept::get(txn, &scope, "incoming")?;
        if !self.is_missing(txn, &from)? {
            if incoming.is_some_and(|incoming| incoming.next.replica == from.replica) {
                txn.remove_values(&scope)?;
            }
            return Ok(Some(Taken::All));
        }
        if let Some(Incoming { next, heard, .. }) = &incoming {
            let is_other = next.replica != from.replica;
            if is_other && now.0.saturating_sub(heard.0) < STALE {
                return Ok(Some(Taken::Nothing));
            }
            let is_over = !self.is_missing(txn, next)?;
            if is_other || is_over || from.anew && page.is_offer() && *next != from {
                txn.remove_values(&scope)?;
                incoming = None;
            }
        }
        let is_new = incoming.is_none();
        let mut incoming = match incoming {
            Some(incoming) => incoming,
            None if from.is_first() => Incoming {
                next: from.clone(),
                heard: now,
                pages: 0,
                of_documents: 0,
            },
            None => return Ok(Some(Taken::Nothing)),
        };
        let position = kept::encode(&incoming.next);
        let soon = now.0.saturating_sub(incoming.heard.0) < SOON;
        if page.is_offer() && (is_new || !soon) {
            incoming.heard = now;
            kept::set(txn, &scope, "incoming", &incoming)?;
            return Ok(Some(Taken::Part(position)));
        }
        if page.is_offer() || incoming.next != from {
            return Ok(Some(Taken::Waiting(position)));
        }
        // Refused now rather than when the last has come.
        check(&decode(&page.page)?)?;
        incoming.pages += 1;
        incoming.heard = now;
        if matches!(from.at, At::Document { .. }) {
            incoming.of_documents = incoming.pages;
        }
        txn.set_value(&scope, &page_key(incoming.pages), Some(&page.page))?;
        if let Some(next) = &page.next {
            incoming.next = decode(next)?;
            kept::set(txn, &scope, "incoming", &incoming)?;
            return Ok(Some(Taken::Part(next.clone())));
        }
        kept::set(txn, &scope, "incoming", &incoming)?;
        Ok(None)
    }

    /// Brings what all pages say into the documents, and makes the branch show it, if there is one
    /// here. What was committed here must have been [gathered](Self::gather), and what some moments
    /// need is kept.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the pages do not say what they should, and those of the store;
    /// then the transaction is to be dropped, and [`forget`](Self::forget) called.
    pub fn absorb(
        &mut self,
        txn: &mut dyn WriteTxn,
        chain: Option<&Chain>,
        moments: &BTreeSet<VersionVector>,
        clock: &mut Clock,
        now: Timestamp,
    ) -> Result<Applied> {
        let scope = self.pages();
        let incoming: Option<Incoming> = kept::get(txn, &scope, "incoming")?;
        let incoming = incoming.ok_or_else(damaged)?;
        let upto = match (&incoming.next.at, &incoming.next.moment) {
            (_, Some(_)) => VersionVector::new(),
            (At::Cuts { upto, .. }, None) => upto.clone(),
            (At::Document { .. }, None) => return Err(damaged()),
        };
        if upto.iter().any(|(_, cut)| cut > CUTS_MAX) {
            let why = "pages of a branch have more cuts than anybody writes";
            return Err(Error::with_detail(ErrorKind::Corrupt, why));
        }
        let mut absorbing = Absorbing {
            moment: incoming.next.moment.clone(),
            vector: self.place.log(txn)?.applied(),
            moments,
            beside: BTreeMap::new(),
            written: Written::new(),
            about: false,
        };
        absorbing.beside = self.beside(txn, &incoming, &upto)?;
        let mut left: Option<Part> = None;
        for number in 1..=incoming.of_documents {
            for part in self.kept_page(txn, number)?.documents {
                match &mut left {
                    Some(left) if left.number == part.number => left.shares.extend(part.shares),
                    _ => {
                        if let Some(whole) = left.replace(part) {
                            self.merge(txn, whole, &mut absorbing, clock)?;
                        }
                    }
                }
            }
        }
        if let Some(whole) = left {
            self.merge(txn, whole, &mut absorbing, clock)?;
        }
        for number in absorbing.beside.keys().copied().collect::<Vec<_>>() {
            let part = Part {
                number,
                known: None,
                shares: Vec::new(),
            };
            self.merge(txn, part, &mut absorbing, clock)?;
        }
        txn.remove_values(&scope)?;
        let mut log = self.place.log(txn)?;
        log.vector.merge(&upto);
        log.floor.merge(&upto);
        let before = &absorbing.vector;
        log.waiting
            .retain(|replica, _| upto.get(*replica) <= before.get(*replica));
        kept::set(txn, &self.place.scope, "log", &log)?;
        if let Some(moment) = &absorbing.moment {
            self.keep_moment(txn, moment)?;
        }
        let mut changes = Some(Vec::new());
        if let Some(chain) = chain {
            let paths = affected(&self.registers(txn), absorbing.written.keys())?;
            changes = self.show(txn, chain, paths, now)?;
        }
        Ok(Applied {
            changes,
            writers: absorbing.written,
            about: absorbing.about,
        })
    }

    fn kept_page(&self, txn: &dyn ReadTxn, number: u64) -> Result<Body> {
        let bytes = txn.value(&self.pages(), &page_key(number))?;
        decode(&bytes.ok_or_else(damaged)?)
    }

    /// Returns what the documents' pages do not say, by its document: what waits here for the rest of
    /// what it belongs to, which nobody sends again, and what the last pages say.
    fn beside(
        &self,
        txn: &dyn ReadTxn,
        incoming: &Incoming,
        upto: &VersionVector,
    ) -> Result<BTreeMap<u16, Beside>> {
        let mut beside: BTreeMap<u16, Beside> = BTreeMap::new();
        let log = self.place.log(txn)?;
        let applied = log.applied();
        let waiting = log.waiting.iter();
        let waiting = waiting.filter(|(replica, _)| upto.get(**replica) > applied.get(**replica));
        for number in waiting.flat_map(|(_, numbers)| numbers) {
            for (number, share) in shares_of(&self.place.cut(txn, *number)?)? {
                beside.entry(number).or_default().waiting.push(share);
            }
        }
        for number in incoming.of_documents + 1..=incoming.pages {
            for cut in self.kept_page(txn, number)?.cuts {
                for (number, share) in shares_of(&cut)? {
                    beside.entry(number).or_default().later.push(share);
                }
            }
        }
        Ok(beside)
    }

    /// Brings shares into a document.
    fn merge(
        &mut self,
        txn: &mut dyn WriteTxn,
        part: Part,
        absorbing: &mut Absorbing<'_>,
        clock: &mut Clock,
    ) -> Result<()> {
        let number = part.number;
        let (known, theirs) = part.known.unwrap_or_default();
        let documents = self.documents.get_mut();
        let document = self.place.open(txn, documents, number)?;
        let own = match document {
            Some(document) => document.shares()?,
            None => Vec::new(),
        };
        let own = own.into_iter().map(|share| (share.order(), share));
        let mut shares: BTreeMap<Order, Share> = own.collect();
        let Beside { waiting, mut later } = absorbing.beside.remove(&number).unwrap_or_default();
        // What the other knew and is not there was left out.
        later.retain(|share| share.number > known.get(share.replica));
        let mut is_new = false;
        for share in part.shares.into_iter().chain(waiting).chain(later) {
            absorbing.about |= number == ABOUT;
            note(number, &share, &mut absorbing.written, clock)?;
            match shares.get_mut(&share.order()) {
                Some(there) => is_new |= !there.merge(share).is_empty(),
                None => {
                    is_new = true;
                    shares.insert(share.order(), share);
                }
            }
        }
        if is_new {
            let built = document.insert(Document::build(shares.into_values().collect())?);
            let (_, values) = built.counts();
            self.place.save_anew(txn, number, built, values)?;
        }
        let mine = self.place.thinned(txn, number)?;
        if absorbing.moment.is_some() || theirs == Thinned::default() {
            return Ok(());
        }
        let live = absorbing.moments.iter();
        let live = live
            .filter(|moment| absorbing.vector.covers(moment) && mine.can_show(moment))
            .map(VersionVector::digest);
        let mut kept: BTreeSet<_> = live.collect();
        // What is known here was not sent, and may have been left out here.
        if mine.upto.is_empty() {
            kept.extend(theirs.kept);
        }
        let mut upto = mine.upto;
        upto.merge(&theirs.upto);
        self.place.set_thinned(txn, number, &Thinned { upto, kept })
    }

    /// Notes that the documents have what a moment needs.
    fn keep_moment(&self, txn: &mut dyn WriteTxn, moment: &VersionVector) -> Result<()> {
        for number in 0..=ABOUT {
            let mut thinned = self.place.thinned(txn, number)?;
            if !thinned.can_show(moment) {
                thinned.kept.insert(moment.digest());
                self.place.set_thinned(txn, number, &thinned)?;
            }
        }
        Ok(())
    }
}

/// What is brought in.
struct Absorbing<'a> {
    moment: Option<VersionVector>,
    /// What was applied before.
    vector: VersionVector,
    moments: &'a BTreeSet<VersionVector>,
    beside: BTreeMap<u16, Beside>,
    written: Written,
    about: bool,
}

/// What was written to a document that its page does not say.
#[derive(Default)]
struct Beside {
    /// What is here already.
    waiting: Vec<Share>,
    /// What was written after the page was made.
    later: Vec<Share>,
}

/// Looks whether all that a page says is what a replica may write.
fn check(body: &Body) -> Result<()> {
    for part in &body.documents {
        let refuse = |why: &str| Err(Error::with_detail(ErrorKind::Corrupt, why));
        if part.number > ABOUT {
            return refuse("a page is of a document that no branch has");
        }
        for share in &part.shares {
            let ordered = share.values.is_sorted_by(|(a, _), (b, _)| a < b);
            if share.number == 0 || share.values.is_empty() || !ordered {
                return refuse("a page's registers are out of order");
            }
            for (key, value) in &share.values {
                stamp_of(key, value)?;
                if number_of(key)? != part.number {
                    return refuse("a page has a register of another document");
                }
            }
        }
    }
    for cut in &body.cuts {
        shares_of(cut)?;
    }
    Ok(())
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let refuse = || Error::with_detail(ErrorKind::Corrupt, "a page does not decode");
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| refuse())?;
    match rest.is_empty() {
        true => Ok(value),
        false => Err(refuse()),
    }
}

fn damaged() -> Error {
    let why = "pages of a branch do not follow on each other";
    Error::with_detail(ErrorKind::Corrupt, why)
}

fn page_key(number: u64) -> String {
    format!("page/{number:016x}")
}
