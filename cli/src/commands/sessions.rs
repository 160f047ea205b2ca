//! Open write sessions.

use alknet_fs::{ErrorKind, SessionId, SessionInfo, Staging};
use serde::Serialize;

use crate::app::App;
use crate::args::SessionsCommand;
use crate::failure::Result;
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
    created: i64,
    touched: i64,
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
        SessionsCommand::Close { id } => {
            let session = store.resume_session(SessionId(id))?;
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
        ">id", "bucket", "branch", "path", "owner", "lock", "opened", "wrote", "process",
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
            created: session.created.0,
            touched: session.touched.0,
            alive: session.alive,
        })?;
        table.push(vec![
            Cell::right(session.id).styled(BOLD),
            Cell::new(&session.bucket),
            Cell::new(&session.branch),
            Cell::new(&session.path),
            Cell::new(&session.owner),
            Cell::new(if session.exclusive { "exclusive" } else { "-" }),
            Cell::new(output::time(session.created, output::MINUTE)).styled(DIM),
            Cell::new(output::time(session.touched, output::MINUTE)).styled(DIM),
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
