//! Values on their way between the engine and JavaScript.

use alknet_fs::{Entry, Error, ErrorKind, Follow, Kind, Node, SetAttrs, Timestamp};
use napi::bindgen_prelude::{BigInt, BufferSlice, ToNapiValue, TypeName};
use napi::{Env, ValueType};
use napi_derive::napi;

/// Bytes that become a Buffer: small ones are copied into V8's heap, which is faster than to have
/// it track memory of somebody else; large ones are handed over.
pub struct Bytes(pub(crate) Vec<u8>);

const COPIED: usize = 16 * 1024;

impl TypeName for Bytes {
    fn type_name() -> &'static str {
        "Buffer"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl ToNapiValue for Bytes {
    unsafe fn to_napi_value(
        env: napi::sys::napi_env,
        bytes: Self,
    ) -> napi::Result<napi::sys::napi_value> {
        let wrapped = Env::from_raw(env);
        let slice = if bytes.0.len() <= COPIED {
            BufferSlice::copy_from(&wrapped, &bytes.0)?
        } else {
            BufferSlice::from_data(&wrapped, bytes.0)?
        };
        // SAFETY: as the caller's.
        unsafe { BufferSlice::to_napi_value(env, slice) }
    }
}

/// An entry's attributes as numbers, in the order that the TypeScript layer reads: kind (0 file,
/// 1 directory, 2 link), mode, uid, gid, size, and seconds and nanoseconds of mtime and ctime.
pub(crate) type StatNumbers = Vec<f64>;

pub(crate) fn stat_numbers(entry: &Entry) -> StatNumbers {
    let attrs = entry.attrs;
    let (mtime, mtime_ns) = seconds(attrs.mtime);
    let (ctime, ctime_ns) = seconds(attrs.ctime);
    vec![
        f64::from(kind_number(entry.kind())),
        f64::from(attrs.mode),
        f64::from(attrs.uid),
        f64::from(attrs.gid),
        entry.size() as f64,
        mtime,
        mtime_ns,
        ctime,
        ctime_ns,
    ]
}

pub(crate) fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::File => 0,
        Kind::Dir => 1,
        Kind::Symlink => 2,
    }
}

fn seconds(time: Timestamp) -> (f64, f64) {
    const NANOS: i64 = 1_000_000_000;
    (
        time.0.div_euclid(NANOS) as f64,
        time.0.rem_euclid(NANOS) as f64,
    )
}

/// All that is known of an entry.
#[napi(object)]
pub struct EntryInfo {
    pub kind: String,
    pub size: f64,
    pub hash: Option<String>,
    pub target: Option<String>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: BigInt,
    pub ctime: BigInt,
}

impl From<&Entry> for EntryInfo {
    fn from(entry: &Entry) -> Self {
        let hash = match entry.node {
            Node::File { hash, .. } => Some(hash.to_hex()),
            _ => None,
        };
        Self {
            kind: entry.kind().name().to_owned(),
            size: entry.size() as f64,
            hash,
            target: entry.target().map(str::to_owned),
            mode: entry.attrs.mode,
            uid: entry.attrs.uid,
            gid: entry.attrs.gid,
            mtime: entry.attrs.mtime.0.into(),
            ctime: entry.attrs.ctime.0.into(),
        }
    }
}

/// Attributes to set; what is absent stays.
#[napi(object)]
#[derive(Default)]
pub struct Attributes {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<BigInt>,
}

impl Attributes {
    pub(crate) fn set(self) -> Result<SetAttrs, Error> {
        let mtime = self.mtime.map(|time| match time.get_i64() {
            (nanos, true) => Ok(Timestamp(nanos)),
            (_, false) => Err(Error::with_detail(
                ErrorKind::InvalidInput,
                "a time lies between the years 1677 and 2262",
            )),
        });
        Ok(SetAttrs {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: mtime.transpose()?,
        })
    }
}

pub(crate) fn follow(follow: bool) -> Follow {
    match follow {
        true => Follow::Yes,
        false => Follow::No,
    }
}

/// Names or paths with the kind of each.
#[napi(object)]
pub struct Listing {
    pub names: Vec<String>,
    pub kinds: Vec<u8>,
}

/// An offset or a size as JavaScript has it.
pub(crate) fn length(number: f64) -> Result<u64, Error> {
    const LARGEST: f64 = 9_007_199_254_740_991.0;
    if number.fract() == 0.0 && (0.0..=LARGEST).contains(&number) {
        return Ok(number as u64);
    }
    let detail = format!("{number} is no offset or length in bytes");
    Err(Error::with_detail(ErrorKind::InvalidInput, detail))
}
