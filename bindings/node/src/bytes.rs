//! Buffers of JavaScript, in calls that may be over later.
//!
//! Until such a call is over, JavaScript may hand a buffer to another thread or cut it, and its
//! memory with it. So nothing but the thread of JavaScript touches it: what is written is copied
//! when the call is made, and what is read when it is over.

use std::ops::Deref;

use alknet_fs::{Error, ErrorKind};
use napi::bindgen_prelude::{FromNapiValue, ToNapiValue, TypeName, Uint8Array, Uint8ArraySlice};
use napi::{Status, ValueType, sys};

/// Bytes to write.
pub(crate) enum Given {
    Here(Uint8Array),
    Copied(Vec<u8>),
}

impl Given {
    pub(crate) fn new(data: Uint8Array, later: bool) -> Self {
        match later {
            true => Self::Copied(data.to_vec()),
            false => Self::Here(data),
        }
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Here(data) => data.to_vec(),
            Self::Copied(bytes) => bytes,
        }
    }
}

impl Deref for Given {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Here(data) => data,
            Self::Copied(bytes) => bytes,
        }
    }
}

/// The most bytes that are read at a time, as in Node.
const LONGEST: u64 = (1 << 31) - 1;

/// Refuses to read what is too large for it.
///
/// # Errors
/// [`ErrorKind::TooLarge`], in Node's words.
pub(crate) fn check_size(size: u64) -> Result<(), Error> {
    if size <= LONGEST {
        return Ok(());
    }
    let detail = format!("File size ({size}) is greater than 2 GiB");
    Err(Error::with_detail(ErrorKind::TooLarge, detail).op("read"))
}

/// Makes room for bytes that are read.
///
/// # Errors
/// [`ErrorKind::TooLarge`] where there is none.
pub(crate) fn room(len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    if len > LONGEST || bytes.try_reserve_exact(len as usize).is_err() {
        let detail = format!("{len} bytes are more than can be read at once");
        return Err(Error::with_detail(ErrorKind::TooLarge, detail).op("read"));
    }
    bytes.resize(len as usize, 0);
    Ok(bytes)
}

/// A buffer that was read into, or will be when JavaScript hears of it: the number of bytes.
pub struct Filled {
    buffer: Uint8Array,
    count: usize,
    bytes: Option<Vec<u8>>,
}

impl Filled {
    /// Reads as many bytes as a buffer has room for.
    pub(crate) fn read(
        mut buffer: Uint8Array,
        later: bool,
        read: impl FnOnce(&mut [u8]) -> Result<usize, Error>,
    ) -> Result<Self, Error> {
        if later {
            let mut bytes = room(buffer.len() as u64)?;
            let count = read(&mut bytes)?;
            return Ok(Self {
                buffer,
                count,
                bytes: Some(bytes),
            });
        }
        // SAFETY: nothing of JavaScript runs before this call is over.
        let count = read(unsafe { buffer.as_mut() })?;
        Ok(Self {
            buffer,
            count,
            bytes: None,
        })
    }
}

impl TypeName for Filled {
    fn type_name() -> &'static str {
        f64::type_name()
    }

    fn value_type() -> ValueType {
        f64::value_type()
    }
}

impl ToNapiValue for Filled {
    unsafe fn to_napi_value(env: sys::napi_env, mut filled: Self) -> napi::Result<sys::napi_value> {
        if let Some(bytes) = &filled.bytes {
            // SAFETY: as the caller's.
            let value = unsafe { ToNapiValue::to_napi_value(env, &mut filled.buffer)? };
            // SAFETY: as the caller's; asked anew, for the buffer may not be what it was.
            let mut now = unsafe { Uint8ArraySlice::from_napi_value(env, value)? };
            // SAFETY: nothing of JavaScript runs before this call is over.
            let Some(room) = unsafe { now.as_mut() }.get_mut(..filled.count) else {
                let reason = "the buffer was taken away while it was read into";
                return Err(napi::Error::new(Status::InvalidArg, reason));
            };
            room.copy_from_slice(&bytes[..filled.count]);
        }
        // SAFETY: as the caller's.
        unsafe { f64::to_napi_value(env, filled.count as f64) }
    }
}
