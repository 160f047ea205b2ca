//! What is said before a conversation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| alknet_fs_net::decoders::greeting(bytes));
