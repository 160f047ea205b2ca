//! The conversation with one peer, as a machine that is polled.
//!
//! A [`Peer`] reads no clock, sends nothing and stores nothing: it is given what arrives and the
//! present time, says what to send next, and asks a [`Replica`] for what is stored. So the same
//! machine runs over QUIC and in a simulated network that loses, delays, repeats and reorders.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::frame::{Cut, Frame, MAX_SCOPES, Scope, Want};
use super::vector::VersionVector;
use crate::entry::{Timestamp, short};
use crate::error::Result;

/// What is stored of one bucket, as far as one peer may know of it.
pub trait Replica {
    /// Returns what is known of each scope of which anything is, in order.
    fn vectors(&self) -> Result<BTreeMap<Scope, VersionVector>>;

    /// Returns what is known of one scope.
    fn vector(&self, scope: Scope) -> Result<VersionVector>;

    /// Returns cuts of a scope that a vector does not cover, in an order in which they can be
    /// applied, of up to a number of bytes together, but one at least where there is one.
    /// The vector covers the scope's [`floor`](Self::floor).
    fn cuts_after(&self, scope: Scope, seen: &VersionVector, bytes: usize) -> Result<Vec<Cut>>;

    /// Returns what has to be known of a scope so that its cuts can follow on it: older ones are not
    /// kept any more.
    fn floor(&self, scope: Scope) -> Result<VersionVector>;

    /// Applies cuts in one transaction. Each is the next of its replica, and all that its writer had
    /// seen is known or comes before it in the list.
    ///
    /// # Errors
    /// Where a cut is not what it should be, or the peer may not write: then nothing was applied.
    fn apply(&mut self, scope: Scope, cuts: &[Cut]) -> Result<()>;

    /// Returns where the pages begin of all that a scope holds.
    fn first_page(&self, scope: Scope) -> Result<Vec<u8>>;

    /// Returns a page of what a scope holds, of up to a number of bytes or a little more, without what
    /// a vector covers; nothing where it is not to be had here.
    fn page(
        &self,
        scope: Scope,
        what: &Want,
        seen: &VersionVector,
        bytes: usize,
    ) -> Result<Option<Page>>;

    /// Takes in a page of a peer; what they come to is applied, in one transaction, with the last.
    ///
    /// # Errors
    /// Where the page is not what it should be, or the peer may not write: then nothing was applied.
    fn take_page(&mut self, scope: Scope, page: &Page) -> Result<Taken>;

    /// Returns the moments of scopes that are to be shown here and cannot, because what they need was
    /// left out of the documents.
    fn wanted(&self) -> Vec<(Scope, VersionVector)>;
}

/// A page of what a scope holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where it begins.
    pub from: Vec<u8>,
    /// Where the next one does; nothing after the last.
    pub next: Option<Vec<u8>>,
    /// What it says. Empty only in an offer.
    pub page: Vec<u8>,
}

impl Page {
    /// Tells whether it says nothing but where the first page is.
    pub fn is_offer(&self) -> bool {
        self.page.is_empty() && self.next.is_some()
    }

    /// Tells whether it says that what was wanted is not to be had.
    pub fn is_refusal(&self) -> bool {
        self.page.is_empty() && self.next.is_none()
    }
}

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The pages from a position on are still missing.
    Part(Vec<u8>),
    /// It was another one than the next; the pages from a position on are waited for.
    Waiting(Vec<u8>),
    /// It was the last and all is applied, or nothing was missing.
    All,
    /// Nothing: the pages of another replica are waited for.
    Nothing,
}

/// How a conversation is led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long to wait for an answer before asking again. Each further wait is twice as long.
    pub patience: Duration,
    /// The longest wait.
    pub longest: Duration,
    /// How many bytes of cuts may be on their way to the peer.
    pub window: usize,
    /// How many bytes of cuts go into one frame; a single cut may be longer.
    pub frame: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            patience: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            window: 4 << 20,
            frame: 256 << 10,
        }
    }
}

/// What was sent of a scope and not acknowledged.
#[derive(Debug)]
struct Sent {
    /// What the peer knows when it has arrived.
    upto: VersionVector,
    bytes: usize,
}

