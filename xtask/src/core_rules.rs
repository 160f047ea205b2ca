//! What keeps core sans-IO: the crates it may not depend on and the parts of std it may not name.

use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use proc_macro2::{Delimiter, TokenStream, TokenTree, token_stream};

use crate::cargo::Workspace;
use crate::report;

const CORE: &str = "alknet-fs-core";

/// Runtimes, sockets, databases, clocks and entropy; a name ending in `*` stands for all that start so.
const BANNED_CRATES: &[&str] = &[
    "async-executor",
    "async-global-executor",
    "async-io",
    "async-std",
    "chrono",
    "fastrand",
    "getrandom",
    "honker*",
    "hyper*",
    "instant",
    "iroh*",
    "jiff",
    "libsqlite3-sys",
    "mio",
    "polling",
    "quinn*",
    "rand",
    "rusqlite",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio*",
    "web-time",
];

/// Paths core may neither name nor import; what they contain is banned with them.
const BANNED_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::hash::RandomState",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    report::step("core depends on no runtime and does no I/O");
    let dependencies = check_dependencies(workspace)?;
    let files = check_sources(workspace)?;
    report::ok(&format!("{dependencies} crates, {files} source files"));
    Ok(())
}

/// Checks the crates core is built with and returns how many they are.
fn check_dependencies(workspace: &Workspace) -> Result<usize> {
    let tree = workspace
        .cargo(["tree", "--locked", "--package", CORE, "--all-features"])
        .args(["--edges", "normal", "--target", "all"])
        .args(["--prefix", "none", "--format", "{p}"])
        .read()?;
    let mut crates: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    crates.sort_unstable();
    crates.dedup();
    ensure!(crates.contains(&CORE), "`cargo tree` does not list {CORE}");
    let banned = banned_crates(&crates);
    ensure!(banned.is_empty(), "{CORE} depends on {}", banned.join(", "));
    Ok(crates.len())
}

fn banned_crates<'a>(crates: &[&'a str]) -> Vec<&'a str> {
    let is_banned = |name: &str| {
        BANNED_CRATES
            .iter()
            .any(|banned| match banned.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *banned,
            })
    };
    crates
        .iter()
        .copied()
        .filter(|name| is_banned(name))
        .collect()
}

/// Checks core's source files and returns how many they are.
fn check_sources(workspace: &Workspace) -> Result<usize> {
    let mut files = Vec::new();
    collect_rust_files(&workspace.root().join("core/src"), &mut files)?;
    ensure!(!files.is_empty(), "core has no source files");
    let mut findings = Vec::new();
    for file in &files {
        let source = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let found = banned_uses(&source).with_context(|| file.display().to_string())?;
        let shown = file
            .strip_prefix(workspace.root())
            .unwrap_or(file)
            .display();
        findings.extend(
            found
                .iter()
                .map(|(line, path)| format!("{shown}:{line}: {path}")),
        );
    }
    ensure!(
        findings.is_empty(),
        "core may not name\n  {}",
        findings.join("\n  ")
    );
    Ok(files.len())
}

fn collect_rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect_rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Finds the banned paths in Rust code, macros included, comments and strings not.
fn banned_uses(source: &str) -> Result<Vec<(usize, String)>> {
    let tokens: TokenStream = source
        .parse()
        .map_err(|error| anyhow!("this is not Rust: {error}"))?;
    let mut paths = Vec::new();
    find_std_paths(tokens, &mut paths);
    paths.retain(|(_, path)| is_banned_path(path));
    Ok(paths)
}

fn find_std_paths(tokens: TokenStream, paths: &mut Vec<(usize, String)>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => find_std_paths(group.stream(), paths),
            TokenTree::Ident(name) if name == "std" => {
                let line = name.span().start().line;
                follow_path("std".to_owned(), line, &mut tokens, paths);
            }
            _ => {}
        }
    }
}

