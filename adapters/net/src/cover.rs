//! What a conversation is about: a bucket as far as a grant covers it.

use std::collections::{BTreeMap, HashMap};

use alknet_fs_core::sync::{
    Cut, Frame, Page, Replica, ReplicaId, Scope, Taken, VersionVector, Want,
};
use alknet_fs_core::{Error, ErrorKind, Result};
use alknet_fs_sync::Bucket;
use serde::{Deserialize, Serialize};

use crate::grant::Access;

/// The scopes that grants cover, and what may be done with each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cover {
    /// What may be done with some.
    pub(crate) scopes: BTreeMap<Scope, Access>,
    /// What may be done with every other scope of the bucket, those to come too; nothing where these are
    /// not covered.
    pub(crate) others: Option<Access>,
}

impl Cover {
    /// Covers a whole bucket.
    pub(crate) fn all(access: Access) -> Self {
        Self {
            scopes: BTreeMap::new(),
            others: Some(access),
        }
    }

    /// Returns the most that may be done with any scope that is covered.
    pub(crate) fn most(&self) -> Access {
        let each = self.scopes.values().copied().chain(self.others);
        each.max().unwrap_or(Access::Read)
    }

    fn access(&self, scope: Scope) -> Option<Access> {
        self.scopes.get(&scope).copied().or(self.others)
    }
}

/// Which side of a grant this node is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Role {
    /// It gave the grant.
    Giver,
    /// It was given the grant.
    Taker,
    /// On none: others let both in.
    Member,
}

/// Of what scopes changes go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All that are covered.
    Covered,
    /// Those that may be written.
    Written,
    /// None.
    Closed,
}

/// Of how many scopes a peer may speak.
const SCOPES_MAX: usize = 16 << 10;

/// How many replicas a peer may name in all scopes together.
const ENTRIES_MAX: usize = 1 << 20;

/// How many bytes of a position among pages count as a replica: those that one takes in a vector, of
/// which a position is made.
const ENTRY: usize = size_of::<ReplicaId>();

/// What is agreed on for a conversation.
#[derive(Debug)]
pub(crate) struct Terms {
    cover: Cover,
    sends: Way,
    takes: Way,
    /// What the peer is known to know of scopes that this side may only read.
    heard: BTreeMap<Scope, VersionVector>,
    /// How many replicas the peer named in each scope.
    named: HashMap<Scope, usize>,
    entries: usize,
}

impl Terms {
    /// Those of whoever gave a grant.
    pub(crate) fn giver(cover: Cover) -> Self {
        Self::new(cover, Way::Covered, Way::Written)
    }

    /// Those of whoever was given one.
    pub(crate) fn taker(cover: Cover) -> Self {
        Self::new(cover, Way::Written, Way::Covered)
    }

    /// Those of a member with another one: what it writes is taken where the other says so, for
    /// either.
    pub(crate) fn member(sends: bool, takes: bool) -> Self {
        let way = |open| if open { Way::Covered } else { Way::Closed };
        Self::new(Cover::all(Access::Read), way(sends), way(takes))
    }

    fn new(cover: Cover, sends: Way, takes: Way) -> Self {
        Self {
            cover,
            sends,
            takes,
            heard: BTreeMap::new(),
            named: HashMap::new(),
            entries: 0,
        }
    }

    pub(crate) fn cover(&self) -> &Cover {
        &self.cover
    }

    fn covers(&self, scope: Scope) -> bool {
        self.cover.access(scope).is_some()
    }

    fn goes(&self, way: Way, scope: Scope) -> bool {
        match way {
            Way::Covered => self.covers(scope),
            Way::Written => self.cover.access(scope) == Some(Access::Write),
            Way::Closed => false,
        }
    }

    /// Tells whether the peer gets cuts of a scope.
    fn sends(&self, scope: Scope) -> bool {
        self.goes(self.sends, scope)
    }

