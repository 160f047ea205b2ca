//! The values of registers, and their names: whatever decodes comes back as it was.
#![no_main]

use alknet_fs_core::TreePath;
use alknet_fs_core::sync::{About, AboutBranch, AboutSnapshot, Key, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Value::decode(bytes) {
        assert_eq!(Value::decode(&value.encode()).ok(), Some(value));
    }
    if let Ok(about) = About::<AboutBranch>::decode(bytes) {
        assert_eq!(About::decode(&about.encode()).ok(), Some(about));
    }
    if let Ok(about) = About::<AboutSnapshot>::decode(bytes) {
        assert_eq!(About::decode(&about.encode()).ok(), Some(about));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(key) = Key::parse(text) {
            assert_eq!(key.as_text(), text);
        }
        if let Ok(path) = TreePath::parse(text) {
            assert_eq!(TreePath::parse(path.as_str()).ok(), Some(path));
        }
    }
});
