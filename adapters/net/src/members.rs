//! Who takes part in a bucket though neither gave the other a grant: what nodes state of each other.
//!
//! A node states whom it let into the whole of a bucket or out of it, and from whom it has the bucket.
//! Statements are signed and passed on, and each node draws its own conclusion: it believes itself, and
//! whoever it so comes to take for one that may write. That somebody has the bucket from a node says
//! the less: whatever a giver states of that node overrules it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

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

/// In nanoseconds, by how much the clock of whoever states something may be ahead, and how old a
/// statement has to be before the same said again is news.
const DAY: i64 = 24 * 3600 * 1_000_000_000;

/// How often those that overrule each other are told apart, before they all are out.
const ROUNDS: usize = 16;

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

/// What a node may state of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum What {
    /// Nothing any more.
    Nothing,
    /// It is let out.
    Out,
    /// It was let in, to read.
    Read,
    /// The bucket was joined from it.
    From,
    /// It was let in, to write too.
    Write,
}

impl What {
    /// States what somebody was given.
    pub(crate) fn gave(access: Access) -> Self {
        match access {
            Access::Read => Self::Read,
            Access::Write => Self::Write,
        }
    }

    /// Tells whether it lets somebody in, for as long as it counts.
    pub(crate) fn lets_in(self) -> bool {
        self >= Self::Read
    }

    /// Tells whether only who gives something out states it.
    fn is_givers(self) -> bool {
        matches!(self, Self::Out | Self::Read | Self::Write)
    }
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
    what: What,
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
    what: What,
    expires: Option<Timestamp>,
    at: Timestamp,
) -> Vec<u8> {
    // Writing to memory cannot fail.
    let all = (bucket, by, of, what, expires, at);
    postcard::to_extend(&all, CONTEXT.to_vec()).unwrap_or_default()
}

impl Statement {
    /// States something of a node.
    pub(crate) fn make(
        key: &SecretKey,
        bucket: BucketUid,
        of: EndpointId,
        (what, expires): (What, Option<Timestamp>),
        at: Timestamp,
    ) -> Self {
        let by = key.public();
        let bytes = signed(bucket, (by.as_bytes(), of.as_bytes()), what, expires, at);
        Self {
            by: *by.as_bytes(),
            of: *of.as_bytes(),
            said: Said {
                what,
                expires,
                at,
                signature: Sign(key.sign(&bytes)),
            },
        }
    }

    /// Returns on whom it is, where that is a node.
    pub(crate) fn of(&self) -> Option<EndpointId> {
        EndpointId::from_bytes(&self.of).ok()
    }