/// The conversation about one bucket with one peer.
#[derive(Debug)]
pub struct Peer {
    pace: Pace,
    /// What the peer is known to know.
    theirs: BTreeMap<Scope, VersionVector>,
    /// Whether `theirs` tells of every scope that the peer knows anything of.
    met: bool,
    /// Whether the peer was ever known to know just what is known here.
    confirmed: bool,
    /// Whether the peer's summary is waited for, or its digests.
    asking: bool,
    /// The scopes of which the peer's vector is waited for.
    asked: BTreeSet<Scope>,
    /// The scopes of which the peer may not know all.
    behind: BTreeSet<Scope>,
    /// The scopes of which the peer may know more than this side.
    ahead: BTreeSet<Scope>,
    sent: BTreeMap<Scope, Sent>,
    /// The scopes of which the peer was offered all, and has not said that it wants it.
    offered: BTreeSet<Scope>,
    /// What the peer wants of scopes, and how many bytes of it are sent before it has to ask again.
    serving: BTreeMap<Scope, (Want, usize)>,
    /// What is wanted of scopes, and waited for.
    taking: BTreeMap<Scope, Want>,
    /// The scopes among them for which the peer is to be asked.
    asking_for: BTreeSet<Scope>,
    /// The moments for which the peer was asked.
    moments: BTreeSet<(Scope, VersionVector)>,
    /// The scopes whose vector is told next, and whether the peer's is asked for.
    owed: BTreeMap<Scope, bool>,
    /// The summary that is said next, and whether it is a question.
    summary: Option<bool>,
    digests: VecDeque<Frame>,
    /// When to say again what was not answered.
    again: Option<Timestamp>,
    wait: Duration,
}