/// Reads the rest of a path, every branch of an import's braces for itself.
fn follow_path(
    mut path: String,
    mut line: usize,
    tokens: &mut Peekable<token_stream::IntoIter>,
    paths: &mut Vec<(usize, String)>,
) {
    while is_punct(tokens.peek(), ':') {
        tokens.next();
        if !is_punct(tokens.peek(), ':') {
            break;
        }
        tokens.next();
        match tokens.peek() {
            Some(TokenTree::Ident(name)) => {
                line = name.span().start().line;
                path = format!("{path}::{name}");
                tokens.next();
            }
            Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                path.push_str("::*");
                tokens.next();
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let mut branches = group.stream().into_iter().peekable();
                tokens.next();
                while let Some(branch) = branches.next() {
                    match branch {
                        TokenTree::Ident(name) if name == "as" => {
                            branches.next();
                        }
                        TokenTree::Ident(name) => {
                            let line = name.span().start().line;
                            let path = if name == "self" {
                                path.clone()
                            } else {
                                format!("{path}::{name}")
                            };
                            follow_path(path, line, &mut branches, paths);
                        }
                        TokenTree::Punct(star) if star.as_char() == '*' => {
                            paths.push((star.span().start().line, format!("{path}::*")));
                        }
                        _ => {}
                    }
                }
                return;
            }
            _ => break,
        }
    }
    paths.push((line, path));
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// Returns whether a path is banned, lies in a banned module, or imports one under another name:
/// `std` itself, `std::time` and `std::time::*` would hide what is used of them.
fn is_banned_path(path: &str) -> bool {
    let (path, opens_all) = match path.strip_suffix("::*") {
        Some(path) => (path, true),
        None => (path, false),
    };
    BANNED_PATHS.iter().any(|banned| {
        let inside = path
            .strip_prefix(banned)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        let around = banned
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with("::"));
        inside || (around && (opens_all || path != "std::hash"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        let found = banned_uses(source).unwrap();
        found
            .into_iter()
            .map(|(line, path)| format!("{line} {path}"))
            .collect()
    }

    #[test]
    fn banned_paths_are_found_however_they_are_written() {
        assert_eq!(
            found("fn f() { let _ = std::fs::read(\"a\"); }"),
            ["1 std::fs::read"]
        );
        assert_eq!(found("\nuse std::{fmt, fs};"), ["2 std::fs"]);
        assert_eq!(
            found("use std::{collections::BTreeMap, time::{Duration, Instant as Now}};"),
            ["1 std::time::Instant"]
        );
        assert_eq!(
            found("use ::std::net::{self, IpAddr};"),
            ["1 std::net", "1 std::net::IpAddr"]
        );
        assert_eq!(found("use std::time;"), ["1 std::time"]);
        assert_eq!(found("use std::time::*;"), ["1 std::time::*"]);
        assert_eq!(found("use std as other;"), ["1 std"]);
        assert_eq!(
            found("m! { a, std::thread::spawn(f) }"),
            ["1 std::thread::spawn"]
        );
        assert_eq!(
            found("#[cfg(test)] mod t { use std::env::var; }"),
            ["1 std::env::var"]
        );
    }

    #[test]
    fn other_paths_comments_and_strings_are_not() {
        let allowed = [
            "use std::{fmt, io, str::FromStr};",
            "use std::time::Duration;",
            "use std::hash::{Hash, Hasher};",
            "fn f(hasher: impl std::hash::Hasher) -> std::io::Result<()> { Ok(()) }",
            "/// Not through `std::fs`.\nfn f() {} // std::net",
            "const TEXT: &str = \"std::fs::read\";",
            "use crate::fs::Entry;",
            "fn f<T: std::fmt::Display>(t: T) {}",
        ];
        for source in allowed {
            assert_eq!(found(source), Vec::<String>::new(), "{source}");
        }
    }

    #[test]
    fn runtimes_are_banned_with_their_families() {
        let crates = [
            "blake3",
            "iroh-blobs",
            "mio",
            "rand",
            "rand_core",
            "serde",
            "tokio",
            "tokio-util",
        ];
        assert_eq!(
            banned_crates(&crates),
            ["iroh-blobs", "mio", "rand", "tokio", "tokio-util"]
        );
    }
}
