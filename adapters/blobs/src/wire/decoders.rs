//! What a peer may send, read as it is read from the network: for those who look for bytes that do
//! harm. Not part of the API.

use super::frames;

/// Reads a question and an answer.
///
/// # Panics
/// Where what was understood is not understood again: that would be a mistake.
pub fn frame(bytes: &[u8]) {
    if let Ok(question) = frames::question(bytes) {
        let mut again = Vec::new();
        let written = frames::put(&mut again, &question);
        assert!(written.is_ok(), "a question that cannot be said");
        assert_eq!(frames::question(&again[4..]).ok(), Some(question));
    }
    if let Ok(answer) = frames::answer(bytes) {
        let mut again = Vec::new();
        let written = frames::put(&mut again, &answer);
        assert!(written.is_ok(), "an answer that cannot be said");
        if let frames::Answer::Has(bits) = &answer {
            let _ = frames::has(bits.0, bits.0.len() * 8);
        }
        assert_eq!(frames::answer(&again[4..]).ok(), Some(answer));
    }
}