impl Peer {
    /// Begins a conversation; the first thing to send is there at once.
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            theirs: BTreeMap::new(),
            met: false,
            confirmed: false,
            asking: false,
            asked: BTreeSet::new(),
            behind: BTreeSet::new(),
            ahead: BTreeSet::new(),
            sent: BTreeMap::new(),
            offered: BTreeSet::new(),
            serving: BTreeMap::new(),
            taking: BTreeMap::new(),
            asking_for: BTreeSet::new(),
            moments: BTreeSet::new(),
            owed: BTreeMap::new(),
            summary: Some(true),
            digests: VecDeque::new(),
            again: None,
            wait: pace.patience,
        }
    }

    /// Notes that a scope got cuts that the peer may not know: written here, or come from others.
    pub fn changed(&mut self, scope: Scope) {
        // Before the first meeting the summaries tell.
        if self.met || self.theirs.contains_key(&scope) {
            self.behind.insert(scope);
        }
    }

    /// Returns what the peer is known to know of a scope.
    pub fn knows(&self, scope: Scope) -> VersionVector {
        self.theirs.get(&scope).cloned().unwrap_or_default()
    }

    /// Tells whether the peer is known to know just what is known here.
    ///
    /// # Errors
    /// Those of the replica.
    pub fn is_in_step(&self, replica: &dyn Replica) -> Result<bool> {
        Ok(self.met && known(&self.theirs) == replica.vectors()?)
    }

    /// Takes in a frame of the peer.
    ///
    /// # Errors
    /// Where the replica fails, or refuses what the peer sent. The conversation is over then.
    pub fn receive(&mut self, frame: Frame, replica: &mut dyn Replica) -> Result<()> {
        match frame {
            Frame::Summary { digest, answer } => self.hear_summary(digest, answer, replica),
            Frame::Digests { from, to, digests } => {
                self.asking = false;
                self.hear_digests(from, to, digests, replica)
            }
            Frame::Vectors { vectors, answer } => {
                for (scope, theirs) in vectors {
                    self.hear_vector(scope, &theirs, answer, replica)?;
                }
                Ok(())
            }
            Frame::Cuts { scope, cuts } => self.hear_cuts(scope, cuts, replica),
            Frame::State {
                scope,
                from,
                next,
                pause,
                page,
            } => {
                let page = Page { from, next, page };
                self.hear_page(scope, &page, pause, replica)
            }
            Frame::Want { scope, what } => {
                self.heard();
                self.serving.insert(scope, (what, self.pace.window));
                Ok(())
            }
        }
    }

    /// Returns the next frame to send, if any. To be called until there is none, after each
    /// [`receive`](Self::receive), [`changed`](Self::changed) and [`timeout`](Self::timeout).
    ///
    /// # Errors
    /// Those of the replica.
    pub fn poll_transmit(
        &mut self,
        now: Timestamp,
        replica: &dyn Replica,
    ) -> Result<Option<Frame>> {
        self.want_moments(replica);
        let frame = self.next_frame(replica)?;
        if self.again.is_none() && self.is_waiting(replica)? {
            self.again = Some(after(now, self.wait));
        }
        Ok(frame)
    }

    /// Returns when [`timeout`](Self::timeout) is to be called, if nothing arrives before.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.again
    }

    /// Says again what was not answered in time.
    ///
    /// # Errors
    /// Those of the replica.
    pub fn timeout(&mut self, now: Timestamp, replica: &dyn Replica) -> Result<()> {
        if self.again.is_none_or(|at| at > now) {
            return Ok(());
        }
        self.again = None;
        if !self.is_waiting(replica)? {
            return Ok(());
        }
        self.wait = (self.wait * 2).min(self.pace.longest);
        if self.asking || !self.confirmed {
            self.summary = Some(true);
        }
        self.behind.extend(self.sent.keys());
        self.sent.clear();
        let offered = self.offered.iter();
        let idle = offered.filter(|scope| !self.serving.contains_key(scope));
        self.behind.extend(idle);
        self.moments.clear();
        let wanted: BTreeSet<_> = replica.wanted().into_iter().collect();
        self.taking.retain(|scope, what| match what {
            Want::Moment(moment) => wanted.contains(&(*scope, moment.clone())),
            Want::From(_) => true,
        });
        self.asking_for = self.taking.keys().copied().collect();
        for scope in self.asked.clone() {
            self.owed.insert(scope, true);
        }
        self.settle_ahead(replica)?;
        for scope in &self.ahead {
            self.owed.insert(*scope, true);
        }
        Ok(())
    }

    /// Notes that the peer answers: what is said next is waited for as long as at first.
    fn heard(&mut self) {
        self.wait = self.pace.patience;
        self.again = None;
    }

    /// Tells whether anything was said that the peer has to answer.
    fn is_waiting(&mut self, replica: &dyn Replica) -> Result<bool> {
        for scope in self.offered.clone() {
            if self.knows(scope).covers(&replica.floor(scope)?) {
                self.offered.remove(&scope);
            }
        }
        let said = self.asking || !self.confirmed || !self.asked.is_empty();
        if said || !self.sent.is_empty() || !self.offered.is_empty() || !self.taking.is_empty() {
            return Ok(true);
        }
        if !replica.wanted().is_empty() {
            return Ok(true);
        }
        self.settle_ahead(replica)?;
        Ok(!self.ahead.is_empty())
    }

    /// Forgets that the peer is ahead where this side has caught up, maybe by what others sent.
    fn settle_ahead(&mut self, replica: &dyn Replica) -> Result<()> {
        for scope in self.ahead.clone() {
            if replica.vector(scope)?.covers(&self.knows(scope)) {
                self.ahead.remove(&scope);
            }
        }
        Ok(())
    }

    fn hear_summary(
        &mut self,
        theirs: [u8; 16],
        answer: bool,
        replica: &dyn Replica,
    ) -> Result<()> {
        let vectors = replica.vectors()?;
        if digest(&vectors) == theirs {
            self.heard();
            self.theirs = vectors;
            (self.met, self.confirmed) = (true, true);
            self.asked.clear();
            self.behind.clear();
            self.ahead.clear();
            self.sent.clear();
            self.offered.clear();
            // A question of this side that is on its way answers the peer's.
            if answer && !self.asking {
                self.summary.get_or_insert(false);
            }
            self.asking = false;
            return Ok(());
        }
        if answer {
            self.digests = pages(&vectors);
        } else {
            self.asking = false;
            self.summary = Some(true);
        }
        Ok(())
    }

    fn hear_digests(
        &mut self,
        from: Scope,
        to: Scope,
        digests: Vec<(Scope, [u8; 16])>,
        replica: &dyn Replica,
    ) -> Result<()> {
        self.heard();
        let mut vectors = replica.vectors()?;
        vectors.retain(|scope, _| (from..=to).contains(scope));
        for (scope, digest) in digests {
            match vectors.remove(&scope) {
                Some(vector) if vector.digest() == digest => {
                    self.theirs.insert(scope, vector);
                }
                _ => self.ask(scope),
            }
        }
        // Of these the peer knows nothing.
        for scope in vectors.into_keys() {
            self.theirs.entry(scope).or_default();
            self.behind.insert(scope);
        }
        if to == Scope::LAST {
            self.met = true;
        }
        Ok(())
    }

    fn ask(&mut self, scope: Scope) {
        self.owed.insert(scope, true);
        self.asked.insert(scope);
    }

    fn hear_vector(
        &mut self,
        scope: Scope,
        vector: &VersionVector,
        answer: bool,
        replica: &dyn Replica,
    ) -> Result<()> {
        self.heard();
        self.asked.remove(&scope);
        let theirs = self.theirs.entry(scope).or_default();
        theirs.merge(vector);
        if self
            .sent
            .get(&scope)
            .is_some_and(|sent| theirs.covers(&sent.upto))
        {
            self.sent.remove(&scope);
        }
        let ours = replica.vector(scope)?;
        if theirs.covers(&replica.floor(scope)?) {
            self.offered.remove(&scope);
        }
        if !theirs.covers(&ours) && !self.offered.contains(&scope) {
            self.behind.insert(scope);
        }
        if !ours.covers(theirs) {
            self.ahead.insert(scope);
        }
        if answer {
            self.owed.entry(scope).or_insert(false);
        }
        Ok(())
    }

    fn hear_cuts(
        &mut self,
        scope: Scope,
        mut cuts: Vec<Cut>,
        replica: &mut dyn Replica,
    ) -> Result<()> {
        self.heard();
        self.asked.remove(&scope);
        let mut ours = replica.vector(scope)?;
        let theirs = self.theirs.entry(scope).or_default();
        cuts.retain(|cut| {
            // Whoever has a cut has what its writer had seen, and what that one wrote before.
            theirs.merge(&cut.seen);
            theirs.see(cut.replica, cut.number);
            let is_next = cut.number == ours.get(cut.replica) + 1 && ours.covers(&cut.seen);
            if is_next {
                ours.see(cut.replica, cut.number);
            }
            is_next
        });
        if !cuts.is_empty() {
            replica.apply(scope, &cuts)?;
        }
        if !theirs.covers(&ours) {
            self.behind.insert(scope);
        }
        if !ours.covers(theirs) {
            self.ahead.insert(scope);
        }
        self.owed.entry(scope).or_insert(false);
        Ok(())
    }

    fn hear_page(
        &mut self,
        scope: Scope,
        page: &Page,
        pause: bool,
        replica: &mut dyn Replica,
    ) -> Result<()> {
        self.heard();
        if page.is_refusal() {
            self.taking.remove(&scope);
            self.asking_for.remove(&scope);
            return Ok(());
        }
        match replica.take_page(scope, page)? {
            Taken::Part(from) => {
                self.taking.insert(scope, Want::From(from));
                if pause {
                    self.asking_for.insert(scope);
                }
            }
            // It is asked for when nothing more comes.
            Taken::Waiting(from) => {
                self.taking.insert(scope, Want::From(from));
            }
            Taken::All => {
                self.taking.remove(&scope);
                self.asking_for.remove(&scope);
                self.owed.entry(scope).or_insert(false);
            }
            Taken::Nothing => {
                self.taking.remove(&scope);
                self.asking_for.remove(&scope);
            }
        }
        Ok(())
    }

    /// Notes what the peer is to be asked for that this side cannot show by itself.
    fn want_moments(&mut self, replica: &dyn Replica) {
        for (scope, moment) in replica.wanted() {
            let known = self.theirs.get(&scope);
            if known.is_some_and(|theirs| theirs.covers(&moment))
                && !self.taking.contains_key(&scope)
                && self.moments.insert((scope, moment.clone()))
            {
                self.taking.insert(scope, Want::Moment(moment));
                self.asking_for.insert(scope);
            }
        }
    }

    fn next_frame(&mut self, replica: &dyn Replica) -> Result<Option<Frame>> {
        if let Some(answer) = self.summary.take() {
            self.asking |= answer;
            let digest = digest(&replica.vectors()?);
            return Ok(Some(Frame::Summary { digest, answer }));
        }
        if let Some(page) = self.digests.pop_front() {
            return Ok(Some(page));
        }
        if let Some(answer) = self.owed.values().next().copied() {
            let scopes = self.owed.iter().filter(|(_, asks)| **asks == answer);
            let scopes: Vec<_> = scopes.map(|(scope, _)| *scope).take(MAX_SCOPES).collect();
            let mut vectors = Vec::with_capacity(scopes.len());
            for scope in scopes {
                self.owed.remove(&scope);
                vectors.push((scope, replica.vector(scope)?));
            }
            return Ok(Some(Frame::Vectors { vectors, answer }));
        }
        if let Some(scope) = self.asking_for.pop_first()
            && let Some(what) = self.taking.get(&scope).cloned()
        {
            return Ok(Some(Frame::Want { scope, what }));
        }
        if let Some(page) = self.next_page(replica)? {
            return Ok(Some(page));
        }
        while self.sent.values().map(|sent| sent.bytes).sum::<usize>() < self.pace.window
            && let Some(&scope) = self.behind.first()
        {
            let known = match self.sent.get(&scope) {
                Some(sent) => &sent.upto,
                None => self.theirs.entry(scope).or_default(),
            };
            if !known.covers(&replica.floor(scope)?) {
                self.behind.remove(&scope);
                self.offered.insert(scope);
                let from = replica.first_page(scope)?;
                return Ok(Some(Frame::State {
                    scope,
                    next: Some(from.clone()),
                    from,
                    pause: true,
                    page: Vec::new(),
                }));
            }
            let cuts = replica.cuts_after(scope, known, self.pace.frame)?;
            if cuts.is_empty() {
                self.behind.remove(&scope);
                continue;
            }
            let mut upto = known.clone();
            for cut in &cuts {
                upto.see(cut.replica, cut.number);
            }
            let bytes: usize = cuts.iter().map(|cut| cut.changes.len()).sum();
            let sent = self.sent.entry(scope).or_insert_with(|| Sent {
                upto: VersionVector::new(),
                bytes: 0,
            });
            sent.upto = upto;
            sent.bytes += bytes;
            return Ok(Some(Frame::Cuts { scope, cuts }));
        }
        Ok(None)
    }
}

