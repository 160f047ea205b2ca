//! What goes over a stream: the greeting, and frames behind their lengths.

use std::fmt;

use alknet_fs_core::sync::{MAX_FRAME, MAX_SCOPES, PROTOCOL, ReplicaId, Scope};
use iroh::EndpointId;
use iroh::endpoint::{ReadExactError, RecvStream, SendStream, VarInt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cover::{Cover, Role};
use crate::grant::{Access, BucketUid, GrantId, Refusal, Secret};
use crate::members::Statement;
use crate::status::Lacks;
use crate::ticket::Addrs;

/// The name of the protocol on a connection.
pub const ALPN: &[u8] = b"alknet-fs/sync/1";

/// The version of the greeting, its first byte.
const GREETING: u8 = 1;

/// The longest question that begins a stream, in bytes.
pub(crate) const MAX_HELLO: usize = 4 << 10;

/// The longest answer to it.
pub(crate) const MAX_ANSWER: usize = 256 << 10;

/// The longest word on contents, in bytes.
const MAX_LACKING: usize = 64;

/// The longest word on members, in bytes.
const MAX_MEMBERS: usize = 64 << 10;

/// The versions of the protocol that a peer may list.
const MAX_VERSIONS: usize = 16;

/// The tickets that a peer may present.
pub(crate) const MAX_TICKETS: usize = 16;

/// How a bucket is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The versions of the protocol that the asking side speaks.
    pub(crate) versions: Vec<u8>,
    pub(crate) bucket: BucketUid,
    /// What its tickets say, as long as the answering side may not know the key.
    pub(crate) tickets: Vec<(GrantId, Secret)>,
    /// Where the asking side can be reached.
    pub(crate) addrs: Addrs,
    /// The replica of the bucket that the asking side is.
    pub(crate) replica: ReplicaId,
    /// The digest of the statements on members that the asking side has, where it exchanges any.
    pub(crate) statements: Option<[u8; 16]>,
    /// Where it asks as a member, without a grant: what it allows the answering side.
    pub(crate) allows: Option<Access>,
}

impl Hello {
    /// Returns the newest version that both sides speak.
    pub(crate) fn version(&self) -> Option<u8> {
        self.versions.contains(&PROTOCOL).then_some(PROTOCOL)
    }
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Welcome(Welcome),
    Refused {
        reason: Refusal,
        /// The versions of the protocol that the answering side speaks.
        versions: Vec<u8>,
    },
}

/// The terms of the conversation that follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) version: u8,
    pub(crate) access: Access,
    pub(crate) scopes: Scopes,
    /// Where the answering side can be reached.
    pub(crate) addrs: Addrs,
    /// The replica of the bucket that the answering side is.
    pub(crate) replica: ReplicaId,
    /// The digest of the statements on members that the answering side has, where it exchanges any.
    pub(crate) statements: Option<[u8; 16]>,
}

/// The scopes that are covered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Scopes {
    /// All of the bucket: what is allowed is allowed with each.
    All,
    /// These, in order, and whether each may be written.
    Only(Vec<(Scope, bool)>),
    /// All of the bucket to read, and these, in order, as it is said of each.
    Besides(Vec<(Scope, bool)>),
}

impl Scopes {
    pub(crate) fn of(cover: &Cover) -> Self {
        let scopes = cover.scopes.iter();
        let scopes = scopes.map(|(scope, access)| (*scope, *access == Access::Write));
        let scopes: Vec<_> = scopes.collect();
        match cover.others {
            Some(_) if scopes.is_empty() => Self::All,
            Some(_) => Self::Besides(scopes),
            None => Self::Only(scopes),
        }
    }
}

impl Welcome {
    pub(crate) fn cover(&self) -> Option<Cover> {
        let (scopes, others) = match &self.scopes {
            Scopes::All => return Some(Cover::all(self.access)),
            Scopes::Only(scopes) => (scopes, None),
            Scopes::Besides(scopes) => (scopes, Some(Access::Read)),
        };
        let access = |write: bool| if write { Access::Write } else { Access::Read };
        let each = scopes.iter().map(|(scope, write)| (*scope, access(*write)));
        (scopes.len() <= MAX_SCOPES).then(|| Cover {
            scopes: each.collect(),
            others,
        })
    }
}

/// What is said on a stream of its own, one way, that ends with it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    Lacking(Lacking),
    Members(Members),
}

/// What is said of the contents that a node does not hold.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lacking {
    pub(crate) bucket: BucketUid,
    /// On which side of the grant whoever says it is.
    pub(crate) role: Role,
    /// The digest of what it knows.
    pub(crate) state: [u8; 16],
    pub(crate) lacks: Lacks,
}

