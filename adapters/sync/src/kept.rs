//! Values that a store keeps under a scope and a name, in postcard's format.

use std::collections::BTreeMap;

use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What has values: a transaction, or a draft.
pub(crate) trait Kept {
    fn value(&self, scope: &str, name: &str) -> Result<Option<Vec<u8>>>;
}

/// What values can be put into.
pub(crate) trait Keep: Kept {
    /// Replaces a value, or removes it.
    fn set_value(&mut self, scope: &str, name: &str, value: Option<&[u8]>) -> Result<()>;
}

impl<T: ReadTxn + ?Sized> Kept for T {
    fn value(&self, scope: &str, name: &str) -> Result<Option<Vec<u8>>> {
        ReadTxn::value(self, scope, name)
    }
}

impl<T: WriteTxn + ?Sized> Keep for T {
    fn set_value(&mut self, scope: &str, name: &str, value: Option<&[u8]>) -> Result<()> {
        WriteTxn::set_value(self, scope, name, value)
    }
}

/// Values that are put beside a transaction which only reads, to be kept by a later one.
pub(crate) struct Draft<'a> {
    pub(crate) txn: &'a dyn ReadTxn,
    values: Drafted,
}

/// Values by their scopes and names; nothing for those to be removed.
pub(crate) type Drafted = BTreeMap<(String, String), Option<Vec<u8>>>;

impl<'a> Draft<'a> {
    pub(crate) fn new(txn: &'a dyn ReadTxn) -> Self {
        Self {
            txn,
            values: Drafted::new(),
        }
    }

    pub(crate) fn into_values(self) -> Drafted {
        self.values
    }
}

impl Kept for Draft<'_> {
    fn value(&self, scope: &str, name: &str) -> Result<Option<Vec<u8>>> {
        match self.values.get(&(scope.to_owned(), name.to_owned())) {
            Some(value) => Ok(value.clone()),
            None => self.txn.value(scope, name),
        }
    }
}

impl Keep for Draft<'_> {
    fn set_value(&mut self, scope: &str, name: &str, value: Option<&[u8]>) -> Result<()> {
        let name = (scope.to_owned(), name.to_owned());
        self.values.insert(name, value.map(<[u8]>::to_vec));
        Ok(())
    }
}

/// Reads a value, if there is one.
pub(crate) fn get<T: DeserializeOwned>(
    kept: &(impl Kept + ?Sized),
    scope: &str,
    name: &str,
) -> Result<Option<T>> {
    let Some(bytes) = kept.value(scope, name)? else {
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
    keep: &mut (impl Keep + ?Sized),
    scope: &str,
    name: &str,
    value: &impl Serialize,
) -> Result<()> {
    keep.set_value(scope, name, Some(&encode(value)))
}

pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Writing to memory cannot fail.
    postcard::to_extend(value, Vec::new()).unwrap_or_default()
}