impl Peer {
    /// Returns the next page of what the peer wants.
    fn next_page(&mut self, replica: &dyn Replica) -> Result<Option<Frame>> {
        if let Some((&scope, (what, left))) = self.serving.iter_mut().next() {
            let nothing = VersionVector::new();
            let seen = self.theirs.get(&scope).unwrap_or(&nothing);
            let Some(Page { from, next, page }) =
                replica.page(scope, what, seen, self.pace.frame)?
            else {
                self.serving.remove(&scope);
                return Ok(Some(Frame::State {
                    scope,
                    from: Vec::new(),
                    next: None,
                    pause: true,
                    page: Vec::new(),
                }));
            };
            if next.is_none() {
                // Until it says that it has all.
                self.offered.insert(scope);
            }
            *left = left.saturating_sub(page.len());
            let pause = match &next {
                Some(next) if *left > 0 && !page.is_empty() => {
                    *what = Want::From(next.clone());
                    false
                }
                _ => {
                    self.serving.remove(&scope);
                    true
                }
            };
            return Ok(Some(Frame::State {
                scope,
                from,
                next,
                pause,
                page,
            }));
        }
        Ok(None)
    }
}

/// Returns vectors without those of scopes of which nothing is known.
fn known(vectors: &BTreeMap<Scope, VersionVector>) -> BTreeMap<Scope, VersionVector> {
    let known = vectors.iter().filter(|(_, vector)| !vector.is_empty());
    known
        .map(|(scope, vector)| (*scope, vector.clone()))
        .collect()
}

