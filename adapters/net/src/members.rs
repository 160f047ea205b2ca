//! Who takes part in a bucket though neither gave the other a grant: what nodes state of each other.
//!
//! A node states whom it let into the whole of a bucket, and from whom it has the bucket. Statements
//! are signed and passed on, and each node draws its own conclusion: it believes itself, and whoever
//! it so comes to take for one that may write.

use std::collections::{BTreeMap, HashSet, VecDeque};

use alknet_fs_core::{Error, ErrorKind, Result, Timestamp};
use iroh::{EndpointId, SecretKey, Signature};
use serde::{Deserialize, Serialize};

use crate::grant::{Access, BucketUid};

/// What a signed statement begins with, so that no other signature can pass for one.
const CONTEXT: &[u8] = b"alknet-fs 2026-11 statement on a member of a bucket";

/// How many statements on a bucket are kept.
pub(crate) const MAX_STATEMENTS: usize = 4096;

/// How many of these one node may make.
const MAX_OF_ONE: usize = 1024;

/// By how much the clock of whoever states something may be ahead, in nanoseconds.
const AHEAD: i64 = 24 * 3600 * 1_000_000_000;

/// A node's key as bytes: not every key that somebody names is one of a node.
type Raw = [u8; 32];

/// Somebody who takes part in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// What it may do.
    pub access: Access,
    /// The node that says so: this one, or another one that may write.
    pub by: EndpointId,
}

/// What a node says of another one, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Statement {
    by: Raw,
    of: Raw,
    said: Said,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// What it may do; none: what was said before is taken back.
    access: Option<Access>,
    expires: Option<Timestamp>,
    at: Timestamp,
    signature: Sign,
}

/// A signature, which by itself has no [`Debug`] form.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Sign(Signature);

impl std::fmt::Debug for Sign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sign(..)")
    }
}

impl Said {
    fn is_over(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// By what two statements of one node on the same other one are told apart: the greater one counts.
    fn order(&self) -> (Timestamp, [u8; 64]) {
        (self.at, self.signature.0.to_bytes())
    }
}

/// What is signed.
fn signed(
    bucket: BucketUid,
    (by, of): (&Raw, &Raw),
    access: Option<Access>,
    expires: Option<Timestamp>,
    at: Timestamp,
) -> Vec<u8> {
    // Writing to memory cannot fail.
    let what = (bucket, by, of, access, expires, at);
    postcard::to_extend(&what, CONTEXT.to_vec()).unwrap_or_default()
}

impl Statement {
    /// States something of a node.
    pub(crate) fn make(
        key: &SecretKey,
        bucket: BucketUid,
        of: EndpointId,
        (access, expires): (Option<Access>, Option<Timestamp>),
        at: Timestamp,
    ) -> Self {
        let by = key.public();
        let bytes = signed(bucket, (by.as_bytes(), of.as_bytes()), access, expires, at);
        Self {
            by: *by.as_bytes(),
            of: *of.as_bytes(),
            said: Said {
                access,
                expires,
                at,
                signature: Sign(key.sign(&bytes)),
            },
        }
    }

    /// Tells whether whoever it names made it, of that bucket.
    pub(crate) fn is_genuine(&self, bucket: BucketUid) -> bool {
        let Said {
            access,
            expires,
            at,
            signature,
        } = self.said;
        let Ok(by) = EndpointId::from_bytes(&self.by) else {
            return false;
        };
        let bytes = signed(bucket, (&self.by, &self.of), access, expires, at);
        EndpointId::from_bytes(&self.of).is_ok() && by.verify(&bytes, &signature.0).is_ok()
    }
}

/// The statements on one bucket: of each node on each other one the newest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Statements(BTreeMap<(Raw, Raw), Said>);

impl Statements {
    /// Returns a digest of all: the same where all are the same.
    pub(crate) fn digest(&self) -> [u8; 16] {
        let bytes = postcard::to_extend(self, Vec::new()).unwrap_or_default();
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        digest
    }

