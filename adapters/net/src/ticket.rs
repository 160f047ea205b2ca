//! Tickets: what somebody hands over to let another node in.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use alknet_fs_core::{Error, ErrorKind, Result, Timestamp};
use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr};
use iroh_tickets::{ParseError, Ticket as _};
use serde::{Deserialize, Serialize};

use crate::grant::{Access, BucketUid, GrantId, Secret};

/// The version of a ticket's bytes, the first of them.
const VERSION: u8 = 1;

/// How many bytes of a BLAKE3 hash follow a ticket's bytes.
const CHECK: usize = 4;

/// Where a bucket is, and the right to it: made by [`share`](crate::share), handed over as text.
///
/// Whoever has the text has the right, until the grant behind it expires or is revoked.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The node that shares, with what is known of how to reach it.
    pub addr: EndpointAddr,
    /// The bucket.
    pub bucket: BucketUid,
    /// The bucket's name where it is shared from.
    pub name: String,
    /// What may be done with it.
    pub access: Access,
    /// The names of the branches that are shared; none for the whole bucket.
    pub branches: Vec<String>,
    /// The grant that the ticket stands for.
    pub grant: GrantId,
    /// What proves that the ticket was given out.
    pub secret: Secret,
    /// When the grant ends, if ever.
    pub expires: Option<Timestamp>,
}

/// What a ticket is as bytes: plain fields, so that it does not change with what iroh calls them.
#[derive(Serialize, Deserialize)]
struct Wire {
    peer: [u8; 32],
    addrs: Addrs,
    bucket: BucketUid,
    name: String,
    access: Access,
    branches: Vec<String>,
    grant: GrantId,
    secret: Secret,
    expires: Option<Timestamp>,
}

/// The addresses of a node, as plain values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Addrs {
    pub(crate) direct: Vec<SocketAddr>,
    pub(crate) relays: Vec<String>,
}

/// The most addresses of a node that are believed.
const MAX_ADDRS: usize = 32;

/// The most of each kind that are believed where others say them.
const MAX_HINTED: usize = 8;

/// The longest address of a relay that is believed, in bytes.
const MAX_URL: usize = 255;

impl Addrs {
    pub(crate) fn of(addr: &EndpointAddr) -> Self {
        let relays = addr.relay_urls().map(ToString::to_string);
        Self {
            direct: addr.ip_addrs().copied().take(MAX_ADDRS).collect(),
            relays: relays.take(MAX_ADDRS).collect(),
        }
    }

    pub(crate) fn with_id(&self, id: EndpointId) -> EndpointAddr {
        let direct = self.direct.iter().map(|addr| TransportAddr::Ip(*addr));
        let relays = self.relays.iter().filter_map(|url| url.parse().ok());
        let relays = relays.map(|url: RelayUrl| TransportAddr::Relay(url));
        EndpointAddr::from_parts(id, direct.take(MAX_ADDRS).chain(relays.take(MAX_ADDRS)))
    }

    /// Returns no more of what a peer said of itself than is believed.
    pub(crate) fn limited(mut self) -> Self {
        self.direct.truncate(MAX_ADDRS);
        self.relays.retain(|url| url.len() <= MAX_URL);
        self.relays.truncate(MAX_ADDRS);
        self
    }

    /// Returns what is believed where others say it: nothing that leads to this machine, unless this node
    /// is reached only `here`, or to many at once, and no relays but those.
    pub(crate) fn hinted(self, here: bool, relays: &[RelayUrl]) -> Self {
        let mut hinted = self.through(relays);
        hinted.direct.retain(|addr| {
            let ip = addr.ip().to_canonical();
            let many = ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
            let leads = addr.port() != 0 && !ip.is_unspecified() && !many;
            leads && (here || !ip.is_loopback())
        });
        hinted.direct.truncate(MAX_HINTED);
        hinted.relays.truncate(MAX_HINTED);
        hinted
    }

    /// Leaves out all relays but those.
    pub(crate) fn through(self, relays: &[RelayUrl]) -> Self {
        let mut through = self.limited();
        through.relays.retain(|url| {
            let url = url.parse::<RelayUrl>();
            url.is_ok_and(|url| relays.contains(&url))
        });
        through
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.relays.is_empty()
    }
}

impl iroh_tickets::Ticket for Ticket {
    const KIND: &'static str = "alkfs";

