//! alknet-fs-tests