    /// Tells whether the peer gets cuts of all that is covered.
    pub(crate) fn sends_all(&self) -> bool {
        self.sends == Way::Covered
    }

    /// Tells whether the peer may know of a scope, and gets no cuts of it.
    pub(crate) fn keeps(&self, scope: Scope) -> bool {
        self.covers(scope) && !self.sends(scope)
    }

    /// Tells whether cuts of a scope are taken from the peer.
    fn takes(&self, scope: Scope) -> bool {
        self.goes(self.takes, scope)
    }

    /// Takes out of a frame what the grant does not cover.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] for cuts that the peer may not send; [`ErrorKind::TooLarge`]
    /// where it speaks of more than can be.
    pub(crate) fn hear(&mut self, mut frame: Frame, bucket: &Bucket) -> Result<Frame> {
        match &mut frame {
            Frame::Summary { .. } => {}
            Frame::Digests { digests, .. } => {
                digests.retain(|(scope, _)| self.covers(*scope));
                for (scope, _) in digests {
                    self.name(*scope, 0)?;
                }
            }
            Frame::Vectors { vectors, .. } => {
                vectors.retain(|(scope, _)| self.covers(*scope));
                for (scope, vector) in vectors {
                    if !self.takes(*scope) {
                        // What such a peer has of its own never comes here.
                        *vector = VersionVector::common([&*vector, &bucket.vector(*scope)?]);
                    }
                    self.name(*scope, vector.len())?;
                    self.note(*scope, vector);
                }
            }
            Frame::State {
                scope, from, next, ..
            } => {
                self.check_takes(*scope)?;
                let longest = from.len().max(next.as_ref().map_or(0, Vec::len));
                self.name(*scope, longest / ENTRY)?;
            }
            // What is asked of others is answered with nothing, but kept until then.
            Frame::Want { scope, what } => {
                let entries = match what {
                    Want::Moment(moment) => moment.len(),
                    Want::From(position) => position.len() / ENTRY,
                };
                self.name(*scope, entries)?;
            }
            Frame::Cuts { scope, cuts } => {
                self.check_takes(*scope)?;
                for cut in cuts {
                    self.name(*scope, cut.seen.len() + 1)?;
                    let mut knows = cut.seen.clone();
                    knows.see(cut.replica, cut.number);
                    self.note(*scope, &knows);
                }
            }
        }
        Ok(frame)
    }

    fn check_takes(&self, scope: Scope) -> Result<()> {
        match self.takes(scope) {
            true => Ok(()),
            false => {
                let why = "the peer sent changes that its grant does not allow";
                Err(Error::with_detail(ErrorKind::PermissionDenied, why).path(scope))
            }
        }
    }

    fn name(&mut self, scope: Scope, entries: usize) -> Result<()> {
        let named = self.named.entry(scope).or_default();
        self.entries += entries.saturating_sub(*named);
        *named = entries.max(*named);
        let (of, most) = match () {
            () if self.named.len() > SCOPES_MAX => ("branches", SCOPES_MAX),
            () if self.entries > ENTRIES_MAX => ("writers in all branches together", ENTRIES_MAX),
            () => return Ok(()),
        };
        let why = format!(
            "the peer speaks of more than {most} {of}, which are too many for one bucket: delete \
             branches, or share single ones instead of all"
        );
        Err(Error::with_detail(ErrorKind::TooLarge, why))
    }

    /// Notes that a scope got cuts, with what the peer is known to know of it. Of a scope that is new
    /// here and that this side keeps for itself, the peer has nothing to say.
    pub(crate) fn changed(&mut self, scope: Scope, knows: impl FnOnce() -> VersionVector) {
        if self.keeps(scope) {
            self.note(scope, &knows());
        }
    }

    fn note(&mut self, scope: Scope, knows: &VersionVector) {
        if !self.sends(scope) {
            self.heard.entry(scope).or_default().merge(knows);
        }
    }