    fn encode_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            peer: *self.addr.id.as_bytes(),
            addrs: Addrs::of(&self.addr),
            bucket: self.bucket,
            name: self.name.clone(),
            access: self.access,
            branches: self.branches.clone(),
            grant: self.grant,
            secret: self.secret.clone(),
            expires: self.expires,
        };
        // Writing to memory cannot fail.
        let mut bytes = postcard::to_extend(&wire, vec![VERSION]).unwrap_or_default();
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK]);
        bytes
    }

    fn decode_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        let failed = |why| Err(ParseError::verification_failed(why));
        let Some((bytes, check)) = bytes.split_last_chunk::<CHECK>() else {
            return failed("it is too short");
        };
        if blake3::hash(bytes).as_bytes()[..CHECK] != check[..] {
            return failed("it does not match its check");
        }
        let Some((&VERSION, bytes)) = bytes.split_first() else {
            return failed("a newer version made it");
        };
        let (wire, rest) = postcard::take_from_bytes::<Wire>(bytes)?;
        let Ok(peer) = EndpointId::from_bytes(&wire.peer) else {
            return failed("it names no node");
        };
        if !rest.is_empty() {
            return failed("it is too long");
        }
        Ok(Self {
            addr: wire.addrs.with_id(peer),
            bucket: wire.bucket,
            name: wire.name,
            access: wire.access,
            branches: wire.branches,
            grant: wire.grant,
            secret: wire.secret,
            expires: wire.expires,
        })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode_string())
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("addr", &self.addr)
            .field("bucket", &self.bucket)
            .field("name", &self.name)
            .field("access", &self.access)
            .field("branches", &self.branches)
            .field("grant", &self.grant)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = Error;

    /// Reads a ticket; space in it, as of broken lines, is passed over.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for what is no ticket, or not all of one.
    fn from_str(text: &str) -> Result<Self> {
        let text: String = text.split_whitespace().collect();
        let text = text.to_ascii_lowercase();
        let invalid = |why: String| Error::with_detail(ErrorKind::InvalidInput, why);
        Self::decode_string(&text).map_err(|e| match e {
            ParseError::Kind { expected, .. } => invalid(format!(
                "that is no ticket: one begins with {expected}, as alkfs share prints it"
            )),
            ParseError::Verify {
                message: "a newer version made it",
                ..
            } => invalid("a newer version of alkfs made the ticket: update this one".to_owned()),
            _ => invalid(
                "the ticket is incomplete or was altered: copy it again, from its first letter to its last"
                    .to_owned(),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let key = iroh::SecretKey::from_bytes(&[7; 32]).public();
        let addrs = Addrs {
            direct: vec!["127.0.0.1:4000".parse().unwrap()],
            relays: vec!["https://relay.example/".to_owned()],
        };
        Ticket {
            addr: addrs.with_id(key),
            bucket: BucketUid([1; 16]),
            name: "work".to_owned(),
            access: Access::Read,
            branches: vec!["main".to_owned()],
            grant: GrantId([2; 16]),
            secret: Secret([3; 32]),
            expires: Some(Timestamp(5)),
        }
    }

    #[test]
    fn hints_lead_to_single_nodes_elsewhere_by_known_relays() {
        let relay = |url: &str| url.parse::<RelayUrl>().unwrap();
        let bad = [
            "127.0.0.1:5",
            "[::1]:5",
            "[::ffff:127.0.0.1]:5",
            "0.0.0.0:5",
            "[::]:5",
            "224.0.0.1:5",
            "[ff02::1]:5",
            "255.255.255.255:5",
            "10.0.0.1:0",
        ];
        let all = Addrs {
            direct: bad
                .iter()
                .chain(&["10.0.0.1:5"])
                .map(|addr| addr.parse().unwrap())
                .collect(),
            relays: vec![
                "https://own.example/".to_owned(),
                "https://other.example/".to_owned(),
                "nonsense".to_owned(),
            ],
        };
        let own = [relay("https://own.example")];
        let hinted = all.clone().hinted(false, &own);
        assert_eq!(hinted.direct, ["10.0.0.1:5".parse().unwrap()]);
        assert_eq!(hinted.relays, ["https://own.example/"]);
        assert_eq!(all.clone().hinted(true, &own).direct.len(), 4);
        assert_eq!(all.clone().through(&own).direct.len(), 10);
        let many = Addrs {
            direct: vec!["10.0.0.1:5".parse().unwrap(); 30],
            ..all
        };
        assert_eq!(many.hinted(false, &[]).direct.len(), MAX_HINTED);
    }

    #[test]
    fn so_many_addresses_are_believed_and_no_more() {
        let addrs = |count: u16, url: usize| Addrs {
            direct: (0..count).map(|n| ([10, 0, 0, 1], 1 + n).into()).collect(),
            relays: (0..count).map(|n| format!("{n:0>url$}")).collect(),
        };
        assert_eq!(addrs(32, 255).limited(), addrs(32, 255));
        assert_eq!(addrs(33, 255).limited(), addrs(32, 255));
        assert_eq!(addrs(32, 256).limited().relays, [""; 0]);
        let relay = |n: u16| format!("https://{n}.example/");
        let urls = |count: u16| (0..count).map(relay).collect::<Vec<_>>();
        let own: Vec<RelayUrl> = urls(20).iter().map(|url| url.parse().unwrap()).collect();
        let hinted = |count: u16| {
            let relays = urls(count);
            let hinted = Addrs {
                relays,
                ..addrs(count, 1)
            }
            .hinted(false, &own);
            (hinted.direct.len(), hinted.relays.len())
        };
        assert_eq!(hinted(8), (MAX_HINTED, MAX_HINTED));
        assert_eq!(hinted(9), (MAX_HINTED, MAX_HINTED));
        // A ticket has no more either.
        let many = Addrs {
            relays: urls(33),
            ..addrs(33, 1)
        };
        let all = many.with_id(ticket().addr.id);
        assert_eq!((all.ip_addrs().count(), all.relay_urls().count()), (32, 32));
    }

    #[test]
    fn a_ticket_comes_back_from_its_text() {
        let text = ticket().to_string();
        assert!(text.starts_with("alkfs"));
        assert_eq!(text.parse::<Ticket>().unwrap(), ticket());
        let (a, b) = text.split_at(40);
        let broken = format!("  {}\n {b}\n", a.to_uppercase());
        assert_eq!(broken.parse::<Ticket>().unwrap(), ticket());
    }

    #[test]
    fn altered_and_foreign_texts_are_refused_with_what_to_do() {
        let text = ticket().to_string();
        let message = |text: &str| text.parse::<Ticket>().unwrap_err().to_string();
        for cut in 5..text.len() {
            assert!(message(&text[..cut]).contains("copy it again"), "{cut}");
        }
        for at in 5..text.len() {
            let other = if &text[at..=at] == "a" { "b" } else { "a" };
            let altered = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(message(&altered).contains("altered"), "{at}");
        }
        for foreign in ["", "hello", "endpointabc", "alkf"] {
            assert!(message(foreign).contains("no ticket"), "{foreign}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?} {:?}", ticket(), Secret([3; 32]));
        assert!(!shown.contains("3, 3"));
    }
}