    /// Returns those that others have not, or have older.
    pub(crate) fn besides(&self, others: Option<&Self>) -> Vec<Statement> {
        let known = |key: &(Raw, Raw)| others.and_then(|others| others.0.get(key));
        let new = self.0.iter();
        let new = new.filter(|(key, said)| known(key) != Some(*said));
        new.map(|((by, of), said)| Statement {
            by: *by,
            of: *of,
            said: *said,
        })
        .collect()
    }

    /// Tells whether a statement would replace what is here.
    pub(crate) fn is_news(&self, statement: &Statement) -> bool {
        let known = self.0.get(&(statement.by, statement.of));
        known.is_none_or(|known| known.order() < statement.said.order())
    }

    /// Says of a node what it may do, where that is not what is said already.
    pub(crate) fn state(
        &mut self,
        key: &SecretKey,
        bucket: BucketUid,
        of: EndpointId,
        what: (Option<Access>, Option<Timestamp>),
        now: Timestamp,
    ) {
        let place = (*key.public().as_bytes(), *of.as_bytes());
        let known = self.0.get(&place);
        // One from a time when the clock was far ahead is believed by nobody.
        let known = known.filter(|known| known.at.0 <= now.0.saturating_add(AHEAD));
        if known.is_some_and(|known| (known.access, known.expires) == what) {
            return;
        }
        let after = known.map_or(i64::MIN, |known| known.at.0.saturating_add(1));
        let at = Timestamp(now.0.max(after));
        let statement = Statement::make(key, bucket, of, what, at);
        self.0.insert(place, statement.said);
    }

    /// Takes in statements that are genuine: those that are news, and are made by this node or by
    /// somebody of whom this node, or one like that, ever stated something.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] and [`ErrorKind::TooLarge`] where some were refused: the others
    /// are taken.
    pub(crate) fn take(
        &mut self,
        own: EndpointId,
        statements: Vec<Statement>,
        now: Timestamp,
    ) -> Result<()> {
        let reached = self.reached(own, &statements);
        let mut refused = None;
        for statement in statements {
            if !self.is_news(&statement) {
                continue;
            }
            let why = if statement.said.at.0 > now.0.saturating_add(AHEAD) {
                Some((ErrorKind::InvalidInput, "a statement comes from the future"))
            } else if !reached.contains(&statement.by) {
                let why = "somebody states something whom nobody knows";
                Some((ErrorKind::InvalidInput, why))
            } else if self.0.contains_key(&(statement.by, statement.of)) {
                None
            } else if self.0.len() >= MAX_STATEMENTS || self.made_by(&statement.by) >= MAX_OF_ONE {
                let why = "there are more statements on a bucket than are kept";
                Some((ErrorKind::TooLarge, why))
            } else {
                None
            };
            match why {
                None => drop(self.0.insert((statement.by, statement.of), statement.said)),
                Some(why) => refused = Some(why),
            }
        }
        match refused {
            None => Ok(()),
            Some((kind, why)) => Err(Error::with_detail(kind, why)),
        }
    }

    fn by(&self, by: &Raw) -> impl Iterator<Item = (&Raw, &Said)> {
        let all = self.0.range((*by, [0; 32])..=(*by, [255; 32]));
        all.map(|((_, of), said)| (of, said))
    }

    fn made_by(&self, by: &Raw) -> usize {
        self.by(by).count()
    }

    /// Finds everybody of whom a node ever stated something, and so on from these.
    fn reached(&self, own: EndpointId, more: &[Statement]) -> HashSet<Raw> {
        let mut of: BTreeMap<&Raw, Vec<&Raw>> = BTreeMap::new();
        for statement in more {
            of.entry(&statement.by).or_default().push(&statement.of);
        }
        let own = *own.as_bytes();
        let (mut reached, mut open) = (HashSet::from([own]), vec![own]);
        while let Some(by) = open.pop() {
            let kept = self.by(&by).map(|(of, _)| of);
            let more = of.get(&by).into_iter().flatten().copied();
            for of in kept.chain(more) {
                if reached.insert(*of) {
                    open.push(*of);
                }
            }
        }
        reached
    }

