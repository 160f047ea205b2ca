//! Values on their way between the engine and JavaScript.

use std::time::Duration;

use alknet_fs::{
    Closed, Cursor, Difference, Entry, Error, ErrorKind, EventFilter, Follow, Kind, Node, Op,
    PutMode, SetAttrs, Timestamp, TreePath,
};
use napi::bindgen_prelude::{
    BigInt, BufferSlice, FromNapiValue, ToNapiValue, TypeName, ValidateNapiValue,
};
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

/// A path as JavaScript gives it. Nearly all are short, and those are read in one go, where a
/// `String` asks for the length first.
pub struct PathText(String);

/// How much one go reads, in bytes.
const SHORT: usize = 512;

impl PathText {
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

impl TypeName for PathText {
    fn type_name() -> &'static str {
        "String"
    }

    fn value_type() -> ValueType {
        ValueType::String
    }
}

impl ValidateNapiValue for PathText {}

impl FromNapiValue for PathText {
    unsafe fn from_napi_value(
        env: napi::sys::napi_env,
        value: napi::sys::napi_value,
    ) -> napi::Result<Self> {
        let mut bytes = [0; SHORT];
        let mut len = 0;
        // SAFETY: as the caller's; the buffer has room for what it is said to have.
        let status = unsafe {
            let to = bytes.as_mut_ptr().cast();
            napi::sys::napi_get_value_string_utf8(env, value, to, SHORT, &raw mut len)
        };
        // A character that does not fit is left out, and takes four bytes at the most.
        if status == napi::sys::Status::napi_ok
            && len + 4 < SHORT
            && let Ok(text) = std::str::from_utf8(&bytes[..len])
        {
            return Ok(Self(text.to_owned()));
        }
        // SAFETY: as the caller's.
        unsafe { String::from_napi_value(env, value) }.map(Self)
    }
}

/// How many numbers tell an entry's attributes.
const NUMBERS: usize = 9;

/// An entry's attributes as numbers, in the order that the TypeScript layer reads: kind (0 file,
/// 1 directory, 2 link), mode, uid, gid, size, and seconds and nanoseconds of mtime and ctime.
pub(crate) type StatNumbers = Vec<f64>;

pub(crate) fn stat_numbers(entry: &Entry) -> StatNumbers {
    attributes(entry).into()
}

/// Writes an entry's attributes where JavaScript finds them.
pub(crate) fn put_stat_numbers(entry: &Entry, numbers: &mut [f64]) {
    if let Some(numbers) = numbers.first_chunk_mut() {
        *numbers = attributes(entry);
    }
}

