//! alknet-fs-sqlite