    /// Finds who takes part, as far as a node believes it: whom it let in or has the bucket from
    /// itself, and whom those that so may write let in. Of several statements on one node the widest
    /// counts. From whom the node itself took something back, that is no member for it.
    pub(crate) fn members(&self, own: EndpointId, now: Timestamp) -> BTreeMap<EndpointId, Member> {
        let own = *own.as_bytes();
        let mut found: BTreeMap<Raw, (Access, Raw)> = BTreeMap::new();
        let mut believed = HashSet::from([own]);
        let mut open = VecDeque::from([own]);
        while let Some(by) = open.pop_front() {
            for (of, said) in self.by(&by) {
                let Some(access) = said.access.filter(|_| !said.is_over(now)) else {
                    continue;
                };
                let banned = self.0.get(&(own, *of));
                if *of == own || banned.is_some_and(|said| said.access.is_none()) {
                    continue;
                }
                let known = found.entry(*of).or_insert((access, by));
                if access > known.0 {
                    *known = (access, by);
                }
                if access == Access::Write && believed.insert(*of) {
                    open.push_back(*of);
                }
            }
        }
        let ids = found.into_iter().filter_map(|(of, (access, by))| {
            let (of, by) = (EndpointId::from_bytes(&of), EndpointId::from_bytes(&by));
            Some((
                of.ok()?,
                Member {
                    access,
                    by: by.ok()?,
                },
            ))
        });
        ids.collect()
    }

    /// Returns when the next statement ends, if any does.
    pub(crate) fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.0.values().filter_map(|said| said.expires);
        ends.filter(|end| *end > now).min()
    }