/// What is said of who takes part in a bucket.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    pub(crate) bucket: BucketUid,
    pub(crate) statements: Vec<Statement>,
    /// Where some of them may be.
    pub(crate) hints: Vec<(EndpointId, Addrs)>,
}

impl Members {
    /// Says all of it in as few words as it takes.
    pub(crate) fn words(
        bucket: BucketUid,
        statements: Vec<Statement>,
        hints: Vec<(EndpointId, Addrs)>,
    ) -> Vec<Word> {
        // What a statement takes at most, and what is left for what is around it.
        const STATEMENT: usize = 192;
        const ROOM: usize = MAX_MEMBERS - 64;
        let empty = || Self {
            bucket,
            statements: Vec::new(),
            hints: Vec::new(),
        };
        let (mut words, mut next, mut used) = (Vec::new(), empty(), 0);
        let mut need = |next: &mut Self, size: usize| {
            if used + size > ROOM {
                words.push(Word::Members(std::mem::replace(next, empty())));
                used = 0;
            }
            used += size;
        };
        for statement in statements {
            need(&mut next, STATEMENT);
            next.statements.push(statement);
        }
        for hint in hints {
            let size = postcard::to_extend(&hint, Vec::new()).map_or(ROOM, |bytes| bytes.len());
            if size < ROOM {
                need(&mut next, size);
                next.hints.push(hint);
            }
        }
        words.push(Word::Members(next));
        words
    }
}

impl Word {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Writing to memory cannot fail.
        postcard::to_extend(self, vec![GREETING]).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let longest = longest(bytes)?;
        decode(bytes).ok().filter(|_| bytes.len() <= longest)
    }

    /// Reads a word, which takes up the rest of its stream; nothing where that is none.
    pub(crate) async fn read(recv: &mut RecvStream) -> Option<Self> {
        let mut begin = [0; 2];
        recv.read_exact(&mut begin).await.ok()?;
        let longest = longest(&begin)?;
        let rest = recv.read_to_end(longest - begin.len()).await.ok()?;
        Self::decode(&[&begin[..], &rest].concat())
    }
}

/// Returns how long a word may be, which begins like this.
fn longest(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [GREETING, 0, ..] => Some(MAX_LACKING),
        [GREETING, 1, ..] => Some(MAX_MEMBERS),
        _ => None,
    }
}

/// How a stream is ended before its time, as the code that it is reset with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The node stops, or the bucket is no longer shared here.
    Stopping = 1,
    /// The grant was taken back.
    Revoked = 2,
    /// The grant's time is over.
    Expired = 3,
    /// The other side said what it must not say.
    Protocol = 4,
    /// The store of the side that ends the stream failed.
    Store = 5,
    /// Another stream takes the place of this one.
    Replaced = 6,
    /// The grant changed: ask again.
    Changed = 7,
    /// Nothing was said for long.
    Idle = 8,
}

impl Code {
    const ALL: [Self; 8] = [
        Self::Stopping,
        Self::Revoked,
        Self::Expired,
        Self::Protocol,
        Self::Store,
        Self::Replaced,
        Self::Changed,
        Self::Idle,
    ];

    pub(crate) fn from_wire(code: VarInt) -> Option<Self> {
        let is = |this: &Self| VarInt::from(*this) == code;
        Self::ALL.into_iter().find(is)
    }

    /// Tells whether to come back at once is what the other side expects.
    pub(crate) fn is_prompt(self) -> bool {
        matches!(self, Self::Changed | Self::Stopping)
    }
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopping => "it stopped",
            Self::Revoked => "the grant was revoked: ask for a new ticket",
            Self::Expired => "the grant has expired: ask for a new ticket",
            Self::Protocol => "it refused what this node sent: update both nodes",
            Self::Store => "its store failed",
            Self::Replaced => "another conversation took the place of this one",
            Self::Changed => "the grant changed",
            Self::Idle => "there was no news for long",
        })
    }
}

/// Why nothing more comes from a stream.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The other side ended the stream.
    Ended(Option<Code>),
    /// The connection is gone.
    Connection(String),
    /// What came is not what may come.
    Malformed(&'static str),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(Some(code)) => code.fmt(f),
            Self::Ended(None) => f.write_str("it ended the conversation"),
            Self::Connection(why) => f.write_str(why),
            Self::Malformed(why) => f.write_str(why),
        }
    }
}

impl From<iroh::endpoint::ReadError> for Lost {
    fn from(error: iroh::endpoint::ReadError) -> Self {
        match error {
            iroh::endpoint::ReadError::Reset(code) => Self::Ended(Code::from_wire(code)),
            other => Self::Connection(other.to_string()),
        }
    }
}

