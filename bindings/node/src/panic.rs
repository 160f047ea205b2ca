//! What tests need to see that a panic becomes an exception; a release has none of this.

use napi_derive::napi;

use crate::job::{Outcome, run};

/// Panics, here or on libuv's pool.
#[napi]
pub fn panic(later: bool) -> napi::Result<Outcome<()>> {
    run(later, || panic!("as the test wants"))
}
