//! Values that a store keeps under a scope and a name, in postcard's format.

use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a value, if there is one.
pub(crate) fn get<T: DeserializeOwned>(
    txn: &dyn ReadTxn,
    scope: &str,
    name: &str,
) -> Result<Option<T>> {
    let Some(bytes) = txn.value(scope, name)? else {
        return Ok(None);
    };
    postcard::from_bytes(&bytes).map(Some).map_err(|e| {
        let why = "what is kept of the bucket's synchronisation is damaged";
        Error::with_detail(ErrorKind::Corrupt, why)
            .path(format!("{scope}/{name}"))
            .source(e.to_string())
    })
}

/// Replaces a value.
pub(crate) fn set(
    txn: &mut dyn WriteTxn,
    scope: &str,
    name: &str,
    value: &impl Serialize,
) -> Result<()> {
    txn.set_value(scope, name, Some(&encode(value)))
}

pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Writing to memory cannot fail.
    postcard::to_extend(value, Vec::new()).unwrap_or_default()
}