impl From<ReadExactError> for Lost {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::ReadError(error) => error.into(),
            ReadExactError::FinishedEarly(0) => Self::Ended(None),
            ReadExactError::FinishedEarly(_) => Self::Malformed("the stream ends within a frame"),
        }
    }
}

impl From<iroh::endpoint::WriteError> for Lost {
    fn from(error: iroh::endpoint::WriteError) -> Self {
        match error {
            iroh::endpoint::WriteError::Stopped(code) => Self::Ended(Code::from_wire(code)),
            other => Self::Connection(other.to_string()),
        }
    }
}

/// Reads what follows its length, at most `max` bytes.
pub(crate) async fn read(recv: &mut RecvStream, max: usize) -> Result<Vec<u8>, Lost> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 || length > max {
        return Err(Lost::Malformed(
            "a frame is empty or over its longest length",
        ));
    }
    // A length is only a claim: memory grows with what arrives.
    let mut bytes = Vec::with_capacity(length.min(16 << 10));
    while bytes.len() < length {
        let from = bytes.len();
        bytes.resize((from * 2).clamp(16 << 10, MAX_FRAME).min(length), 0);
        recv.read_exact(&mut bytes[from..]).await?;
    }
    Ok(bytes)
}

/// Puts the length before what is sent.
pub(crate) fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut framed = Vec::with_capacity(4 + bytes.len());
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(bytes);
    framed
}

/// Says a part of the greeting.
pub(crate) async fn greet(send: &mut SendStream, what: &impl Serialize) -> Result<(), Lost> {
    // Writing to memory cannot fail.
    let bytes = postcard::to_extend(what, vec![GREETING]).unwrap_or_default();
    Ok(send.write_all(&framed(&bytes)).await?)
}

/// Hears a part of the greeting.
pub(crate) async fn hear<T: DeserializeOwned>(
    recv: &mut RecvStream,
    max: usize,
) -> Result<T, Greeting> {
    let bytes = read(recv, max).await.map_err(Greeting::Lost)?;
    decode(&bytes)
}

