//! What tests need to see that a panic becomes an exception; a release has none of this.

use alknet_fs::{Error, ErrorKind};
use napi::bindgen_prelude::ToNapiValue;
use napi::sys;
use napi_derive::napi;

use crate::job::{Outcome, run, run_on};
use crate::lane::Lane;

/// A value that cannot become one of JavaScript.
pub struct Panicking;

impl ToNapiValue for Panicking {
    unsafe fn to_napi_value(_: sys::napi_env, _: Self) -> napi::Result<sys::napi_value> {
        panic!("as the test wants")
    }
}

/// Panics in an operation on libuv's pool, in one on a lane, or when its value is handed over.
#[napi]
pub fn panic(place: String, later: bool) -> napi::Result<Outcome<Panicking>> {
    match place.as_str() {
        "pool" => run(later, || panic!("as the test wants")),
        "lane" => run_on(Lane::common(), later, || panic!("as the test wants")),
        "pool value" => run(later, || Ok(Panicking)),
        "lane value" => run_on(Lane::common(), later, || Ok(Panicking)),
        _ => run(later, || Err(Error::new(ErrorKind::InvalidInput))),
    }
}
