//! Paths inside a tree: always absolute, always normal, always valid.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result, shown};

/// The longest name of one path component, in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// The longest path, in bytes, its leading `/` included.
pub const MAX_PATH_LEN: usize = 4096;

/// An absolute, normalised path inside a tree.
///
/// A value of this type is always valid: it starts with `/`, has no empty component, no `.` or
/// `..`, no NUL byte and no trailing `/` (but for the root), each name is 1 to 255 bytes of UTF-8
/// and the whole is at most 4,096 bytes. Names are compared byte by byte: two names that differ in
/// case or in Unicode normalisation are two names.
///
/// [`parse`](Self::parse) accepts what people type: a missing leading `/` is added, `.` and `..`
/// are resolved lexically and never escape the root, repeated and trailing `/` are dropped.
///
/// ```
/// use alknet_fs_core::TreePath;
/// let path = TreePath::parse("src//./a/../lib.rs").unwrap();
/// assert_eq!(path.as_str(), "/src/lib.rs");
/// assert_eq!(path.parent().unwrap().as_str(), "/src");
/// assert_eq!(TreePath::parse("/../../etc").unwrap().as_str(), "/etc");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Box<str>);

impl TreePath {
    /// Returns the root, `/`.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Parses and normalises a path.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPath`] for an empty string or a NUL byte, [`ErrorKind::NameTooLong`] for
    /// a name of over 255 bytes or a path of over 4,096 bytes. The error names the input.
    pub fn parse(input: &str) -> Result<Self> {
        if input.is_empty() {
            return Err(invalid(input, "the path is empty; the root is \"/\""));
        }
        if is_normal(input) {
            return Ok(Self(input.into()));
        }
        let mut out = String::with_capacity(input.len() + 1);
        for name in input.split('/') {
            match name {
                "" | "." => {}
                ".." => out.truncate(out.rfind('/').unwrap_or(0)),
                name => {
                    check_name(name).map_err(|e| e.path(input))?;
                    out.push('/');
                    out.push_str(name);
                }
            }
        }
        if out.is_empty() {
            return Ok(Self::root());
        }
        if out.len() > MAX_PATH_LEN {
            return Err(too_long(input));
        }
        Ok(Self(out.into()))
    }

    /// Parses a path given as bytes, as operating systems and network clients give it.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`ErrorKind::InvalidPath`] where the bytes are not UTF-8.
    pub fn from_bytes(input: &[u8]) -> Result<Self> {
        match std::str::from_utf8(input) {
            Ok(text) => Self::parse(text),
            Err(_) => Err(invalid(
                &String::from_utf8_lossy(input),
                "the path is not valid UTF-8",
            )),
        }
    }

    /// Appends one name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPath`] where the name is empty, `.`, `..`, or has a `/` or a NUL byte;
    /// [`ErrorKind::NameTooLong`] where the name or the whole path is too long.
    pub fn join(&self, name: &str) -> Result<Self> {
        check_name(name).map_err(|e| e.path(name))?;
        let joined = self.join_unchecked(name);
        if joined.0.len() > MAX_PATH_LEN {
            return Err(too_long(&joined.0));
        }
        Ok(joined)
    }

    /// Rebuilds a path from the parent and name a store kept, which were valid when stored.
    pub fn from_stored(parent: &str, name: &str) -> Self {
        if parent.is_empty() {
            return Self::root();
        }
        let mut out = String::with_capacity(parent.len() + 1 + name.len());
        if parent.len() > 1 {
            out.push_str(parent);
        }
        out.push('/');
        out.push_str(name);
        Self(out.into())
    }

    fn join_unchecked(&self, name: &str) -> Self {
        Self::from_stored(&self.0, name)
    }

    /// Returns the path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// Returns the last component, or `""` for the root.
    pub fn name(&self) -> &str {
        &self.0[self.0.rfind('/').map_or(0, |i| i + 1)..]
    }

    /// Returns the directory that holds this path, or nothing for the root.
    pub fn parent(&self) -> Option<Self> {
        (!self.is_root()).then(|| Self(self.parent_str().into()))
    }

    /// Returns the parent as the text a store keys its rows by: `""` for the root itself.
    pub fn parent_str(&self) -> &str {
        match self.0.rfind('/') {
            Some(0) if self.is_root() => "",
            Some(0) => "/",
            Some(i) => &self.0[..i],
            None => "",
        }
    }

    /// Returns the components from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// Returns the number of components; the root has none.
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Returns every proper ancestor, nearest first, ending with the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(self.parent(), Self::parent)
    }

    /// Tells whether this path is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.strip_prefix(other).is_some()
    }

    /// Returns the rest of the path below `base` (`""` for `base` itself), without a leading `/`.
    pub fn strip_prefix(&self, base: &Self) -> Option<&str> {
        if base.is_root() {
            return Some(&self.0[1..]);
        }
        let rest = self.0.strip_prefix(&*base.0)?;
        if rest.is_empty() {
            return Some(rest);
        }
        rest.strip_prefix('/')
    }

    /// Moves a path from below `from` to below `to`; a path outside `from` is returned as it is.
    ///
    /// # Errors
    /// [`ErrorKind::NameTooLong`] where the new path is over 4,096 bytes.
    pub fn rebase(&self, from: &Self, to: &Self) -> Result<Self> {
        match self.strip_prefix(from) {
            None => Ok(self.clone()),
            Some("") => Ok(to.clone()),
            Some(rest) => {
                let joined = to.join_unchecked(rest);
                if joined.0.len() > MAX_PATH_LEN {
                    return Err(too_long(&joined.0));
                }
                Ok(joined)
            }
        }
    }
}

