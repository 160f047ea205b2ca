//! Endpoints on this machine.

use iroh::endpoint::presets;
use iroh::{Endpoint, EndpointAddr, TransportAddr};

pub async fn endpoint() -> Endpoint {
    let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
    let builder = builder.bind_addr("127.0.0.1:0").unwrap();
    builder.bind().await.unwrap()
}

/// Where an endpoint can be reached on this machine.
pub fn addr(endpoint: &Endpoint) -> EndpointAddr {
    let sockets = endpoint.bound_sockets().into_iter().map(TransportAddr::Ip);
    EndpointAddr::from_parts(endpoint.id(), sockets)
}
