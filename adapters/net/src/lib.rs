//! How alknet-fs nodes reach each other.
//!
//! A [`Net`] is one iroh endpoint over a store: it lets in whom a [`Grant`] names, keeps connections to
//! the nodes that it joined, and leads one conversation for each bucket and peer
//! (`docs/protocol.md`, "Transport"). What was shared and joined is kept in the store ([`Records`]), so
//! any process can change it; the running node follows.

mod cover;
#[doc(hidden)]
pub mod decoders;
mod driver;
mod gossip;
mod grant;
mod members;
mod net;
mod quota;
mod records;
mod replicas;
mod status;
mod ticket;
mod time;
mod wire;

pub use grant::{Access, BucketUid, Grant, GrantId, Key, Refusal, Secret};
pub use members::Member;
pub use net::{Bind, Ending, Net, NetOptions, Relays, reserve};
pub use records::{Joined, Known, Offer, Records, secret_key, share};
pub use replicas::Replicas;
pub use status::{Behind, Lacks, Link, Status};
pub use ticket::Ticket;
pub use wire::ALPN;

pub use iroh::{EndpointAddr, EndpointId, RelayUrl, SecretKey};
