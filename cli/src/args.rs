//! The command line: every command, option and example.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use alknet_fs::{ContentPolicy, Error, ErrorKind, TreeRef};
use clap::parser::ValueSource;
use clap::{ArgAction, Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand};

/// Makes the part of a help text that shows how a command is used.
macro_rules! examples {
    ($($line:literal)*) => {
        concat!("\x1b[1m\x1b[4mExamples:\x1b[0m", $("\n  ", $line,)*)
    };
}

const NOTES: &str = concat!(
    "Paths inside the store are plain arguments, such as /src/a.rs; \"-\" is standard input or \
     output.\nNAME@SNAPSHOT names a snapshot wherever a branch is only read.\n\n",
    "\x1b[1m\x1b[4mExit status:\x1b[0m\n",
    "  0    success\n",
    "  1    the operation failed, or diff or fsck found something\n",
    "  2    the command line is wrong\n",
    "  130  Ctrl-C ended the work\n\n",
    "With --json, times are RFC 3339 in UTC with nanoseconds, sizes are in bytes, and modes are \
     octal text.\n\n",
    "\x1b[1m\x1b[4mExamples:\x1b[0m\n",
    "  alkfs demo                            see what it does, in a temporary store\n",
    "  alkfs mkfs                            make a store in ./.alkfs\n",
    "  alkfs import ./project /              bring a directory in\n",
    "  alkfs branch create agent-a           fork it, at no cost\n",
    "  alkfs --branch agent-a put - /a.txt   write there; main does not change\n",
    "  alkfs diff main agent-a --content     see what the agent did",
);

/// The groups in which the help lists the commands.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Files",
        &[
            "put", "get", "cat", "ls", "stat", "mkdir", "rm", "mv", "cp", "ln",
        ],
    ),
    ("Whole trees", &["import", "export"]),
    (
        "Branches",
        &["branch", "snapshot", "diff", "share-check", "bucket"],
    ),
    (
        "Changes",
        &["log", "watch", "sessions", "conflicts", "resolve"],
    ),
    ("Other nodes", &["node", "share", "join", "peers", "sync"]),
    (
        "Contents that are elsewhere",
        &["fetch", "pin", "unpin", "evict", "policy"],
    ),
    ("The store", &["mkfs", "fsck", "gc", "stats"]),
    ("More", &["demo", "completions", "help"]),
];

/// Keeps files in an embedded, content-addressed store whose branches fork for free
#[derive(Debug, Parser)]
#[command(name = "alkfs", version, max_term_width = 100, after_help = NOTES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// Parses the command line of this process.
    pub(crate) fn from_command_line() -> Result<Self, clap::Error> {
        let matches = command().try_get_matches()?;
        let args = Self::from_arg_matches(&matches)?;
        let is_given = matches.value_source("bucket") == Some(ValueSource::CommandLine);
        let of_join = matches.subcommand_matches("join");
        let is_given = is_given
            || of_join
                .is_some_and(|of| of.value_source("bucket") == Some(ValueSource::CommandLine));
        if is_given && of_join.is_some() {
            let why = "--bucket cannot be used with join, which makes the bucket: --as NAME says what to call \
                       it here\n";
            return Err(command().error(clap::error::ErrorKind::ArgumentConflict, why));
        }
        match &args.command {
            Command::Put(put) if put.path.is_none() => Err(put.without_path()),
            Command::Fetch(fetch) if fetch.path.is_empty() && !fetch.all => {
                let text = "it does not say what to fetch: name paths, or `alkfs fetch --all` for all of \
                            the bucket";
                Err(missing("fetch", text))
            }
            _ => Ok(args),
        }
    }
}

