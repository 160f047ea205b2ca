//! Questions about contents, and answers to them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| alknet_fs_blobs::wire::decoders::frame(bytes));