    /// Tells whether whoever it names made it, of that bucket.
    pub(crate) fn is_genuine(&self, bucket: BucketUid) -> bool {
        let Said {
            what,
            expires,
            at,
            signature,
        } = self.said;
        let Ok(by) = EndpointId::from_bytes(&self.by) else {
            return false;
        };
        let bytes = signed(bucket, (&self.by, &self.of), what, expires, at);
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

    /// Puts statements in an order in which who believes a node hears from it of another one before it
    /// hears what that states.
    pub(crate) fn in_order(
        &self,
        own: EndpointId,
        mut statements: Vec<Statement>,
        now: Timestamp,
    ) -> Vec<Statement> {
        let graph = Graph::of(self, own, now);
        let order = graph.walk(&graph.overruled()).order;
        let places = order.iter().enumerate();
        let places: HashMap<Raw, usize> = places.map(|(n, of)| (graph.ids[*of], n)).collect();
        let place = |by: &Raw| places.get(by).copied().unwrap_or(usize::MAX);
        statements.sort_by_cached_key(|statement| place(&statement.by));
        statements
    }

    /// Tells whether a statement would replace what is here: one that says the same does only once
    /// that is old.
    pub(crate) fn is_news(&self, statement: &Statement, now: Timestamp) -> bool {
        let said = &statement.said;
        let Some(known) = self.0.get(&(statement.by, statement.of)) else {
            return true;
        };
        let differs = (known.what, known.expires) != (said.what, said.expires);
        let is_old = known.at.0.saturating_add(DAY) < now.0;
        known.order() < said.order() && (differs || is_old)
    }

    /// Says of a node what it may do, where that is not what is said already.
    pub(crate) fn state(
        &mut self,
        key: &SecretKey,
        bucket: BucketUid,
        of: EndpointId,
        what: (What, Option<Timestamp>),
        now: Timestamp,
    ) {
        let place = (*key.public().as_bytes(), *of.as_bytes());
        let known = self.0.get(&place);
        // One from a time when the clock was far ahead is believed by nobody.
        let known = known.filter(|known| known.at.0 <= now.0.saturating_add(DAY));
        if known.is_some_and(|known| (known.what, known.expires) == what) {
            return;
        }
        let after = known.map_or(i64::MIN, |known| known.at.0.saturating_add(1));
        let at = Timestamp(now.0.max(after));
        let statement = Statement::make(key, bucket, of, what, at);
        self.0.insert(place, statement.said);
    }

    /// Takes in statements that are genuine: those that are news, and are made by this node or by
    /// somebody whom it believes. Where there is no room, those go first that are by others.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] and [`ErrorKind::TooLarge`] where some were refused that would count
    /// otherwise: the others are taken.
    pub(crate) fn take(
        &mut self,
        own: EndpointId,
        mut statements: Vec<Statement>,
        now: Timestamp,
    ) -> Result<()> {
        let mut refused = None;
        statements.retain(|statement| {
            let future = statement.said.at.0 > now.0.saturating_add(DAY);
            if future {
                refused = Some((ErrorKind::InvalidInput, "a statement comes from the future"));
            }
            !future && self.is_news(statement, now)
        });
        let mut all = self.clone();
        for Statement { by, of, said } in &statements {
            let known = all.0.entry((*by, *of)).or_insert(*said);
            if known.order() < said.order() {
                *known = *said;
            }
        }
        let believed = all.believed(own, now);
        for statement in statements {
            let place = (statement.by, statement.of);
            if !believed.contains(&statement.by) || !self.is_news(&statement, now) {
                continue;
            }
            if !self.0.contains_key(&place) {
                if self.0.len() >= MAX_STATEMENTS {
                    self.0.retain(|(by, _), _| believed.contains(by));
                }
                if self.0.len() >= MAX_STATEMENTS || self.made_by(&place.0) >= MAX_OF_ONE {
                    let why = "there are more statements on a bucket than are kept";
                    refused = Some((ErrorKind::TooLarge, why));
                    continue;
                }
            }
            self.0.insert(place, statement.said);
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

    /// Finds all whose statements count for a node, itself among them.
    fn believed(&self, own: EndpointId, now: Timestamp) -> HashSet<Raw> {
        let graph = Graph::of(self, own, now);
        let walk = graph.walk(&graph.overruled());
        let ids = graph.ids.iter().zip(walk.believed);
        ids.filter_map(|(id, believed)| believed.then_some(*id))
            .collect()
    }

    /// Finds who takes part, as far as a node believes it: whom it let in or has the bucket from
    /// itself, and so on from those that so may write. Of several statements on one node the widest
    /// counts; that somebody has the bucket from it, only where no giver overrules that. Whom the node
    /// itself let out is no member for it.
    pub(crate) fn members(&self, own: EndpointId, now: Timestamp) -> BTreeMap<EndpointId, Member> {
        let graph = Graph::of(self, own, now);
        let found = graph.walk(&graph.overruled()).found;
        let ids = found.into_iter().enumerate().filter_map(|(of, found)| {
            let (access, by) = found?;
            let id = |n: usize| EndpointId::from_bytes(&graph.ids[n]).ok();
            Some((
                id(of)?,
                Member {
                    access,
                    by: id(by)?,
                },
            ))
        });
        ids.collect()
    }

    /// Finds those that a node has the bucket from, and of which it does not take what they write any
    /// more: whoever gave it to them overrules that.
    pub(crate) fn overruled(&self, own: EndpointId, now: Timestamp) -> Vec<EndpointId> {
        let graph = Graph::of(self, own, now);
        let out = graph.overruled();
        let found = graph.walk(&out).found;
        let from = self.by(own.as_bytes());
        let from = from.filter(|(_, said)| said.what == What::From);
        let gone = from.filter(|(of, _)| {
            let at = graph.ids.binary_search(of);
            let writes = |at: usize| found[at].is_some_and(|(access, _)| access == Access::Write);
            at.is_ok_and(|at| out[at] && !writes(at))
        });
        gone.filter_map(|(of, _)| EndpointId::from_bytes(of).ok())
            .collect()
    }

    /// Tells whether anybody states that a node was let in, or is had the bucket from.
    pub(crate) fn lets_in(&self, id: EndpointId, now: Timestamp) -> bool {
        let on = self.0.iter().filter(|((_, of), _)| of == id.as_bytes());
        let mut on = on.map(|(_, said)| said);
        on.any(|said| said.what.lets_in() && !said.is_over(now))
    }

    /// Returns all on whom anybody states anything.
    pub(crate) fn named(&self) -> BTreeSet<EndpointId> {
        let named = self.0.keys().map(|(_, of)| EndpointId::from_bytes(of));
        named.flatten().collect()
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

/// Statements, with numbers for the nodes.
struct Graph {
    /// In order.
    ids: Vec<Raw>,
    own: usize,
    /// Of each node, on whom it states what, and whether that is over.
    stated: Vec<Vec<(usize, What, bool)>>,
    /// Of each node, who lets it in or out.
    givers: Vec<Vec<usize>>,
    /// When this node joined from another one.
    joined: HashMap<usize, Timestamp>,
}

/// Who is believed, as far as it is known.
struct Walk {
    /// What each node may do, and who says so.
    found: Vec<Option<(Access, usize)>>,
    believed: Vec<bool>,
    /// These, each behind one that lets it in.
    order: Vec<usize>,
    /// From whom any of these has the bucket.
    had: Vec<bool>,
}

impl Graph {
    fn of(statements: &Statements, own: EndpointId, now: Timestamp) -> Self {
        let own = *own.as_bytes();
        let named = statements.0.keys().flat_map(|(by, of)| [*by, *of]);
        let ids: BTreeSet<Raw> = named.chain([own]).collect();
        let ids: Vec<Raw> = ids.into_iter().collect();
        let numbers: HashMap<Raw, usize> = ids.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let mut graph = Self {
            own: numbers[&own],
            stated: vec![Vec::new(); ids.len()],
            givers: vec![Vec::new(); ids.len()],
            joined: HashMap::new(),
            ids,
        };
        for ((by, of), said) in &statements.0 {
            let (by, of) = (numbers[by], numbers[of]);
            graph.stated[by].push((of, said.what, said.is_over(now)));
            if said.what.is_givers() && by != of {
                graph.givers[of].push(by);
            }
            if said.what == What::From && by == graph.own {
                graph.joined.insert(of, said.at);
            }
        }
        graph
    }

    /// Follows what is believed from this node on; that a node in `out` was joined from counts for
    /// nothing.
    fn walk(&self, out: &[bool]) -> Walk {
        let count = self.ids.len();
        let mut walk = Walk {
            found: vec![None; count],
            believed: vec![false; count],
            order: Vec::new(),
            had: vec![false; count],
        };
        let mut banned = vec![false; count];
        for (of, what, _) in &self.stated[self.own] {
            banned[*of] = *what == What::Out;
        }
        banned[self.own] = true;
        walk.believed[self.own] = true;
        let mut open = VecDeque::from([self.own]);
        while let Some(by) = open.pop_front() {
            walk.order.push(by);
            for (of, what, is_over) in self.stated[by].iter().copied() {
                if is_over || banned[of] {
                    continue;
                }
                let access = match what {
                    What::Nothing | What::Out => continue,
                    What::Read => Access::Read,
                    What::Write => Access::Write,
                    What::From => {
                        walk.had[of] = true;
                        if out[of] {
                            continue;
                        }
                        Access::Write
                    }
                };
                let known = walk.found[of].get_or_insert((access, by));
                if access > known.0 {
                    *known = (access, by);
                }
                if access == Access::Write && !walk.believed[of] {
                    walk.believed[of] = true;
                    open.push_back(of);
                }
            }
        }
        walk
    }

    /// Finds of whom it does not count that they were joined from: because somebody lets them in or
    /// out who is believed also without that. Of those that overrule each other, those go first that
    /// this node has joined from last, or has not.
    fn overruled(&self) -> Vec<bool> {
        let mut out = vec![false; self.ids.len()];
        let given = |believed: &[bool], of: &usize| {
            let mut givers = self.givers[*of].iter();
            givers.any(|by| believed[*by])
        };
        let but = |out: &[bool], more: &[usize]| {
            let mut out = out.to_vec();
            more.iter().for_each(|of| out[*of] = true);
            out
        };
        let sure = |out: &[bool], doubted: &[usize]| {
            let believed = self.walk(&but(out, doubted)).believed;
            let sure = doubted.iter().filter(|of| given(&believed, of));
            sure.copied().collect::<Vec<_>>()
        };
        let mut rounds = 0;
        loop {
            let Walk { believed, had, .. } = self.walk(&out);
            let doubted = (0..out.len()).filter(|of| had[*of] && !out[*of]);
            let mut doubted: Vec<_> = doubted.filter(|of| given(&believed, of)).collect();
            if doubted.is_empty() {
                return out;
            }
            let mut gone = sure(&out, &doubted);
            if gone.is_empty() {
                doubted.retain(|of| given(&self.walk(&but(&out, &[*of])).believed, of));
                gone = sure(&out, &doubted);
                rounds += 1;
            }
            if gone.is_empty() {
                let since = |of: &usize| {
                    let joined = self.joined.get(of);
                    (joined.is_some(), Reverse(joined.copied()), *of)
                };
                match rounds < ROUNDS {
                    true => gone.extend(doubted.into_iter().min_by_key(since)),
                    false => gone = doubted,
                }
            }
            if gone.is_empty() {
                return out;
            }
            out = but(&out, &gone);
        }
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

    fn say(by: u8, of: u8, what: What, at: i64) -> Statement {
        Statement::make(&key(by), BUCKET, id(of), (what, None), Timestamp(at))
    }

    fn until(by: u8, of: u8, what: What, expires: i64) -> Statement {
        let what = (what, Some(Timestamp(expires)));
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

    const READ: What = What::Read;
    const WRITE: What = What::Write;
    const FROM: What = What::From;
    const OUT: What = What::Out;

    #[test]
    fn members_of_members_are_found_and_readers_vouch_for_nobody() {
        let list = vec![
            say(1, 2, WRITE, 1),
            say(2, 3, READ, 1),
            say(3, 4, WRITE, 1),
            say(2, 1, FROM, 1),
            say(3, 2, FROM, 1),
        ];
        let statements = all(1, list.clone());
        assert_eq!(
            seen(&statements, 1, 2),
            [(2, Access::Write), (3, Access::Read)]
        );
        // Whoever joined from the reader believes it.
        let statements = all(3, list);
        assert_eq!(
            seen(&statements, 3, 2),
            [(1, Access::Write), (2, Access::Write), (4, Access::Write),]
        );
        let by = statements.members(id(3), NOW)[&id(1)].by;
        assert_eq!(by, id(2));
    }

    /// Everybody has joined from all before it, and was let in by them.
    fn mesh(count: u8) -> Vec<Statement> {
        let each = (0..count).flat_map(|by| (0..count).map(move |of| (by, of)));
        let each = each.filter(|(by, of)| by != of);
        each.map(|(by, of)| match by < of {
            true => say(by, of, WRITE, 1),
            false => say(by, of, FROM, i64::from(of) + 2),
        })
        .collect()
    }

    #[test]
    fn whom_its_giver_lets_out_is_out_also_where_others_joined_from_it() {
        let (read, write) = (Access::Read, Access::Write);
        let mut list = mesh(5);
        for by in 0..5 {
            // Who only joined from it.
            list.push(say(1, 5, WRITE, 1));
            list.push(say(5, 1, FROM, 1));
            let at = |own, more: &[Statement]| {
                let mut statements = all(own, list.clone());
                statements.take(id(own), more.to_vec(), NOW).unwrap();
                let one = statements.members(id(own), NOW).get(&id(1)).copied();
                let silent = statements.overruled(id(own), NOW);
                (one.map(|one| one.access), silent.contains(&id(1)))
            };
            if by > 1 {
                assert_eq!(at(by, &[]), (Some(write), false));
                assert_eq!(at(by, &[say(0, 1, OUT, 9)]), (None, true), "{by}");
                let less = [say(0, 1, READ, 9)];
                assert_eq!(at(by, &less), (Some(read), true), "{by}");
                let over =
                    Statement::make(&key(0), BUCKET, id(1), (WRITE, Some(NOW)), Timestamp(9));
                assert_eq!(at(by, &[over]), (None, true), "{by}");
                // Who is let out gains nothing by letting out who did it.
                let both = [say(0, 1, OUT, 9), say(1, 0, OUT, 2)];
                assert_eq!(at(by, &both), (None, true), "{by}");
                // Another one gave it a ticket as well.
                let other = [say(0, 1, OUT, 9), say(2, 1, WRITE, 9)];
                assert_eq!(at(by, &other), (Some(write), false), "{by}");
            }
            assert_eq!(at(5, &[say(0, 1, OUT, 9)]), (Some(write), false));
        }
    }

    #[test]
    fn what_was_given_up_bans_nobody() {
        let list = vec![
            say(1, 2, WRITE, 1),
            say(3, 1, What::Nothing, 1),
            say(3, 2, FROM, 1),
            say(2, 1, FROM, 1),
        ];
        let (one, two) = ((1, Access::Write), (2, Access::Write));
        assert_eq!(seen(&all(3, list), 3, 2), [one, two]);
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
            say(4, 1, OUT, 1),
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
        let gone = say(2, 3, OUT, 5);
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
        let banned = vec![say(1, 3, OUT, 7)];
        statements.take(id(1), banned, NOW).unwrap();
        assert_eq!(seen(&statements, 1, 8), [(2, Access::Write)]);
        assert_eq!(seen(&statements, 2, 8).len(), 2);
    }

    #[test]
    fn what_has_expired_does_not_count() {
        let mut statements = Statements::default();
        let list = vec![until(1, 2, WRITE, 50), say(2, 3, WRITE, 1)];
        statements.take(id(1), list, Timestamp(2)).unwrap();
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
        let future = say(1, 2, WRITE, NOW.0 + DAY + 1);
        let list = vec![future, say(7, 8, WRITE, 1), say(1, 3, WRITE, 1)];
        let e = statements.take(id(1), list, NOW).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        assert_eq!(statements.0.len(), 1);
        // The order in which statements come makes no difference.
        let list = vec![
            say(5, 6, WRITE, 1),
            say(4, 5, WRITE, 1),
            say(3, 4, WRITE, 1),
        ];
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
        // One is there already.
        let full = many(3, MAX_OF_ONE - 1);
        statements.take(id(1), full, NOW).unwrap();
        assert_eq!(statements.made_by(id(3).as_bytes()), MAX_OF_ONE);
        let e = statements.take(id(1), many(3, 5000), NOW).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TooLarge);
        assert_eq!(statements.made_by(id(3).as_bytes()), MAX_OF_ONE);
        for by in [1, 4, 5, 6] {
            let _ = statements.take(id(1), many(by, 1024), NOW);
        }
        assert_eq!(statements.0.len(), MAX_STATEMENTS);
        let e = statements.take(id(1), vec![say(6, 9, WRITE, 1)], NOW);
        assert_eq!(e.unwrap_err().kind(), ErrorKind::TooLarge);
        // What is there can still be taken back.
        assert!(statements.members(id(1), NOW).contains_key(&id(3)));
        let back = vec![say(1, 3, OUT, 9)];
        statements.take(id(1), back, NOW).unwrap();
        assert!(!statements.members(id(1), NOW).contains_key(&id(3)));
    }

    #[test]
    fn who_may_only_read_fills_nothing() {
        let mut statements = all(1, vec![say(1, 2, READ, 1), say(1, 3, WRITE, 1)]);
        let before = statements.clone();
        let puppets = 10..200;
        let mut many: Vec<_> = puppets.clone().map(|of| say(2, of, WRITE, 1)).collect();
        many.extend(puppets.map(|by| say(by, 9, WRITE, 1)));
        statements.take(id(1), many.clone(), NOW).unwrap();
        assert_eq!(statements, before);
        // While it might write, that counted; it goes when there is no room.
        statements
            .take(id(1), vec![say(1, 2, WRITE, 2)], NOW)
            .unwrap();
        statements.take(id(1), many, NOW).unwrap();
        assert_eq!(statements.0.len(), 2 + 2 * 190);
        statements
            .take(id(1), vec![say(1, 2, OUT, 3)], NOW)
            .unwrap();
        let said = say(1, 2, WRITE, 1).said;
        for n in statements.0.len()..MAX_STATEMENTS {
            let mut of = [0; 32];
            of[..8].copy_from_slice(&(n as u64).to_le_bytes());
            statements.0.insert((*id(2).as_bytes(), of), said);
        }
        let honest = vec![say(3, 4, WRITE, 1)];
        statements.take(id(1), honest, NOW).unwrap();
        assert_eq!(statements.0.len(), 3);
        assert_eq!(seen(&statements, 1, 4).len(), 2);
    }

    #[test]
    fn the_same_said_again_is_no_news_for_a_day() {
        let mut statements = all(1, vec![say(1, 2, WRITE, 10)]);
        let again = say(1, 2, WRITE, 11);
        assert!(!statements.is_news(&again, Timestamp(10 + DAY)));
        assert!(statements.is_news(&again, Timestamp(11 + DAY)));
        assert!(statements.is_news(&say(1, 2, READ, 11), NOW));
        assert!(!statements.is_news(&say(1, 2, READ, 9), NOW));
        let before = statements.clone();
        statements.take(id(1), vec![again], NOW).unwrap();
        assert_eq!(statements, before);
    }

    #[test]
    fn own_statements_are_made_once_and_get_over_a_clock_that_was_ahead() {
        let mut statements = Statements::default();
        let mut state = |what, now| {
            statements.state(&key(1), BUCKET, id(2), what, Timestamp(now));
            statements.besides(None)[0].said
        };
        let far = 3 * DAY;
        assert_eq!(state((WRITE, None), far).at, Timestamp(far));
        assert_eq!(state((WRITE, None), 10).at, Timestamp(10));
        assert_eq!(state((WRITE, None), 20).at, Timestamp(10));
        // It only ever goes on.
        assert_eq!(state((READ, None), 5).at, Timestamp(11));
        let back = state((OUT, None), 30);
        assert_eq!((back.what, back.at), (OUT, Timestamp(30)));
    }

    #[test]
    fn who_states_something_was_named_before() {
        // The other way round than by their keys.
        let mut chain: Vec<u8> = (1..60).collect();
        chain.sort_by_key(|n| Reverse(*id(*n).as_bytes()));
        let list = chain.windows(2).map(|of| say(of[0], of[1], WRITE, 1));
        let own = id(chain[0]);
        let mut statements = Statements::default();
        statements.take(own, list.collect(), NOW).unwrap();
        let mut parts = Statements::default();
        for said in statements.in_order(own, statements.besides(None), NOW) {
            parts.take(own, vec![said], NOW).unwrap();
        }
        assert_eq!(parts, statements);
        assert_eq!(parts.0.len(), 58);
    }

    #[test]
    fn what_others_lack_is_found() {
        let mut ours = all(1, vec![say(1, 2, WRITE, 1), say(2, 3, READ, 1)]);
        let theirs = ours.clone();
        assert_eq!(ours.digest(), theirs.digest());
        assert!(ours.besides(Some(&theirs)).is_empty());
        let news = vec![say(2, 3, OUT, 2)];
        ours.take(id(1), news.clone(), NOW).unwrap();
        assert_ne!(ours.digest(), theirs.digest());
        assert_eq!(ours.besides(Some(&theirs)), news);
        assert_eq!(ours.besides(None).len(), 2);
    }

    /// Believes more and more until nothing is added, without those in `out` of whom others joined.
    /// Returns what each may do, and of whom somebody joined.
    fn slowly(list: &[(u8, u8, Said)], out: &[u8]) -> (BTreeMap<u8, Access>, BTreeSet<u8>) {
        let (mut found, mut had) = (BTreeMap::new(), BTreeSet::new());
        let banned = |other: u8| {
            let is_out = |(by, of, said): &(u8, u8, Said)| (*by, *of, said.what) == (0, other, OUT);
            other == 0 || list.iter().any(is_out)
        };
        loop {
            let before = found.clone();
            for (by, of, said) in list {
                let believed = *by == 0 || before.get(by) == Some(&Access::Write);
                if !believed || said.is_over(Timestamp(10)) || banned(*of) {
                    continue;
                }
                if said.what == FROM {
                    had.insert(*of);
                }
                let access = match said.what {
                    What::Read => Access::Read,
                    What::Write => Access::Write,
                    What::From if !out.contains(of) => Access::Write,
                    _ => continue,
                };
                let known = found.entry(*of).or_insert(access);
                *known = access.max(*known);
            }
            if found == before {
                return (found, had);
            }
        }
    }

    /// Finds who is overruled step by step, by what makes that so.
    fn slowly_overruled(list: &[(u8, u8, Said)]) -> Vec<u8> {
        let mut out = Vec::new();
        let given = |without: &[u8], other: u8| {
            let (found, _) = slowly(list, without);
            list.iter().any(|(by, of, said)| {
                let believed = *by == 0 || found.get(by) == Some(&Access::Write);
                let is_givers = matches!(said.what, What::Out | What::Read | What::Write);
                believed && is_givers && *of == other && by != of
            })
        };
        loop {
            let had = slowly(list, &out).1;
            let had = had.into_iter().filter(|of| !out.contains(of));
            let doubted = had.filter(|of| given(&[&out[..], &[*of]].concat(), *of));
            let doubted: Vec<u8> = doubted.collect();
            let all = [&out[..], &doubted].concat();
            let sure = doubted.iter().copied().find(|of| given(&all, *of));
            let joined = |other: u8| {
                let own = list.iter().find(|(by, of, _)| (*by, *of) == (0, other));
                own.filter(|(.., said)| said.what == FROM)
                    .map(|(.., said)| said.at)
            };
            let key = |of: &u8| {
                (
                    joined(*of).is_some(),
                    Reverse(joined(*of)),
                    *id(*of).as_bytes(),
                )
            };
            match sure.or_else(|| doubted.iter().copied().min_by_key(key)) {
                Some(gone) => out.push(gone),
                None => return out,
            }
        }
    }

    #[test]
    fn who_is_a_member_is_as_by_the_slow_way() {
        let ids: Vec<Raw> = (0..8).map(|n| *id(n).as_bytes()).collect();
        let said = say(1, 2, WRITE, 1).said;
        let mut overruled = 0;
        for seed in 0..3000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut list = BTreeMap::new();
            for _ in 0..rng.usize(0..28) {
                let what = [What::Nothing, OUT, READ, WRITE, WRITE, FROM, FROM, FROM];
                let expires = [None, None, Some(Timestamp(5)), Some(Timestamp(15))];
                let said = Said {
                    what: what[rng.usize(0..what.len())],
                    expires: expires[rng.usize(0..4)],
                    at: Timestamp(rng.i64(0..5)),
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
            let out = slowly_overruled(&list);
            overruled += out.len();
            assert_eq!(found, slowly(&list, &out).0, "seed {seed}");
        }
        assert!(overruled > 300, "{overruled}");
    }
}