/// Returns the digest of all that some vectors tell: two sides of which it is the same know the same.
pub fn digest(vectors: &BTreeMap<Scope, VersionVector>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for (scope, vector) in vectors {
        hasher.update(&scope.0);
        hasher.update(&vector.digest());
    }
    short(&hasher)
}

/// Cuts the digests of all scopes into frames that speak of all scopes together.
fn pages(vectors: &BTreeMap<Scope, VersionVector>) -> VecDeque<Frame> {
    let digests = vectors
        .iter()
        .map(|(scope, vector)| (*scope, vector.digest()));
    let digests: Vec<_> = digests.collect();
    let mut pages: VecDeque<_> = digests
        .chunks(MAX_SCOPES)
        .map(|page| Frame::Digests {
            from: page[0].0,
            to: page[page.len() - 1].0,
            digests: page.to_vec(),
        })
        .collect();
    if pages.is_empty() {
        pages.push_back(Frame::Digests {
            from: Scope::FIRST,
            to: Scope::LAST,
            digests: Vec::new(),
        });
    }
    // Between one page's last scope and the next page's first there is none.
    let mut start = Scope::FIRST;
    let count = pages.len();
    for (n, page) in pages.iter_mut().enumerate() {
        if let Frame::Digests { from, to, .. } = page {
            *from = start;
            match n + 1 == count {
                true => *to = Scope::LAST,
                false => start = following(*to),
            }
        }
    }
    pages
}

/// Returns the scope after one.
fn following(scope: Scope) -> Scope {
    Scope(u128::from_be_bytes(scope.0).saturating_add(1).to_be_bytes())
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_add(wait))
}