/// Checks one path component.
///
/// # Errors
/// [`ErrorKind::InvalidPath`] or [`ErrorKind::NameTooLong`], with the reason.
pub fn check_name(name: &str) -> Result<()> {
    let reason = match name {
        "" => "a name is empty",
        "." | ".." => "\".\" and \"..\" are not names",
        _ if name.contains('\0') => "a name has a NUL byte",
        _ if name.contains('/') => "a name has a \"/\"",
        _ if name.len() > MAX_NAME_LEN => {
            let detail = format!(
                "a name of {} bytes; the most is {MAX_NAME_LEN}: {}",
                name.len(),
                shown(name)
            );
            return Err(Error::with_detail(ErrorKind::NameTooLong, detail));
        }
        _ => return Ok(()),
    };
    Err(Error::with_detail(ErrorKind::InvalidPath, reason))
}

fn is_normal(input: &str) -> bool {
    input.len() <= MAX_PATH_LEN
        && input.strip_prefix('/').is_some_and(|rest| {
            rest.is_empty()
                || rest.split('/').all(|name| {
                    !matches!(name, "" | "." | "..")
                        && name.len() <= MAX_NAME_LEN
                        && !name.as_bytes().contains(&0)
                })
        })
}

fn invalid(input: &str, reason: &str) -> Error {
    Error::with_detail(ErrorKind::InvalidPath, reason).path(input)
}

fn too_long(input: &str) -> Error {
    let detail = format!("a path of over {MAX_PATH_LEN} bytes");
    Error::with_detail(ErrorKind::NameTooLong, detail).path(input)
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for TreePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TreePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TreePath {
    type Err = Error;

    fn from_str(input: &str) -> Result<Self> {
        Self::parse(input)
    }
}

impl TryFrom<&str> for TreePath {
    type Error = Error;

    fn try_from(input: &str) -> Result<Self> {
        Self::parse(input)
    }
}

impl TryFrom<&String> for TreePath {
    type Error = Error;

    fn try_from(input: &String) -> Result<Self> {
        Self::parse(input)
    }
}

impl TryFrom<String> for TreePath {
    type Error = Error;

    fn try_from(input: String) -> Result<Self> {
        Self::parse(&input)
    }
}

impl From<&Self> for TreePath {
    fn from(path: &Self) -> Self {
        path.clone()
    }
}

impl serde::Serialize for TreePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for TreePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(s: &str) -> TreePath {
        TreePath::parse(s).unwrap()
    }

    #[test]
    fn normalises_what_people_type() {
        for (input, want) in [
            ("/", "/"),
            ("//", "/"),
            (".", "/"),
            ("..", "/"),
            ("/..", "/"),
            ("a", "/a"),
            ("a/b/", "/a/b"),
            ("/a//b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/../..", "/"),
            ("/../../a", "/a"),
            ("/...", "/..."),
            ("/a b/ü", "/a b/ü"),
        ] {
            assert_eq!(p(input).as_str(), want, "{input:?}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_a_path() {
        let kind = |s: &str| TreePath::parse(s).unwrap_err().kind();
        assert_eq!(kind(""), ErrorKind::InvalidPath);
        assert_eq!(kind("/a\0b"), ErrorKind::InvalidPath);
        assert_eq!(kind(&"x".repeat(256)), ErrorKind::NameTooLong);
        assert_eq!(kind(&"/xxxxxxx".repeat(513)), ErrorKind::NameTooLong);
        assert!(TreePath::parse(&"/xxxxxxx".repeat(512)).is_ok());
        assert_eq!(
            TreePath::from_bytes(b"/a\xff").unwrap_err().kind(),
            ErrorKind::InvalidPath
        );
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert_eq!(
                p("/").join(name).unwrap_err().kind(),
                ErrorKind::InvalidPath
            );
        }
    }

    #[test]
    fn parents_and_prefixes() {
        assert_eq!(p("/a/b").parent(), Some(p("/a")));
        assert_eq!(p("/a").parent(), Some(p("/")));
        assert_eq!(p("/").parent(), None);
        assert_eq!(
            (p("/a").parent_str(), p("/").parent_str(), p("/").name()),
            ("/", "", "")
        );
        assert!(p("/a/b").starts_with(&p("/a")) && p("/a").starts_with(&p("/")));
        assert!(!p("/ab").starts_with(&p("/a")));
        assert_eq!(
            p("/a/b/c").rebase(&p("/a"), &p("/x/y")).unwrap(),
            p("/x/y/b/c")
        );
        assert_eq!(p("/a/b").rebase(&p("/"), &p("/x")).unwrap(), p("/x/a/b"));
        assert_eq!(p("/a").rebase(&p("/a"), &p("/")).unwrap(), p("/"));
        assert_eq!(p("/a/b").rebase(&p("/a"), &p("/")).unwrap(), p("/b"));
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent_and_confined(input in "[a-z./\\\\ü ]{0,40}") {
            if let Ok(path) = TreePath::parse(&input) {
                prop_assert!(path.as_str().starts_with('/'));
                prop_assert_eq!(&p(path.as_str()), &path);
                prop_assert!(path.components().all(|c| check_name(c).is_ok()));
                prop_assert_eq!(TreePath::from_stored(path.parent_str(), path.name()), path);
            }
        }
    }
}