    /// Returns what is said of a scope: what this side keeps for itself is left out once it is known
    /// what the peer has, so that both can come to say the same.
    fn shown(&self, scope: Scope, ours: VersionVector) -> VersionVector {
        match self.heard.get(&scope) {
            Some(heard) if !self.sends(scope) => VersionVector::common([&ours, heard]),
            _ => ours,
        }
    }
}

/// A bucket as the peer of a conversation may see it.
pub(crate) struct Granted<'a> {
    pub(crate) bucket: &'a mut Bucket,
    pub(crate) terms: &'a Terms,
}

impl Replica for Granted<'_> {
    fn vectors(&self) -> Result<BTreeMap<Scope, VersionVector>> {
        let vectors = self.bucket.vectors()?.into_iter();
        let covered = vectors.filter(|(scope, _)| self.terms.covers(*scope));
        let shown = covered.map(|(scope, ours)| (scope, self.terms.shown(scope, ours)));
        Ok(shown.filter(|(_, vector)| !vector.is_empty()).collect())
    }

    fn vector(&self, scope: Scope) -> Result<VersionVector> {
        match self.terms.covers(scope) {
            true => Ok(self.terms.shown(scope, self.bucket.vector(scope)?)),
            false => Ok(VersionVector::new()),
        }
    }

    fn cuts_after(&self, scope: Scope, seen: &VersionVector, bytes: usize) -> Result<Vec<Cut>> {
        match self.terms.sends(scope) {
            true => self.bucket.cuts_after(scope, seen, bytes),
            false => Ok(Vec::new()),
        }
    }

    fn apply(&mut self, scope: Scope, cuts: &[Cut]) -> Result<()> {
        self.bucket.apply(scope, cuts)
    }

    fn floor(&self, scope: Scope) -> Result<VersionVector> {
        match self.terms.sends(scope) {
            true => self.bucket.floor(scope),
            false => Ok(VersionVector::new()),
        }
    }

    fn first_page(&self, scope: Scope) -> Result<Vec<u8>> {
        self.bucket.first_page(scope)
    }

    fn page(
        &self,
        scope: Scope,
        what: &Want,
        seen: &VersionVector,
        bytes: usize,
    ) -> Result<Option<Page>> {
        match self.terms.sends(scope) {
            true => self.bucket.page(scope, what, seen, bytes),
            false => Ok(None),
        }
    }

    fn take_page(&mut self, scope: Scope, page: &Page) -> Result<Taken> {
        self.bucket.take_page(scope, page)
    }

    fn wanted(&self) -> Vec<(Scope, VersionVector)> {
        let wanted = self.bucket.wanted().into_iter();
        wanted
            .filter(|(scope, _)| self.terms.takes(*scope))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alknet_fs_core::Timestamp;
    use alknet_fs_core::branch::create_bucket;
    use alknet_fs_core::edit::Context;
    use alknet_fs_core::memory::MemoryStore;
    use alknet_fs_core::store::{Durability, Store};

    use super::*;

    fn bucket() -> Bucket {
        let store = MemoryStore::new();
        let context = Context {
            now: Timestamp(1),
            author: "test".to_owned(),
            uid: 0,
            gid: 0,
        };
        let mut txn = store.write(Durability::Full).unwrap();
        let (bucket, _) = create_bucket(&mut *txn, "work", &context).unwrap();
        txn.commit().unwrap();
        Bucket::open(Arc::new(store), bucket.id, ReplicaId([1; 16])).unwrap()
    }

    fn scope(n: usize) -> Scope {
        Scope((n as u128).to_be_bytes())
    }

    fn vector(count: usize) -> VersionVector {
        let replicas = (0..count).map(|n| (ReplicaId((n as u128).to_be_bytes()), 1));
        replicas.collect()
    }

    type Speaks = fn(Scope, usize) -> Frame;

    /// Everything in which a peer may name a scope, with so many replicas, where it may name any.
    const ALL: [(&str, Speaks); 6] = [
        ("vectors", |scope, count| Frame::Vectors {
            vectors: vec![(scope, vector(count))],
            answer: false,
        }),
        ("cuts", |scope, count| Frame::Cuts {
            scope,
            cuts: vec![Cut {
                // None of those that it saw.
                replica: ReplicaId(u128::MAX.to_be_bytes()),
                number: 1,
                seen: vector(count - 1),
                more: false,
                changes: Vec::new(),
            }],
        }),
        ("page", |scope, count| Frame::State {
            scope,
            from: vec![0; count * ENTRY],
            next: None,
            pause: false,
            page: Vec::new(),
        }),
        ("offer", |scope, count| Frame::State {
            scope,
            from: Vec::new(),
            next: Some(vec![0; count * ENTRY]),
            pause: false,
            page: Vec::new(),
        }),
        ("moment", |scope, count| Frame::Want {
            scope,
            what: Want::Moment(vector(count)),
        }),
        ("pages", |scope, count| Frame::Want {
            scope,
            what: Want::From(vec![0; count * ENTRY]),
        }),
    ];

    #[test]
    fn what_is_kept_here_is_said_until_it_is_known_what_the_peer_has() {
        let mut bucket = bucket();
        bucket.gather(Timestamp(2)).unwrap();
        let scope = Scope::of_first_branch();
        let ours = bucket.vector(scope).unwrap();
        assert!(!ours.is_empty());
        let mut said = |terms: &Terms| {
            let bucket = &mut bucket;
            Granted { bucket, terms }.vector(scope).unwrap()
        };
        // The peer may have all of it.
        let mut terms = Terms::taker(Cover::all(Access::Read));
        assert_eq!(said(&terms), ours);
        // Of what is new here it has nothing to say.
        terms.changed(scope, VersionVector::new);
        assert!(said(&terms).is_empty());
        let mut terms = Terms::taker(Cover::all(Access::Read));
        terms.changed(scope, || ours.clone());
        assert_eq!(said(&terms), ours);
        // What the peer gets is said as it is.
        let mut terms = Terms::taker(Cover::all(Access::Write));
        terms.changed(scope, VersionVector::new);
        assert_eq!(said(&terms), ours);
    }

    #[test]
    fn a_peer_speaks_of_so_many_scopes_and_no_more() {
        let bucket = bucket();
        let digests: Speaks = |scope, _| Frame::Digests {
            from: scope,
            to: scope,
            digests: vec![(scope, [0; 16])],
        };
        for (what, speaks) in ALL.into_iter().chain([("digests", digests)]) {
            let mut terms = Terms::giver(Cover::all(Access::Write));
            for n in 0..SCOPES_MAX {
                terms.hear(speaks(scope(n), 1), &bucket).unwrap();
            }
            // The same again is nothing more.
            terms.hear(speaks(scope(0), 1), &bucket).unwrap();
            let more = terms.hear(speaks(scope(SCOPES_MAX), 1), &bucket);
            let refused = more.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::TooLarge, "{what}");
            let said = refused.to_string();
            assert!(said.contains("more than 16384 branches"), "{said}");
        }
    }

    #[test]
    fn a_peer_names_so_many_replicas_and_no_more() {
        let bucket = bucket();
        let each = 4096;
        for (what, speaks) in ALL {
            let mut terms = Terms::giver(Cover::all(Access::Write));
            for n in 0..ENTRIES_MAX / each {
                terms.hear(speaks(scope(n), each), &bucket).unwrap();
            }
            terms.hear(speaks(scope(0), each), &bucket).unwrap();
            let more = terms.hear(speaks(scope(0), each + 1), &bucket);
            let refused = more.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::TooLarge, "{what}");
            let said = refused.to_string();
            assert!(said.contains("more than 1048576 writers"), "{said}");
        }
    }
}
