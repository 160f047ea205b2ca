//! Tickets: as texts, and as bytes whose check is right.
#![no_main]

use alknet_fs_net::Ticket;
use iroh_tickets::Ticket as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(ticket) = text.parse::<Ticket>()
    {
        let again = ticket.to_string().parse::<Ticket>();
        assert_eq!(again.map(|t| t.to_string()).ok(), Some(ticket.to_string()));
    }
    let check = blake3::hash(bytes);
    let checked = [bytes, &check.as_bytes()[..4]].concat();
    if let Ok(ticket) = Ticket::decode_bytes(&checked) {
        let again = Ticket::decode_bytes(&ticket.encode_bytes());
        assert_eq!(again.map(|t| t.to_string()).ok(), Some(ticket.to_string()));
    }
});