/// Returns the command with its help in groups.
pub(crate) fn command() -> clap::Command {
    let mut command = Args::command();
    command.build();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        groups.push_str(&format!("\x1b[1m\x1b[4m{title}:\x1b[0m\n"));
        for name in *names {
            let about = command
                .find_subcommand(name)
                .and_then(|found| found.get_about())
                .map(ToString::to_string)
                .unwrap_or_default();
            groups.push_str(&format!("  \x1b[1m{name:<13}\x1b[0m{about}\n"));
        }
        groups.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}\
         \x1b[1m\x1b[4mOptions:\x1b[0m\n{{options}}{{after-help}}"
    );
    Args::command().help_template(template)
}

/// Options of every command.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The store's directory [default: ./.alkfs]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ALKFS_STORE",
        hide_env_values = true
    )]
    pub(crate) store: Option<PathBuf>,
    /// The bucket [default: default]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "ALKFS_BUCKET",
        hide_env_values = true
    )]
    pub(crate) bucket: Option<String>,
    /// The branch, or NAME@SNAPSHOT where it is only read [default: main]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "ALKFS_BRANCH",
        hide_env_values = true
    )]
    pub(crate) branch: Option<TreeRef>,
    /// Who is named as the author of changes [default: your user name]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "ALKFS_AUTHOR",
        hide_env_values = true
    )]
    pub(crate) author: Option<String>,
    /// Print a line of JSON for each record, and errors as JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more; twice for the details (ALKFS_LOG sets filters, such as "alknet_fs=trace")
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Print only what was asked for, and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a store
    #[command(after_help = examples!(
        "alkfs mkfs                      # in ./.alkfs"
        "alkfs mkfs ~/work/store"
        "alkfs --store ~/work/store mkfs"
    ))]
    Mkfs(Mkfs),
    /// Write a file from the disk or from standard input
    #[command(after_help = examples!(
        "alkfs put notes.txt /notes.txt"
        "alkfs put notes.txt /docs/      # as /docs/notes.txt"
        "tar c . | alkfs put - /backup.tar"
        "alkfs put -p --mode 755 run.sh /bin/run"
        "printf fixed | alkfs put --at 4096 - /disk.img   # these bytes only, in place"
    ))]
    Put(Put),
    /// Copy a file to the disk or to standard output
    #[command(after_help = examples!(
        "alkfs get /notes.txt            # to ./notes.txt"
        "alkfs get --verify /disk.img copy.img"
        "alkfs get --range 1M..2M /disk.img part.img"
        "alkfs get --side 1 /notes.txt theirs.txt   # what lost in a conflict"
        "alkfs get /backup.tar - | tar t"
    ))]
    Get(Get),
    /// Print files
    #[command(after_help = examples!(
        "alkfs cat /notes.txt"
        "alkfs --branch main@v1 cat /src/a.rs"
        "alkfs cat --range ..1K /log.txt"
        "alkfs cat --side 1 /notes.txt   # what lost in a conflict, see alkfs conflicts"
    ))]
    Cat(Cat),
    /// List directories
    #[command(after_help = examples!(
        "alkfs ls"
        "alkfs ls -l /src"
        "alkfs --branch agent-a ls -R /"
    ))]
    Ls(Ls),
    /// Show all attributes of files, their hash and how they are kept
    #[command(after_help = examples!(
        "alkfs stat /src/a.rs"
        "alkfs --json stat /src/a.rs | jq -r .hash"
    ))]
    Stat(Stat),
    /// Make directories
    #[command(after_help = examples!(
        "alkfs mkdir /docs"
        "alkfs mkdir -p /docs/old/2024"
    ))]
    Mkdir(Mkdir),
    /// Remove files or directories, all in one commit
    #[command(after_help = examples!(
        "alkfs rm /notes.txt /old.txt"
        "alkfs rm -r /target"
    ))]
    Rm(Rm),
    /// Move or rename files and directories
    #[command(after_help = examples!(
        "alkfs mv /a.txt /b.txt"
        "alkfs mv /a.txt /b.txt /docs    # into a directory"
        "alkfs mv -n /a.txt /b.txt       # fail where /b.txt exists"
    ))]
    Mv(Mv),
    /// Copy files and directories; contents are shared, so a copy takes no space
    #[command(after_help = examples!(
        "alkfs cp /a.txt /b.txt"
        "alkfs cp -r /src /src-before"
    ))]
    Cp(Cp),
    /// Make a symbolic link
    #[command(after_help = examples!(
        "alkfs ln -s v2/config.toml /config.toml"
    ))]
    Ln(Ln),
    /// Bring a directory of the disk in, with modes, times and links
    #[command(
        after_help = examples!(
            "alkfs import ~/project /"
            "alkfs import ~/project / --exclude target --exclude '*.o'"
            "alkfs import ~/project / --delete   # make it the same again"
        ),
        long_about = "Bring a directory of the disk in, with modes, times and links.\n\nA directory \
            that was imported before is compared by size and times; only what may have changed is \
            read. What cannot be kept, such as sockets, is left out and named, and the exit status \
            is 1 then."
    )]
    Import(Import),
    /// Write a tree to a directory of the disk, with modes, times and links
    #[command(after_help = examples!(
        "alkfs export ./out              # the whole branch"
        "alkfs export /src ./out"
        "alkfs --branch main@v1 export ./v1 --sync"
    ))]
    Export(Export),
    /// List, make, rename and delete buckets
    #[command(subcommand, after_help = examples!(
        "alkfs bucket list"
        "alkfs bucket create tenant-7"
        "alkfs --bucket tenant-7 ls"
    ))]
    Bucket(BucketCommand),
    /// List, fork, rename, delete and restore branches
    #[command(subcommand, after_help = examples!(
        "alkfs branch list"
        "alkfs branch create agent-a"
        "alkfs branch create fix --from main@v1"
        "alkfs branch restore main v1"
    ))]
    Branch(BranchCommand),
    /// List, take, rename and delete snapshots
    #[command(subcommand, after_help = examples!(
        "alkfs snapshot create v1"
        "alkfs snapshot list"
        "alkfs --branch main@v1 ls"
    ))]
    Snapshot(SnapshotCommand),
    /// Compare two branches or snapshots; the exit status is 1 where they differ
    #[command(after_help = examples!(
        "alkfs diff main agent-a"
        "alkfs diff main@v1 main /src --content"
        "alkfs diff main agent-a --stat"
    ))]
    Diff(Diff),
    /// Show what changed on a branch, the newest first
    #[command(after_help = examples!(
        "alkfs log"
        "alkfs log /src -n 20 --glob '*.rs'"
        "alkfs log --all-branches"
    ))]
    Log(Log),
    /// Print changes as they happen, in any process
    #[command(
        after_help = examples!(
            "alkfs watch"
            "alkfs watch /src --glob '*.rs' --all-branches"
            "alkfs --json watch --after 2048 # resume after a cursor, missing nothing"
            "alkfs watch --count 1 --timeout 60   # wait for the next change"
        ),
        long_about = "Print changes as they happen, in any process.\n\nEach event carries a cursor; \
            watching again with --after CURSOR goes on right after it. The exit status is 1 where \
            --timeout passed before --count events came.\n\nThese are the commits of --branch \
            itself. A live fork shows what its parent commits too, but as the parent's events: \
            watch the parent with --branch, or all with --all-branches."
    )]
    Watch(Watch),
    /// List, abort, close and clean up open write sessions
    #[command(subcommand, after_help = examples!(
        "alkfs sessions list"
        "alkfs sessions close 12 --yes   # commit what a crashed writer had written"
        "alkfs sessions clean"
    ))]
    Sessions(SessionsCommand),
    /// Make a ticket by which another node gets a bucket
    #[command(
        after_help = examples!(
            "alkfs share                     # the default bucket, to read and write"
            "alkfs share work --read-only --expires 7d"
            "alkfs share work --branch docs  # one branch, and to read what it inherits"
            "alkfs --quiet share work | ssh other alkfs join -"
        ),
        long_about = "Make a ticket by which another node gets a bucket.\n\nWhoever has the ticket is \
            let in, until it expires or is revoked (`alkfs peers revoke`): hand it over in private. \
            With --branch, only that branch is shared."
    )]
    Share(Share),
    /// Get a bucket that another node shares
    #[command(
        after_help = examples!(
            "alkfs join alkfsah3q..."
            "alkfs join alkfsah3q... --as their-work"
            "alkfs join - < ticket.txt"
        ),
        long_about = "Get a bucket that another node shares.\n\nThe bucket is made here and kept the \
            same as there for as long as `alkfs node` runs, after a restart too. Contents come when \
            they are read; see `alkfs policy` and `alkfs pin`.\n\nTickets for one bucket add up. Where \
            the other node does not let this one in, nothing is joined. What was written here while \
            the bucket was only read goes out by a ticket to write; it is said how much that is."
    )]
    Join(Join),
    /// List, name and revoke the nodes that this one shares with
    #[command(after_help = examples!(
        "alkfs peers                     # as alkfs peers list"
        "alkfs peers name 5f1c08 laptop"
        "alkfs peers revoke laptop"
    ))]
    Peers {
        #[command(subcommand)]
        command: Option<PeersCommand>,
    },
    /// Show how it stands with other nodes, or leave a bucket to itself
    #[command(after_help = examples!(
        "alkfs sync                      # as alkfs sync status"
        "alkfs sync status --wait 60     # until all is synced"
    ))]
    Sync {
        #[command(subcommand)]
        command: Option<SyncCommand>,
    },
    /// Run the node: keep shared buckets the same as those of other nodes, until Ctrl-C
    #[command(
        after_help = examples!(
            "alkfs node"
            "alkfs node --loopback           # for nodes on this machine only"
            "alkfs node --port 4919"
            "alkfs node --mdns               # find peers on the local network wherever they are"
            "alkfs node --relay https://relay.example.org"
        ),
        long_about = "Run the node: keep shared buckets the same as those of other nodes, until \
            Ctrl-C.\n\nOne process runs the node of a store; the others use the store meanwhile. Unless \
            asked, it uses no relays and no name servers, and sends nothing but to those that were let in \
            and let this one in, and to other members of their buckets.\n\nTickets \
            say which relay the node uses: start it with --relay before `alkfs share`, and name one on \
            the other side too."
    )]
    Node(RunNode),
    /// Fetch contents that are not here from peers; the exit status is 1 where some cannot be had
    #[command(
        after_help = examples!(
            "alkfs fetch /docs /notes.txt"
            "alkfs --branch main@v1 fetch /"
            "alkfs fetch --all               # of all branches and snapshots of the bucket"
        ),
        long_about = "Fetch contents that are not here from peers; the exit status is 1 where some \
            cannot be had.\n\nThe process that runs the node (`alkfs node`) does the work. Reading a \
            file fetches what it needs by itself; `alkfs pin` and `alkfs policy eager` fetch what \
            comes in the background."
    )]
    Fetch(Fetch),
    /// Keep paths here: fetch their contents in the background, and never evict them
    #[command(
        after_help = examples!(
            "alkfs pin                       # list the pins"
            "alkfs pin /docs                 # with all below it"
            "alkfs pin '*.md' '/src/**/*.rs'"
        ),
        long_about = "Keep paths here: fetch their contents in the background, and never evict \
            them.\n\nA pin is a path, with all below it, or a pattern, in all branches and snapshots \
            of the bucket: * and ? stop at \"/\", ** does not, and a pattern without a \"/\" matches \
            names at any depth."
    )]
    Pin(Pin),
    /// Take pins off; what is here stays until it is evicted
    #[command(after_help = examples!(
        "alkfs unpin /docs"
        "alkfs unpin '*.md'"
    ))]
    Unpin(Unpin),
    /// Make room: remove contents that a peer holds, those first that were not read for longest
    #[command(
        after_help = examples!(
            "alkfs evict                     # down to the cache limit"
            "alkfs evict --to-bytes 10G"
            "alkfs evict --to-bytes 0        # all that may go"
        ),
        long_about = "Make room: remove contents that a peer holds, those first that were not read \
            for longest.\n\nThe process that runs the node (`alkfs node`) asks the peers first; what \
            is only here stays, and so does what is pinned, in use, or in a bucket that is eager or \
            not shared; and what a peer evicted relying on this node, for ten minutes. What went is fetched again when it is read."
    )]
    Evict(Evict),
    /// Show or set when contents are fetched, how long reads wait, and how much is kept
    #[command(after_help = examples!(
        "alkfs policy                    # show it, and what waits to be fetched"
        "alkfs policy eager              # fetch all that comes, in the background"
        "alkfs policy on-read --timeout 2m"
        "alkfs policy --cache-limit 50G  # of the whole store; \"none\" for no limit"
    ))]
    Policy(Policy),
    /// List what nodes wrote to one path without knowing of each other
    #[command(
        after_help = examples!(
            "alkfs conflicts                 # of all branches of the bucket"
            "alkfs conflicts agent-a"
            "alkfs cat --side 1 /notes.txt   # read what lost"
            "alkfs --json conflicts | jq -r .path"
        ),
        long_about = "List what nodes wrote to one path without knowing of each other.\n\nOn all \
            nodes the same one wins and is shown: an edit over a removal, a directory over a file, \
            else the later one. The others are kept until somebody decides, by `alkfs resolve` or by \
            writing the path; `alkfs cat --side N PATH` prints one, and `alkfs get` writes it to a file.\n\n\
            Branches and snapshots that were given one name on several nodes are listed too: all but one \
            have \"~\" and some digits behind the name. To rename or delete one of them settles it \
            (`alkfs branch rename`, `alkfs snapshot rename`)."
    )]
    Conflicts(Conflicts),
    /// Decide a conflict, on all nodes
    #[command(
        after_help = examples!(
            "alkfs resolve /notes.txt --keep winner   # what is shown"
            "alkfs resolve /notes.txt --keep 1        # the first of the others"
            "alkfs resolve /notes.txt --keep both     # the others beside it, under other names"
        ),
        long_about = "Decide a conflict, on all nodes. See `alkfs conflicts` for the sides that there \
            are, and `alkfs cat --side N` to read one.\n\nA side that is a removal removes what is shown, and one \
            that is a file takes the place of a directory with all that is in it."
    )]
    Resolve(Resolve),
    /// Check the store; the exit status is 1 where something is wrong
    #[command(after_help = examples!(
        "alkfs fsck                      # read and verify everything"
        "alkfs fsck --fast               # the structure only"
    ))]
    Fsck(Fsck),
    /// Free the space of contents that nothing refers to
    #[command(
        after_help = examples!(
            "alkfs gc --dry-run"
            "alkfs gc --grace 0"
            "alkfs gc --grace 0 --compact    # and make the database file smaller"
            "alkfs gc --schedule \"@every 6h\" --grace 7d --keep-events-for 90d"
            "alkfs gc --due                  # what the schedule says, for cron"
        ),
        long_about = "Free the space of contents that nothing refers to.\n\nContent files go from \
            the disk. Space inside the database stays there and is used again by later writes; \
            `alkfs stats` shows how much it is, and --compact gives it back."
    )]
    Gc(Gc),
    /// Show how many things the store holds and how much disk it takes
    #[command(after_help = examples!(
        "alkfs stats"
        "alkfs --json stats | jq ."
    ))]
    Stats,
    /// Show how much content branches share
    #[command(after_help = examples!(
        "alkfs share-check               # all branches of the bucket"
        "alkfs share-check main agent-a main@v1"
    ))]
    ShareCheck(ShareCheck),
    /// Run a tour on real files: branches, sessions, events, sharing
    #[command(
        after_help = examples!(
            "alkfs demo"
            "alkfs demo ~/project"
            "alkfs demo --keep               # look around in the store afterwards"
        ),
        long_about = "Run a tour on real files: branches, sessions, events, sharing.\n\nIt imports a \
            directory and a large generated file into a temporary store (or into the one that \
            --store or ALKFS_STORE names), lets two agents work on forks of it, and shows who sees \
            what and what it costs. It checks all that it shows, and the exit status is 1 where a \
            check fails."
    )]
    Demo(Demo),
    /// Print a script that completes commands in a shell
    #[command(after_help = examples!(
        "alkfs completions bash > ~/.local/share/bash-completion/completions/alkfs"
        "alkfs completions zsh > ~/.zfunc/_alkfs"
        "alkfs completions fish > ~/.config/fish/completions/alkfs.fish"
    ))]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Mkfs {
    /// Where to make it; otherwise where --store says
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "alkfs put [OPTIONS] <FILE|-> <PATH>")]
pub(crate) struct Put {
    /// The file to read; "-" for standard input
    pub(crate) file: PathBuf,
    /// The path to write; if it is a directory or ends in "/" it takes the file's name
    pub(crate) path: Option<String>,
    /// Write from this offset on, in place: the bytes before and after stay, a gap reads as zeros,
    /// and a large file stores only what changed; K, M and G multiply
    #[arg(long, value_name = "OFFSET", value_parser = parse_size)]
    pub(crate) at: Option<u64>,
    /// The permission bits, in octal; otherwise those of a new path's FILE, or 644
    #[arg(short, long, value_parser = parse_mode, value_name = "OCTAL")]
    pub(crate) mode: Option<u32>,
    /// Make the directories above that are missing
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// Hold the path's lock while writing, so that another exclusive writer fails
    #[arg(short = 'x', long)]
    pub(crate) exclusive: bool,
    /// Fail where the path exists
    #[arg(short = 'n', long)]
    pub(crate) no_clobber: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Get {
    /// The path to read
    pub(crate) path: String,
    /// The file or directory to write; "-" for standard output [default: the file's name, here]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) how: ReadHow,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Cat {
    /// The paths to print
    #[arg(required = true)]
    pub(crate) path: Vec<String>,
    #[command(flatten)]
    pub(crate) how: ReadHow,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ReadHow {
    /// Check the bytes against the file's hash; damaged bytes are never written
    #[arg(long)]
    pub(crate) verify: bool,
    /// Only these bytes; the end is not included, either may be left out, K, M and G multiply
    #[arg(long, value_parser = parse_range, value_name = "START..END")]
    pub(crate) range: Option<std::ops::Range<u64>>,
    /// Where the path is in conflict, what lost there: the number of the side in `alkfs conflicts`
    #[arg(long, value_parser = parse_side, value_name = "N")]
    pub(crate) side: Option<usize>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Ls {
    /// The paths to list
    #[arg(default_value = "/")]
    pub(crate) path: Vec<String>,
    /// Show modes, sizes, times and the targets of links
    #[arg(short, long)]
    pub(crate) long: bool,
    /// List everything below, by path
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// List a directory itself, not what is in it
    #[arg(short, long)]
    pub(crate) directory: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Stat {
    /// The paths to show
    #[arg(required = true)]
    pub(crate) path: Vec<String>,
    /// Show what a link points to
    #[arg(short = 'L', long)]
    pub(crate) follow: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Mkdir {
    /// The directories to make
    #[arg(required = true)]
    pub(crate) path: Vec<String>,
    /// Make those above too, and accept directories that exist
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// The permission bits of the directories, in octal
    #[arg(short, long, value_parser = parse_mode, value_name = "OCTAL", conflicts_with = "parents")]
    pub(crate) mode: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Rm {
    /// What to remove
    #[arg(required = true)]
    pub(crate) path: Vec<String>,
    /// Remove directories with all below them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Accept paths that do not exist
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Mv {
    /// What to move
    #[arg(required = true)]
    pub(crate) from: Vec<String>,
    /// Its new path; a directory takes it in under its name
    pub(crate) to: String,
    /// Fail where the new path exists
    #[arg(short = 'n', long)]
    pub(crate) no_clobber: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Cp {
    /// What to copy
    #[arg(required = true)]
    pub(crate) from: Vec<String>,
    /// The path of the copy; a directory takes it in under its name
    pub(crate) to: String,
    /// Copy directories with all below them
    #[arg(short, long)]
    pub(crate) recursive: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Ln {
    /// What the link points to; it need not exist
    pub(crate) target: String,
    /// The path of the link
    pub(crate) path: String,
    /// Make a symbolic link: the only kind there is
    #[arg(short, long)]
    pub(crate) symbolic: bool,
    /// Replace a file or link at the path
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Import {
    /// The directory of the disk
    pub(crate) dir: PathBuf,
    /// The path it goes to; made if it is missing
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Leave out what matches: "*.o" anywhere, "/target" or "a/**" from the top
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// Remove what the directory lacks
    #[arg(long)]
    pub(crate) delete: bool,
}

#[derive(Debug, ClapArgs)]
#[command(override_usage = "alkfs export [OPTIONS] [PATH] <DIR>")]
pub(crate) struct Export {
    /// PATH is what to write, everything if it is left out; DIR is the directory of the disk, made
    /// if it is missing
    #[arg(required = true, num_args = 1..=2, value_name = "[PATH] DIR")]
    operands: Vec<OsString>,
    /// Allow a directory that is not empty: files of the same name are replaced
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Return when everything is safe from a power cut
    #[arg(long)]
    pub(crate) sync: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BucketCommand {
    /// List the buckets
    #[command(after_help = examples!("alkfs bucket list"))]
    List,
    /// Make a bucket, with an empty branch main
    #[command(after_help = examples!("alkfs bucket create tenant-7"))]
    Create {
        /// Its name
        name: String,
    },
    /// Give a bucket another name
    #[command(after_help = examples!("alkfs bucket rename tenant-7 tenant-8"))]
    Rename {
        /// Its name
        name: String,
        /// Its new name
        new: String,
    },
    /// Delete a bucket with all that is in it
    #[command(after_help = examples!("alkfs bucket delete tenant-7 --yes"))]
    Delete {
        /// Its name
        name: String,
        /// Really delete its branches, snapshots, sessions and history
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BranchCommand {
    /// List the branches of the bucket
    #[command(after_help = examples!("alkfs branch list"))]
    List,
    /// Fork a branch: it shows all that the other shows, and its writes stay its own
    #[command(
        after_help = examples!(
            "alkfs branch create agent-a            # off --branch; later writes to it show through"
            "alkfs branch create agent-b --pinned   # nothing changes under it"
            "alkfs branch create fix --from main@v1 # off a snapshot that is there; pinned too"
        ),
        long_about = "Fork a branch: it shows all that the other shows, and its writes stay its \
            own.\n\nA fork of a branch is live: what is written to the other later shows through \
            where the fork has not changed it itself. A fork of a snapshot is pinned: it shows what \
            was there then, whatever happens to the other. Choose live to follow a moving branch, \
            pinned for work that must not change under you."
    )]
    Create {
        /// The new branch's name
        name: String,
        /// The branch or snapshot to fork off [default: --branch]
        #[arg(long, value_name = "NAME[@SNAPSHOT]")]
        from: Option<TreeRef>,
        /// Take a snapshot of the branch first, named NAME-base, and fork off that
        #[arg(long)]
        pinned: bool,
    },
    /// Give a branch another name
    #[command(after_help = examples!("alkfs branch rename agent-a review"))]
    Rename {
        /// Its name
        name: String,
        /// Its new name
        new: String,
        /// Really rename main, which commands and programs use unless another is named
        #[arg(long)]
        yes: bool,
    },
    /// Delete a branch with its snapshots
    #[command(after_help = examples!(
        "alkfs branch delete agent-a"
        "alkfs branch delete agent-a --yes      # with its snapshots"
    ))]
    Delete {
        /// Its name
        name: String,
        /// Really delete its snapshots too, where it has some
        #[arg(long)]
        yes: bool,
    },
    /// Make a branch look as it did at one of its snapshots
    #[command(
        after_help = examples!(
            "alkfs branch restore main v1"
            "alkfs branch restore main v1 --discard"
        ),
        long_about = "Make a branch look as it did at one of its snapshots.\n\nA snapshot of the \
            present state is taken first, and its name printed, unless --discard is given."
    )]
    Restore {
        /// The branch
        name: String,
        /// The snapshot
        snapshot: String,
        /// Do not keep the present state
        #[arg(long)]
        discard: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// List the snapshots of --branch, or of all branches
    #[command(after_help = examples!("alkfs snapshot list" "alkfs --branch main snapshot list"))]
    List,
    /// Take a snapshot of --branch
    #[command(after_help = examples!("alkfs snapshot create v1"))]
    Create {
        /// Its name
        name: String,
    },
    /// Give a snapshot of --branch another name
    #[command(after_help = examples!("alkfs snapshot rename v1~1a2b3c4d v1-laptop"))]
    Rename {
        /// Its name
        name: String,
        /// Its new name
        new: String,
    },
    /// Forget a snapshot of --branch; branches forked from it keep what they show
    #[command(after_help = examples!("alkfs snapshot delete v1"))]
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Diff {
    /// The first branch or snapshot
    pub(crate) a: TreeRef,
    /// The second branch or snapshot
    pub(crate) b: TreeRef,
    /// Compare only at and below this path
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Show only the sums
    #[arg(long, conflicts_with = "content")]
    pub(crate) stat: bool,
    /// Show how the text of files differs
    #[arg(short, long)]
    pub(crate) content: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Log {
    /// Only changes at and below this path
    pub(crate) path: Option<String>,
    /// How many to show
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub(crate) count: usize,
    /// Only paths that match; may be given again
    #[arg(long, value_name = "GLOB")]
    pub(crate) glob: Vec<String>,
    /// Changes of all branches of the bucket
    #[arg(short, long)]
    pub(crate) all_branches: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Watch {
    /// Only changes at and below this path
    pub(crate) path: Option<String>,
    /// Only paths that match; may be given again
    #[arg(long, value_name = "GLOB")]
    pub(crate) glob: Vec<String>,
    /// Begin after this cursor; 0 for all that is kept [default: from now on]
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<u64>,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End after this time, in seconds or such as "5m"
    #[arg(long, value_name = "SECS", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Changes of all branches of the bucket
    #[arg(short, long)]
    pub(crate) all_branches: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Conflicts {
    /// The branch; none lists those of all branches
    #[arg(value_name = "BRANCH")]
    pub(crate) of: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Resolve {
    /// The path
    pub(crate) path: String,
    /// What is to be at the path: "winner", the number of one of the others, or "both"
    #[arg(long, value_name = "winner|N|both", value_parser = keep_side)]
    pub(crate) keep: KeepSide,
}

/// A side of a conflict, as `alkfs conflicts` names it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeepSide {
    Winner,
    /// Counted from 1.
    Other(usize),
    Both,
}

fn keep_side(text: &str) -> Result<KeepSide, String> {
    match (text, text.parse()) {
        ("winner", _) => Ok(KeepSide::Winner),
        ("both", _) => Ok(KeepSide::Both),
        (_, Ok(n)) if n > 0 => Ok(KeepSide::Other(n)),
        _ => Err("it is \"winner\", a number from 1, or \"both\"".to_owned()),
    }
}

fn parse_side(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("a side is a number from 1, as `alkfs conflicts` lists them".to_owned()),
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Share {
    /// The bucket [default: that of --bucket]
    #[arg(value_name = "BUCKET")]
    pub(crate) name: Option<String>,
    /// Let it only be read
    #[arg(long)]
    pub(crate) read_only: bool,
    /// For how long, such as 12h or 7d [default: for good]
    #[arg(long, value_name = "TIME", value_parser = parse_grant_duration)]
    pub(crate) expires: Option<Duration>,
    /// What to call the grant in `alkfs peers grants`
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Join {
    /// The ticket; - reads it from standard input
    pub(crate) ticket: OsString,
    /// What to call the bucket here [default: its name there]
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Make one bucket of it and the one here that has its name
    #[arg(long)]
    pub(crate) merge: bool,
    /// Where the node runs here, wait so long for the other one's answer
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub(crate) wait: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeersCommand {
    /// List the nodes that were let in or joined, and what each may do
    #[command(after_help = examples!("alkfs peers list"))]
    List,
    /// List what was shared, used or not
    #[command(after_help = examples!("alkfs peers grants"))]
    Grants,
    /// Give a node a name
    #[command(after_help = examples!("alkfs peers name 5f1c08 laptop"))]
    Name {
        /// Its key, the beginning of it (4 characters or more), or its name
        peer: String,
        /// The new name
        name: String,
    },
    /// Take everything back that a node was given, or one grant from all who use it
    #[command(
        after_help = examples!("alkfs peers revoke laptop" "alkfs peers revoke 5f1c08"),
        long_about = "Take everything back that a node was given, or one grant from all who use \
            it.\n\nThe node is let in no longer, from this moment on. What it has already, it keeps. \
            The tickets that it used let nobody new in any more, since it could come again with \
            another key. A node that others let in is out for this one, and stays with those that \
            let it in."
    )]
    Revoke {
        /// The node's key, the beginning of it (4 characters or more), or its name; or of a grant of
        /// `alkfs peers grants` the id, the beginning of it, or the label
        who: String,
    },
    /// Forget the name and addresses of a node that there is nothing more to do with
    #[command(
        after_help = examples!("alkfs peers forget laptop"),
        long_about = "Forget the name and addresses of a node that there is nothing more to do \
            with.\n\nIt must be let into nothing (`alkfs peers revoke`), and nothing may be joined from \
            it (`alkfs sync leave`). What was taken back from it stays so."
    )]
    Forget {
        /// Its key, the beginning of it (4 characters or more), or its name
        peer: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SyncCommand {
    /// Show for each node and bucket whether it is connected, and how much each side is behind
    #[command(
        after_help = examples!("alkfs sync status" "alkfs --bucket notes sync status --wait 60"),
        long_about = "Show for each node and bucket whether it is connected, and how much each side is \
            behind; with --bucket, of that bucket alone.\n\nStates: \"synced\": each side knows all that the other one knows, and holds the \
            contents. \"contents\": both know the same, but contents are missing on a side; by the policy \
            \"on-read\" these come when they are read. \"syncing\": something is on its way. \"away\": not \
            connected. \"refused\": the other does not let this one in.\n\n\"behind here\" is what this store lacks, \"behind there\" what the other is not \
            known to have. Of one that is not connected it is what was known last, with what was written here \
            since; \"unknown\" where they never were. In \"may\" stands what the other lets this node do (\"read\", \"write\"), or what \
            it is let do here (\"it may write\"), with the branches and the end of each grant that has them; \"as others say\" where there is no grant between the two. A \
            node that vanished counts as connected for up to half a minute."
    )]
    Status {
        /// Wait until all that this node shared with or joined from is synced, at most so long; the exit
        /// status is 1 where it is not. Peers "as others say" are not waited for
        #[arg(long, value_name = "SECS", value_parser = parse_duration)]
        wait: Option<Duration>,
    },
    /// Stop keeping a joined bucket the same as elsewhere; the bucket stays
    #[command(
        after_help = examples!(
            "alkfs sync leave their-work"
            "alkfs sync leave their-work --from laptop   # which is gone for good"
        ),
        long_about = "Stop keeping a joined bucket the same as elsewhere; the bucket stays.\n\nWhom this \
            node let in goes on with it, until `alkfs peers revoke`; and so does everybody else, among each \
            other. To delete the bucket leaves it too."
    )]
    Leave {
        /// The bucket [default: that of --bucket]
        #[arg(value_name = "BUCKET")]
        name: Option<String>,
        /// Leave it for this peer alone: its name, its key, or the beginning of its key (4 characters or more)
        #[arg(long = "from", value_name = "PEER")]
        peer: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunNode {
    /// Listen on this machine only
    #[arg(long, conflicts_with_all = ["relay", "n0"])]
    pub(crate) loopback: bool,
    /// Listen on this UDP port [default: a free one, and from then on the same]
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Announce the node on the local network by mDNS, and look for peers there
    #[arg(long, conflicts_with = "loopback")]
    pub(crate) mdns: bool,
    /// Converse only with nodes that were let in here or gave a ticket, not with whom those let in
    #[arg(long)]
    pub(crate) no_gossip: bool,
    /// Use this relay for nodes that cannot be reached directly; may be given several times
    #[arg(long, value_name = "URL", value_parser = parse_relay)]
    pub(crate) relay: Vec<alknet_fs::node::RelayUrl>,
    /// Use the relays and name servers that n0 runs for everybody
    #[arg(long, conflicts_with = "relay")]
    pub(crate) n0: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// List the open write sessions of the store
    #[command(after_help = examples!("alkfs sessions list"))]
    List,
    /// Throw a session away with what it had written
    #[command(after_help = examples!("alkfs sessions abort 12" "alkfs sessions abort 12 --force"))]
    Abort {
        /// Its number
        id: u64,
        /// Even if a living process works on it
        #[arg(long)]
        force: bool,
    },
    /// Commit what a session had written, whose process is gone; its input may be incomplete
    #[command(
        after_help = examples!(
            "alkfs sessions close 12         # say what it would commit"
            "alkfs sessions close 12 --yes"
        ),
        long_about = "Commit what a session had written, whose process is gone.\n\nThe writer ended \
            before it finished, so what is there may be the beginning of the input only, or nothing \
            of it: it would replace the whole file. See `alkfs sessions list` for how much is there."
    )]
    Close {
        /// Its number
        id: u64,
        /// Really replace the file with what is there
        #[arg(long)]
        yes: bool,
    },
    /// Throw away all sessions whose process is gone
    #[command(after_help = examples!("alkfs sessions clean"))]
    Clean,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Fsck {
    /// Check the structure only, do not read the contents
    #[arg(long)]
    pub(crate) fast: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Gc {
    /// Remove contents that have been known to be unreferenced for this long, in seconds or such
    /// as "7d"; any other time than 0 takes a second run
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1h")]
    pub(crate) grace: Duration,
    /// Remove events older than this too
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) keep_events_for: Option<Duration>,
    /// Remove all but about this many of the newest events of each bucket too
    #[arg(long, value_name = "COUNT")]
    pub(crate) keep_events: Option<u64>,
    /// Only say what would go
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Then give the free space inside the database back to the disk; writers wait meanwhile
    #[arg(long, conflicts_with_all = ["dry_run", "schedule", "unschedule"])]
    pub(crate) compact: bool,
    /// Remove nothing now, but set when `gc --due` does: "@every 6h" (s, m, h or d) or the five
    /// fields of cron, such as "0 3 * * *" for every day at three
    #[arg(long, value_name = "WHEN", conflicts_with_all = ["dry_run", "due", "unschedule"])]
    pub(crate) schedule: Option<String>,
    /// End the schedule
    #[arg(long, conflicts_with_all = ["dry_run", "due"])]
    pub(crate) unschedule: bool,
    /// Do as the schedule says, if it is time and no other process does: for cron and services
    #[arg(long, conflicts_with_all = ["dry_run", "grace", "keep_events", "keep_events_for"])]
    pub(crate) due: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Fetch {
    /// The files or directories to fetch
    pub(crate) path: Vec<String>,
    /// Fetch all that the bucket's branches and snapshots show
    #[arg(long, conflicts_with = "path")]
    pub(crate) all: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pin {
    /// The paths or patterns to pin; none lists the pins
    pub(crate) pattern: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Unpin {
    /// The paths or patterns, as they were pinned
    #[arg(required = true)]
    pub(crate) pattern: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Evict {
    /// Down to how many bytes of contents; K, M and G multiply [default: the cache limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) to_bytes: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Policy {
    /// Fetch contents when they are read ("on-read"), or all that comes ("eager")
    #[arg(value_parser = parse_policy, value_name = "eager|on-read")]
    pub(crate) policy: Option<ContentPolicy>,
    /// How long reads wait for a content, in seconds or such as "2m"
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// How many bytes of contents the store, all buckets together, may hold; K, M and G multiply, and
    /// "none" is no limit
    #[arg(long, value_name = "SIZE", value_parser = parse_limit)]
    pub(crate) cache_limit: Option<Limit>,
}

/// A limit in bytes, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

#[derive(Debug, ClapArgs)]
pub(crate) struct ShareCheck {
    /// The branches or snapshots to compare [default: all branches]
    #[arg(value_name = "BRANCH")]
    pub(crate) tree: Vec<TreeRef>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// The directory to import [default: sources found nearby]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the temporary store, and say where it is
    #[arg(long)]
    pub(crate) keep: bool,
    /// The size of the large file, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) large: u64,
}

impl Put {
    /// Makes the error for a missing PATH, with what may have been meant.
    fn without_path(&self) -> clap::Error {
        let given = self.file.display();
        let name = self.file.file_name().map(|name| name.display());
        let meant = match name {
            Some(name) if self.file.is_file() => format!("alkfs put {given} /{name}"),
            _ if self.file.starts_with("/") => format!("alkfs put - {given}"),
            _ => format!("alkfs put {given} /PATH"),
        };
        let text = format!("it does not say where to put it: try `{meant}`");
        missing("put", &text)
    }
}

/// Makes the error for an argument that a command misses.
fn missing(name: &str, text: &str) -> clap::Error {
    let mut command = command();
    command.build();
    let kind = clap::error::ErrorKind::MissingRequiredArgument;
    match command.find_subcommand_mut(name) {
        Some(found) => found.error(kind, text),
        None => command.error(kind, text),
    }
}

impl Export {
    /// Returns the path to export.
    pub(crate) fn path(&self) -> Result<&str, Error> {
        split(&self.operands).0.map_or(Ok("/"), utf8)
    }

    /// Returns the directory to write.
    pub(crate) fn dir(&self) -> &Path {
        Path::new(split(&self.operands).1)
    }
}

/// Splits operands of which the first may be left out. Clap's own way to do so fails where an
/// option stands between the two.
fn split(operands: &[OsString]) -> (Option<&OsStr>, &OsStr) {
    match operands {
        [first, second, ..] => (Some(first), second),
        [only] => (None, only),
        [] => (None, OsStr::new("")),
    }
}

fn utf8(path: &OsStr) -> Result<&str, Error> {
    let invalid = || {
        let detail = "the path is not valid UTF-8";
        Error::with_detail(ErrorKind::InvalidPath, detail).path(path.display())
    };
    path.to_str().ok_or_else(invalid)
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permission bits are an octal number up to 7777, such as 644".to_owned()),
    }
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let Some((start, end)) = text.split_once("..") else {
        return Err("a range is START..END, such as 0..4K".to_owned());
    };
    let bound = |text: &str, default| match text {
        "" => Ok(default),
        text => parse_size(text),
    };
    let range = bound(start, 0)?..bound(end, u64::MAX)?;
    if range.start > range.end {
        return Err("the range ends before it starts".to_owned());
    }
    Ok(range)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a number of bytes"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is too large"))
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        size => parse_size(size).map(|size| Limit(Some(size))),
    }
}

fn parse_policy(text: &str) -> Result<ContentPolicy, String> {
    let all = [ContentPolicy::Eager, ContentPolicy::OnRead];
    let found = all.into_iter().find(|policy| policy.name() == text);
    found.ok_or_else(|| "a policy is \"eager\" or \"on-read\"".to_owned())
}

fn parse_relay(text: &str) -> Result<alknet_fs::node::RelayUrl, String> {
    let bad = |_| "the address of a relay is such as \"https://relay.example.org\"".to_owned();
    text.parse().map_err(bad)
}

fn parse_grant_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a grant for no time lets nobody in: give a longer one".to_owned()),
        time => Ok(time),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        "a time is a number of seconds, or such as \"90s\", \"10m\", \"1h 30m\", \"7d\" or \"2w\""
            .to_owned()
    };
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
    }
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    // A day has 24 hours here; months and years have no length of their own.
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let length = span.to_duration(days).map_err(|_| bad())?;
    length.try_into().map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group() {
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| *names).collect();
        let mut command = Args::command();
        command.build();
        let mut all: Vec<_> = command.get_subcommands().map(|c| c.get_name()).collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped.into_iter().copied().collect::<Vec<_>>(), all);
    }

    #[test]
    fn every_command_shows_examples_of_itself() {
        fn check(command: &clap::Command, name: &str) {
            for found in command.get_subcommands().filter(|c| c.get_name() != "help") {
                let name = format!("{name} {}", found.get_name());
                let examples = found.get_after_help().map(ToString::to_string);
                let examples = examples.unwrap_or_default();
                let word = found.get_name();
                let shown = examples.contains("Examples:") && examples.contains(word);
                assert!(shown, "{name}: {examples}");
                check(found, &name);
            }
        }
        let mut command = Args::command();
        command.build();
        check(&command, "alkfs");
    }

    #[test]
    fn ranges_sizes_and_times() {
        assert_eq!(parse_range("1K..2M"), Ok(1024..2 << 20));
        assert_eq!(parse_range("..5"), Ok(0..5));
        assert_eq!(parse_range("7.."), Ok(7..u64::MAX));
        for bad in ["5", "9..3", "a..b", "99999999999G.."] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_limit("2K"), Ok(Limit(Some(2048))));
        assert_eq!(parse_limit("none"), Ok(Limit(None)));
        assert!(parse_limit("much").is_err() && parse_policy("lazy").is_err());
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        let days = |n: u64| Ok(Duration::from_secs(n * 24 * 60 * 60));
        assert_eq!(parse_duration("7d"), days(7));
        assert_eq!(parse_duration("1w"), days(7));
        assert_eq!(parse_duration("90d"), days(90));
        assert_eq!(
            parse_duration("1d 2h"),
            Ok(Duration::from_secs(26 * 60 * 60))
        );
        for bad in ["-1", "-1d", "soon", "1 month", ""] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_mode("0755"), Ok(0o755));
        assert!(parse_mode("778").is_err() && parse_mode("10000").is_err());
    }
}
