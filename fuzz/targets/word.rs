//! What is said of contents and members, and announced to many.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| alknet_fs_net::decoders::word(bytes));
