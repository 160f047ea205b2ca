//! The commands, by group.

mod branches;
mod conflicts;
mod content;
mod demo;
mod files;
mod history;
mod records;
mod sessions;
mod sync;
mod transfer;
mod upkeep;

pub(crate) use sync::short;

use crate::app::App;
use crate::args::{Command, PeersCommand, SyncCommand};
use crate::failure::Result;

/// Runs one command.
pub(crate) fn run(app: &App, command: Command) -> Result<()> {
    match command {
        Command::Mkfs(args) => upkeep::mkfs(app, args),
        Command::Put(args) => files::put(app, &args),
        Command::Get(args) => files::get(app, &args),
        Command::Cat(args) => files::cat(app, &args),
        Command::Ls(args) => files::ls(app, &args),
        Command::Stat(args) => files::stat(app, &args),
        Command::Mkdir(args) => files::mkdir(app, &args),
        Command::Rm(args) => files::rm(app, &args),
        Command::Mv(args) => files::mv(app, &args),
        Command::Cp(args) => files::cp(app, &args),
        Command::Ln(args) => files::ln(app, &args),
        Command::Import(args) => transfer::import(app, &args),
        Command::Export(args) => transfer::export(app, &args),
        Command::Bucket(command) => branches::bucket(app, command),
        Command::Branch(command) => branches::branch(app, command),
        Command::Snapshot(command) => branches::snapshot(app, command),
        Command::ShareCheck(args) => branches::share_check(app, args),
        Command::Diff(args) => history::diff(app, &args),
        Command::Log(args) => history::log(app, &args),
        Command::Watch(args) => history::watch(app, &args),
        Command::Conflicts(args) => conflicts::conflicts(app, &args),
        Command::Resolve(args) => conflicts::resolve(app, &args),
        Command::Sessions(command) => sessions::run(app, command),
        Command::Share(args) => sync::share(app, &args),
        Command::Join(args) => sync::join(app, &args),
        Command::Peers { command } => sync::peers(app, command.unwrap_or(PeersCommand::List)),
        Command::Sync { command } => {
            sync::sync(app, command.unwrap_or(SyncCommand::Status { wait: None }))
        }
        Command::Node(args) => sync::node(app, &args),
        Command::Fetch(args) => content::fetch(app, &args),
        Command::Pin(args) => content::pin(app, &args),
        Command::Unpin(args) => content::unpin(app, &args),
        Command::Evict(args) => content::evict(app, &args),
        Command::Policy(args) => content::policy(app, &args),
        Command::Fsck(args) => upkeep::fsck(app, &args),
        Command::Gc(args) => upkeep::gc(app, &args),
        Command::Stats => upkeep::stats(app),
        Command::Demo(args) => demo::run(app, &args),
        Command::Completions { shell } => upkeep::completions(app, shell),
    }
}
