//! Open write sessions.

use alknet_fs::{Error, ErrorKind, SessionId, SessionInfo, Staging};
use serde::Serialize;

use crate::app::App;
use crate::args::SessionsCommand;
use crate::failure::{Failure, Result};
use crate::output::{self, BOLD, Cell, DIM, GOOD, Table, WARN, count, printable, size};

#[derive(Serialize)]
struct SessionRecord<'a> {
    id: SessionId,
    bucket: &'a str,
    branch: &'a str,
    path: &'a str,
    owner: &'a str,
    exclusive: bool,
    staging: Staging,
    /// Bytes that are staged.
    staged: u64,
    /// The size of the version it started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<u64>,
    created: String,
    touched: String,
    alive: bool,
}

#[derive(Serialize)]
struct Ended<'a> {
    op: &'static str,
    id: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

pub(crate) fn run(app: &App, command: SessionsCommand) -> Result<()> {
    let store = app.store()?;
    match command {
        SessionsCommand::List => list(app, &store.sessions()?),
        SessionsCommand::Abort { id, force } => {
            store.abort_session(SessionId(id), force)?;
            let record = ended("abort session", SessionId(id));
            Ok(app
                .out
                .done(&record, format_args!("aborted the session {id}"))?)
        }
        SessionsCommand::Close { id, yes } => {
            let session = store.resume_session(SessionId(id))?;
            if !yes {
                let (path, len) = (session.path(), size(session.size()));
                session.detach()?;
                let detail = format!(
                    "its writer ended before it finished: {path} would be {len}, which may be less \
                     than the whole input"
                );
                let error = Error::with_detail(ErrorKind::InUse, detail);
                let error = error.op("close session").path(id);
                let hint = "say --yes to commit it all the same, or write the file again and throw \
                            this away with `alkfs sessions abort`";
                return Err(Failure::with_hint(error, hint));
            }
            let closed = match session.close() {
                Ok(closed) => closed,
                Err(error) => {
                    // Dropping it would throw away what it had written.
                    session.detach()?;
                    return Err(error.into());
                }
            };
            let record = Ended {
                path: Some(closed.path.as_str()),
                size: Some(closed.size),
                hash: Some(closed.hash.to_hex()),
                ..ended("close session", SessionId(id))
            };
            let path = printable(closed.path.as_str());
            let line = format!("committed {path}  {}", size(closed.size));
            Ok(app.out.done(&record, line)?)
        }
        SessionsCommand::Clean => {
            let mut cleaned = 0;
            for session in store.sessions()? {
                if session.alive {
                    continue;
                }
                match store.abort_session(session.id, false) {
                    Ok(()) => {}
                    // Somebody else resumed or ended it in the meantime.
                    Err(e) if matches!(e.kind(), ErrorKind::Locked | ErrorKind::NotFound) => {
                        continue;
                    }
                    Err(e) => return Err(e.into()),
                }
                cleaned += 1;
                app.out.record(&Ended {
                    path: Some(session.path.as_str()),
                    ..ended("abort session", session.id)
                })?;
            }
            if !app.out.quiet {
                let sessions = count(cleaned, "session", "sessions");
                app.out
                    .line(format_args!("aborted {sessions} without a process"))?;
            }
            Ok(())
        }
    }
}

fn ended<'a>(op: &'static str, id: SessionId) -> Ended<'a> {
    Ended {
        op,
        id,
        path: None,
        size: None,
        hash: None,
    }
}

fn list(app: &App, sessions: &[SessionInfo]) -> Result<()> {
    let heads = [
        ">id", "bucket", "branch", "path", "owner", "lock", ">staged", ">over", "opened", "wrote",
        "process",
    ];
    let mut table = Table::new(&heads);
    for session in sessions {
        app.out.record(&SessionRecord {
            id: session.id,
            bucket: &session.bucket,
            branch: &session.branch,
            path: session.path.as_str(),
            owner: &session.owner,
            exclusive: session.exclusive,
            staging: session.staging,
            staged: session.staged,
            base: session.base,
            created: output::rfc3339(session.created),
            touched: output::rfc3339(session.touched),
            alive: session.alive,
        })?;
        table.push(vec![
            Cell::right(session.id).styled(BOLD),
            Cell::new(&session.bucket),
            Cell::new(&session.branch),
            Cell::new(&session.path),
            Cell::new(&session.owner),
            Cell::new(if session.exclusive { "exclusive" } else { "-" }),
            Cell::right(size(session.staged)),
            Cell::right(session.base.map_or("-".to_owned(), size)),
            Cell::new(output::time(session.created, output::SECOND)).styled(DIM),
            Cell::new(output::time(session.touched, output::SECOND)).styled(DIM),
            match session.alive {
                true => Cell::new("alive").styled(GOOD),
                false => Cell::new("gone").styled(WARN),
            },
        ]);
    }
    if sessions.is_empty() {
        app.out.note("no write session is open");
        return Ok(());
    }
    Ok(app.out.table(&table)?)
}
