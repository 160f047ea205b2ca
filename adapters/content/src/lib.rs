//! alknet-fs-content