    /// Returns all on whom something is stated by a node.
    pub(crate) fn named_by(&self, by: EndpointId) -> Vec<EndpointId> {
        let named = self.by(by.as_bytes());
        named
            .filter_map(|(of, _)| EndpointId::from_bytes(of).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketUid = BucketUid([1; 16]);
    const NOW: Timestamp = Timestamp(1000);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn id(n: u8) -> EndpointId {
        key(n).public()
    }

    fn say(by: u8, of: u8, access: Option<Access>, at: i64) -> Statement {
        Statement::make(&key(by), BUCKET, id(of), (access, None), Timestamp(at))
    }

    fn until(by: u8, of: u8, access: Access, expires: i64) -> Statement {
        let what = (Some(access), Some(Timestamp(expires)));
        Statement::make(&key(by), BUCKET, id(of), what, Timestamp(1))
    }

    fn seen(statements: &Statements, own: u8, now: i64) -> Vec<(u8, Access)> {
        let members = statements.members(id(own), Timestamp(now));
        let number = |who: &EndpointId| (0..=255).find(|n| id(*n) == *who).unwrap();
        let mut seen: Vec<_> = members
            .iter()
            .map(|(who, member)| (number(who), member.access))
            .collect();
        seen.sort_unstable();
        seen
    }

    fn all(own: u8, list: Vec<Statement>) -> Statements {
        let mut statements = Statements::default();
        statements.take(id(own), list, NOW).unwrap();
        statements
    }

    const READ: Option<Access> = Some(Access::Read);
    const WRITE: Option<Access> = Some(Access::Write);

    #[test]
    fn members_of_members_are_found_and_readers_vouch_for_nobody() {
        let list = vec![
            say(1, 2, WRITE, 1),
            say(2, 3, READ, 1),
            say(3, 4, WRITE, 1),
            say(2, 1, WRITE, 1),
            say(3, 2, WRITE, 1),
        ];
        let statements = all(1, list);
        assert_eq!(
            seen(&statements, 1, 2),
            [(2, Access::Write), (3, Access::Read)]
        );
        // Whoever joined from the reader believes it.
        assert_eq!(
            seen(&statements, 3, 2),
            [(1, Access::Write), (2, Access::Write), (4, Access::Write),]
        );
        let by = statements.members(id(1), NOW)[&id(3)].by;
        assert_eq!(by, id(2));
    }

    #[test]
    fn the_widest_counts_and_cycles_end() {
        let list = vec![
            say(1, 2, WRITE, 1),
            say(2, 3, READ, 1),
            say(2, 4, WRITE, 1),
            say(4, 3, WRITE, 1),
            say(3, 2, WRITE, 1),
            say(4, 2, READ, 1),
            say(3, 3, WRITE, 1),
        ];
        let expected = [(2, Access::Write), (3, Access::Write), (4, Access::Write)];
        assert_eq!(seen(&all(1, list), 1, 2), expected);
    }

    #[test]
    fn who_is_let_out_takes_along_whom_only_it_vouched_for() {
        let mut statements = all(
            1,
            vec![
                say(1, 2, WRITE, 1),
                say(2, 3, WRITE, 1),
                say(3, 4, WRITE, 1),
            ],
        );
        let gone = say(2, 3, None, 5);
        statements.take(id(1), vec![gone], NOW).unwrap();
        assert_eq!(seen(&statements, 1, 6), [(2, Access::Write)]);
        // What was said before does not come back.
        let late = vec![say(2, 3, WRITE, 4)];
        statements.take(id(1), late, NOW).unwrap();
        assert_eq!(seen(&statements, 1, 6), [(2, Access::Write)]);
        let again = vec![say(2, 3, WRITE, 6)];
        statements.take(id(1), again, NOW).unwrap();
        assert_eq!(seen(&statements, 1, 6).len(), 3);
        // Of whom it took something back itself, it takes nobody else's word.
        let banned = vec![say(1, 3, None, 7)];
        statements.take(id(1), banned, NOW).unwrap();
        assert_eq!(seen(&statements, 1, 8), [(2, Access::Write)]);
        assert_eq!(seen(&statements, 2, 8).len(), 2);
    }

    #[test]
    fn what_has_expired_does_not_count() {
        let statements = all(1, vec![until(1, 2, Access::Write, 50), say(2, 3, WRITE, 1)]);
        assert_eq!(statements.next_end(Timestamp(49)), Some(Timestamp(50)));
        assert_eq!(seen(&statements, 1, 49).len(), 2);
        assert_eq!(seen(&statements, 1, 50), []);
        assert_eq!(statements.next_end(Timestamp(50)), None);
    }

    #[test]
    fn only_what_its_maker_signed_for_the_bucket_is_genuine() {
        let good = say(1, 2, READ, 5);
        assert!(good.is_genuine(BUCKET));
        assert!(!good.is_genuine(BucketUid([2; 16])));
        let bytes = postcard::to_extend(&good, Vec::new()).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            if let Ok((altered, [])) = postcard::take_from_bytes::<Statement>(&altered) {
                assert!(!altered.is_genuine(BUCKET), "{at}");
            }
        }
        let mut forged = say(3, 2, READ, 5);
        forged.by = *id(1).as_bytes();
        assert!(!forged.is_genuine(BUCKET));
    }

    #[test]
    fn what_is_too_much_too_early_or_of_strangers_is_refused() {
        let mut statements = Statements::default();
        let future = say(1, 2, WRITE, NOW.0 + AHEAD + 1);
        let list = vec![future, say(7, 8, WRITE, 1), say(1, 3, WRITE, 1)];
        let e = statements.take(id(1), list, NOW).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        assert_eq!(statements.0.len(), 1);
        // The order in which statements come makes no difference.
        let list = vec![say(5, 6, WRITE, 1), say(4, 5, None, 1), say(3, 4, READ, 1)];
        statements.take(id(1), list, NOW).unwrap();
        assert_eq!(statements.0.len(), 4);

        let many = |by: u8, count: usize| -> Vec<Statement> {
            let said = say(by, 2, WRITE, 1).said;
            let each = (0..count).map(|n| {
                let mut of = [by; 32];
                of[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
                Statement {
                    by: *id(by).as_bytes(),
                    of,
                    said,
                }
            });
            each.collect()
        };
        let e = statements.take(id(1), many(3, 5000), NOW).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge);
        assert_eq!(statements.made_by(id(3).as_bytes()), MAX_OF_ONE);
        for by in [1, 4, 5, 6] {
            let _ = statements.take(id(1), many(by, 1024), NOW);
        }
        assert_eq!(statements.0.len(), MAX_STATEMENTS);
        // What is there can still be taken back.
        assert!(statements.members(id(1), NOW).contains_key(&id(3)));
        let back = vec![say(1, 3, None, 9)];
        statements.take(id(1), back, NOW).unwrap();
        assert!(!statements.members(id(1), NOW).contains_key(&id(3)));
    }

    #[test]
    fn own_statements_are_made_once_and_get_over_a_clock_that_was_ahead() {
        let mut statements = Statements::default();
        let mut state = |what, now| {
            statements.state(&key(1), BUCKET, id(2), what, Timestamp(now));
            statements.besides(None)[0].said
        };
        let far = 3 * AHEAD;
        assert_eq!(state((WRITE, None), far).at, Timestamp(far));
        assert_eq!(state((WRITE, None), 10).at, Timestamp(10));
        assert_eq!(state((WRITE, None), 20).at, Timestamp(10));
        // It only ever goes on.
        assert_eq!(state((READ, None), 5).at, Timestamp(11));
        let back = state((None, None), 30);
        assert_eq!((back.access, back.at), (None, Timestamp(30)));
    }

    #[test]
    fn what_others_lack_is_found() {
        let mut ours = all(1, vec![say(1, 2, WRITE, 1), say(2, 3, READ, 1)]);
        let theirs = ours.clone();
        assert_eq!(ours.digest(), theirs.digest());
        assert!(ours.besides(Some(&theirs)).is_empty());
        let news = vec![say(2, 3, None, 2)];
        ours.take(id(1), news.clone(), NOW).unwrap();
        assert_ne!(ours.digest(), theirs.digest());
        assert_eq!(ours.besides(Some(&theirs)), news);
        assert_eq!(ours.besides(None).len(), 2);
    }

    /// Believes more and more until nothing is added.
    fn slowly(list: &[(u8, u8, Said)], own: u8, now: Timestamp) -> BTreeMap<u8, Access> {
        let mut found = BTreeMap::new();
        loop {
            let before = found.clone();
            for (by, of, said) in list {
                let believed = *by == own || found.get(by) == Some(&Access::Write);
                let banned = list
                    .iter()
                    .any(|(by, other, said)| *by == own && other == of && said.access.is_none());
                if let Some(access) = said.access
                    && believed
                    && !said.is_over(now)
                    && *of != own
                    && !banned
                {
                    let known = found.entry(*of).or_insert(access);
                    *known = access.max(*known);
                }
            }
            if found == before {
                return found;
            }
        }
    }

    #[test]
    fn who_is_a_member_is_as_by_the_slow_way() {
        let raw = |n: u8| *id(n).as_bytes();
        let ids: Vec<Raw> = (0..8).map(raw).collect();
        let said = say(1, 2, WRITE, 1).said;
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut list = BTreeMap::new();
            for _ in 0..rng.usize(0..24) {
                let access = [None, READ, WRITE, WRITE][rng.usize(0..4)];
                let expires = [None, Some(Timestamp(5)), Some(Timestamp(15))][rng.usize(0..3)];
                let said = Said {
                    access,
                    expires,
                    ..said
                };
                list.insert((rng.u8(0..8), rng.u8(0..8)), said);
            }
            let list: Vec<_> = list.into_iter().map(|((a, b), s)| (a, b, s)).collect();
            let kept = list
                .iter()
                .map(|(by, of, said)| ((ids[*by as usize], ids[*of as usize]), *said));
            let statements = Statements(kept.collect());
            let found = statements.members(id(0), Timestamp(10));
            let number = |who: &EndpointId| ids.iter().position(|n| n == who.as_bytes()).unwrap();
            let found: BTreeMap<u8, Access> = found
                .iter()
                .map(|(who, member)| (number(who) as u8, member.access))
                .collect();
            assert_eq!(found, slowly(&list, 0, Timestamp(10)), "seed {seed}");
        }
    }
}
