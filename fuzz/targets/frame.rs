//! A frame of a conversation: whatever decodes comes back as it was.
#![no_main]

use alknet_fs_core::sync::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::decode(bytes) {
        assert_eq!(Frame::decode(&frame.encode()).ok(), Some(frame));
    }
});
