//! alknet-fs