fn attributes(entry: &Entry) -> [f64; NUMBERS] {
    let attrs = entry.attrs;
    let (mtime, mtime_ns) = seconds(attrs.mtime);
    let (ctime, ctime_ns) = seconds(attrs.ctime);
    [
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

/// An entry with its name or its path.
#[napi(object)]
pub struct NamedEntry {
    pub name: String,
    pub entry: EntryInfo,
}

impl NamedEntry {
    pub(crate) fn new(name: &str, entry: &Entry) -> Self {
        Self {
            name: name.to_owned(),
            entry: entry.into(),
        }
    }
}

/// How a path differs between two trees.
#[napi(object)]
pub struct DifferenceInfo {
    pub path: String,
    pub what: String,
    pub from: Option<String>,
    pub old: Option<EntryInfo>,
    pub new: Option<EntryInfo>,
}

impl DifferenceInfo {
    pub(crate) fn new((path, difference): (TreePath, Difference)) -> Self {
        let (what, from, old, new) = match difference {
            Difference::Added { new } => ("added", None, None, Some(new)),
            Difference::Deleted { old } => ("deleted", None, Some(old), None),
            Difference::Modified { old, new } => ("modified", None, Some(old), Some(new)),
            Difference::Renamed { from, old, new } => ("renamed", Some(from), Some(old), Some(new)),
        };
        Self {
            path: path.as_str().to_owned(),
            what: what.to_owned(),
            from: from.map(|from| from.as_str().to_owned()),
            old: old.as_ref().map(EntryInfo::from),
            new: new.as_ref().map(EntryInfo::from),
        }
    }
}

/// What a close committed.
#[napi(object)]
pub struct ClosedInfo {
    pub path: String,
    pub hash: String,
    pub size: f64,
}

impl From<Closed> for ClosedInfo {
    fn from(closed: Closed) -> Self {
        Self {
            path: closed.path.as_str().to_owned(),
            hash: closed.hash.to_hex(),
            size: closed.size as f64,
        }
    }
}

/// Which events.
#[napi(object)]
pub struct FilterOptions {
    pub branch: Option<String>,
    pub under: Option<String>,
    pub directly_in: Option<String>,
    pub globs: Option<Vec<String>>,
    pub ops: Option<Vec<String>>,
    pub kinds: Option<Vec<String>>,
}

impl FilterOptions {
    pub(crate) fn filter(self) -> Result<EventFilter, Error> {
        let mut filter = EventFilter::all();
        if let Some(branch) = self.branch {
            filter = filter.branch(branch);
        }
        if let Some(path) = self.under {
            filter = filter.under(TreePath::parse(&path)?);
        }
        if let Some(path) = self.directly_in {
            filter = filter.directly_in(TreePath::parse(&path)?);
        }
        if let Some(ops) = self.ops {
            let ops: Result<Vec<Op>, _> = ops.iter().map(|op| op.parse()).collect();
            filter = filter.ops(ops?);
        }
        if let Some(kinds) = self.kinds {
            let kinds: Result<Vec<Kind>, _> = kinds.iter().map(|kind| kind.parse()).collect();
            filter = filter.kinds(kinds?);
        }
        match self.globs {
            None => Ok(filter),
            Some(globs) => filter.globs(globs),
        }
    }
}

/// Attributes to set; what is absent stays.
#[napi(object)]
#[derive(Default)]
pub struct Attributes {
    pub mode: Option<f64>,
    pub uid: Option<f64>,
    pub gid: Option<f64>,
    pub mtime: Option<BigInt>,
}

impl Attributes {
    pub(crate) fn set(self) -> Result<SetAttrs, Error> {
        Ok(SetAttrs {
            mode: bits(self.mode, "mode")?,
            uid: bits(self.uid, "uid")?,
            gid: bits(self.gid, "gid")?,
            mtime: self.mtime.map(|mtime| timestamp(&mtime)).transpose()?,
        })
    }
}

/// Nanoseconds since 1970 as JavaScript has them.
pub(crate) fn timestamp(time: &BigInt) -> Result<Timestamp, Error> {
    match time.get_i64() {
        (nanos, true) => Ok(Timestamp(nanos)),
        (_, false) => Err(Error::with_detail(
            ErrorKind::InvalidInput,
            "a time lies between the years 1677 and 2262",
        )),
    }
}

/// A number of 32 bits as JavaScript has it.
pub(crate) fn bits(number: Option<f64>, name: &str) -> Result<Option<u32>, Error> {
    let Some(number) = number else {
        return Ok(None);
    };
    if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
        return Ok(Some(number as u32));
    }
    let detail = format!("{number} is no {name}");
    Err(Error::with_detail(ErrorKind::InvalidInput, detail))
}

/// Milliseconds as JavaScript has them.
pub(crate) fn milliseconds(number: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(number / 1000.0).map_err(|_| {
        let detail = format!("{number} is no time in milliseconds");
        Error::with_detail(ErrorKind::InvalidInput, detail)
    })
}

pub(crate) fn cursor(number: f64) -> Result<Cursor, Error> {
    whole(number, "position in the log").map(Cursor)
}

/// Whether a file that is put may be there, and may be new.
pub(crate) fn put_mode(create: bool, replace: bool) -> Result<PutMode, Error> {
    match (create, replace) {
        (true, true) => Ok(PutMode::CreateOrReplace),
        (true, false) => Ok(PutMode::CreateNew),
        (false, true) => Ok(PutMode::ReplaceExisting),
        (false, false) => Err(Error::with_detail(
            ErrorKind::InvalidInput,
            "a file that is neither created nor replaced cannot be put",
        )),
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
    whole(number, "offset or length in bytes")
}

/// A whole number as JavaScript has it. What is too large stays too large.
pub(crate) fn whole(number: f64, what: &str) -> Result<u64, Error> {
    if number.fract() == 0.0 && number >= 0.0 {
        return Ok(number as u64);
    }
    let detail = format!("{number} is no {what}");
    Err(Error::with_detail(ErrorKind::InvalidInput, detail))
}