/// Why a greeting was not understood.
#[derive(Debug)]
pub(crate) enum Greeting {
    Lost(Lost),
    /// It is of another version.
    Version,
    Malformed,
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Greeting> {
    match bytes.split_first() {
        Some((&GREETING, bytes)) => match postcard::take_from_bytes(bytes) {
            Ok((greeting, [])) => Ok(greeting),
            _ => Err(Greeting::Malformed),
        },
        Some(_) => Err(Greeting::Version),
        None => Err(Greeting::Malformed),
    }
}

/// Reads the question that begins a stream, from its bytes without their length.
pub(crate) fn hello(bytes: &[u8]) -> Result<Hello, Refusal> {
    match decode::<Hello>(bytes) {
        Ok(hello) if hello.versions.len() <= MAX_VERSIONS && hello.tickets.len() <= MAX_TICKETS => {
            Ok(hello)
        }
        Err(Greeting::Version) => Err(Refusal::Version),
        _ => Err(Refusal::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use alknet_fs_core::Timestamp;

    use super::*;
    use crate::members::What;

    #[test]
    fn the_longest_word_on_contents_fits_and_others_are_none() {
        let said = Word::Lacking(Lacking {
            bucket: BucketUid([255; 16]),
            role: Role::Member,
            state: [255; 16],
            lacks: Lacks {
                contents: u64::MAX,
                bytes: u64::MAX,
            },
        });
        let bytes = said.encode();
        assert!(bytes.len() <= MAX_LACKING, "{}", bytes.len());
        assert_eq!(Word::decode(&bytes), Some(said));
        for len in 0..bytes.len() {
            assert_eq!(Word::decode(&bytes[..len]), None);
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Word::decode(&longer), None);
        for at in 0..2 {
            let mut other = bytes.clone();
            other[at] += 9;
            assert_eq!(Word::decode(&other), None);
        }
    }

    #[test]
    fn a_greeting_lists_so_many_versions_and_tickets_and_no_more() {
        let greeting = |versions: u8, tickets: usize| {
            let hello = Hello {
                versions: (0..versions).collect(),
                bucket: BucketUid([1; 16]),
                tickets: vec![(GrantId([1; 16]), Secret([1; 32])); tickets],
                addrs: Addrs::default(),
                replica: ReplicaId([1; 16]),
                statements: None,
                allows: None,
            };
            let bytes = postcard::to_extend(&hello, vec![GREETING]).unwrap();
            assert!(bytes.len() <= MAX_HELLO);
            super::hello(&bytes).map(|hello| (hello.versions.len(), hello.tickets.len()))
        };
        assert_eq!(greeting(16, 16), Ok((MAX_VERSIONS, MAX_TICKETS)));
        assert_eq!(greeting(17, 0), Err(Refusal::Malformed));
        assert_eq!(greeting(1, 17), Err(Refusal::Malformed));
    }

    #[test]
    fn a_welcome_covers_so_many_branches_and_no_more() {
        let covered = |count: usize, besides: bool| {
            let scopes = (0..count).map(|n| (Scope((n as u128).to_be_bytes()), n % 2 == 0));
            let welcome = Welcome {
                version: PROTOCOL,
                access: Access::Write,
                scopes: match besides {
                    true => Scopes::Besides(scopes.collect()),
                    false => Scopes::Only(scopes.collect()),
                },
                addrs: Addrs::default(),
                replica: ReplicaId([1; 16]),
                statements: None,
            };
            let bytes = postcard::to_extend(&Answer::Welcome(welcome), vec![GREETING]).unwrap();
            assert!(bytes.len() <= MAX_ANSWER, "{}", bytes.len());
            match decode(&bytes) {
                Ok(Answer::Welcome(welcome)) => welcome.cover(),
                other => panic!("{other:?}"),
            }
        };
        for (besides, others) in [(false, None), (true, Some(Access::Read))] {
            let cover = covered(MAX_SCOPES, besides).unwrap();
            assert_eq!((cover.scopes.len(), cover.others), (MAX_SCOPES, others));
            assert_eq!(covered(MAX_SCOPES + 1, besides), None);
        }
    }

    #[test]
    fn what_is_covered_is_understood_as_it_was_meant() {
        let (read, write) = (Access::Read, Access::Write);
        let scopes = [(Scope([1; 16]), write)];
        let cover = |scopes: &[(Scope, Access)], others| Cover {
            scopes: scopes.iter().copied().collect(),
            others,
        };
        for (cover, access) in [
            (Cover::all(read), read),
            (Cover::all(write), write),
            (cover(&scopes, None), write),
            (cover(&scopes, Some(read)), write),
            (cover(&[], None), read),
            (cover(&[], Some(read)), read),
        ] {
            assert_eq!(cover.most(), access);
            let welcome = Welcome {
                version: PROTOCOL,
                access,
                scopes: Scopes::of(&cover),
                addrs: Addrs::default(),
                replica: ReplicaId([1; 16]),
                statements: None,
            };
            assert_eq!(welcome.cover(), Some(cover));
        }
    }

    #[test]
    fn a_word_on_members_is_as_long_as_it_may_be_and_no_longer() {
        let key = iroh::SecretKey::from_bytes(&[7; 32]);
        let word = |length: usize| {
            let addrs = Addrs {
                direct: Vec::new(),
                relays: vec!["x".repeat(length)],
            };
            let said = Word::Members(Members {
                bucket: BucketUid([1; 16]),
                statements: Vec::new(),
                hints: vec![(key.public(), addrs)],
            });
            (said.encode(), said)
        };
        let around = word(60_000).0.len() - 60_000;
        let (bytes, said) = word(MAX_MEMBERS - around);
        assert_eq!(bytes.len(), MAX_MEMBERS);
        assert_eq!(Word::decode(&bytes), Some(said));
        let (bytes, _) = word(MAX_MEMBERS - around + 1);
        assert_eq!(bytes.len(), MAX_MEMBERS + 1);
        assert_eq!(Word::decode(&bytes), None);
    }

    #[test]
    fn what_is_said_of_members_is_cut_into_words_that_fit() {
        let key = iroh::SecretKey::from_bytes(&[7; 32]);
        let bucket = BucketUid([255; 16]);
        let what = (What::Write, Some(Timestamp(i64::MIN)));
        let one = Statement::make(&key, bucket, key.public(), what, Timestamp(i64::MIN));
        let addrs = |length: usize| Addrs {
            direct: vec!["[::1]:65535".parse().unwrap(); 32],
            relays: vec!["x".repeat(length); 32],
        };
        let mut hints = vec![(key.public(), addrs(100)); 50];
        // It would fill a word by itself.
        hints.push((key.public(), addrs(4000)));
        let words = Members::words(bucket, vec![one; 4096], hints);
        let (mut statements, mut hints) = (0, 0);
        for word in words {
            let bytes = word.encode();
            assert!(bytes.len() <= MAX_MEMBERS, "{}", bytes.len());
            match Word::decode(&bytes) {
                Some(Word::Members(members)) => {
                    statements += members.statements.len();
                    hints += members.hints.len();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((statements, hints), (4096, 50));
    }
}
