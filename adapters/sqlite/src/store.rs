//! Opening a store and handing out its connections.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::store::{Durability, ReadTxn, Store, Version, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Result};
use parking_lot::{ArcMutexGuard, Mutex, RawMutex};
use rusqlite::{Connection, OpenFlags};

use crate::database::Database;
use crate::error::{DbResult, from_sqlite};
use crate::fork;
use crate::schema::{self, Identity};
use crate::turn::{Pauses, Turn};
use crate::wal_index::Versioned;
use crate::watch::Watch;

/// The name of the database within a store's directory.
pub const DATABASE_FILE: &str = "store.db";

const DAMAGED: &str = "store.db is no SQLite database, or a damaged or truncated one: restore it \
                       from a backup";

const PAGE_SIZE: u64 = 4096;

/// For how long a checkpoint waits for those who read.
const GLANCE: Duration = Duration::from_millis(20);

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long a call waits for other writers, of this and of other processes, before it fails
    /// with [`ErrorKind::Busy`]. 30 s by default.
    pub busy_timeout: Duration,
    /// How many idle reader connections are kept; more are opened when more threads read at once.
    /// 4 by default.
    pub max_readers: usize,
    /// How often [`Store::wait_for_commit`] looks for commits of others, once it was called.
    /// 2 ms by default; must not be 0.
    pub poll_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(30),
            max_readers: 4,
            poll_interval: Duration::from_millis(2),
        }
    }
}

/// The size of a store's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The size of a page in bytes.
    pub page_size: u64,
    /// How many pages the database has, as of the newest commit.
    pub pages: u64,
    /// How many of them are free and will be used again.
    pub free_pages: u64,
    /// The size of `store.db` in bytes.
    pub database_bytes: u64,
    /// The size of the write-ahead log in bytes; not all of it need be in use.
    pub wal_bytes: u64,
}

/// A store kept in SQLite.
///
/// All processes that open one directory share the store. Dropping the last object closes the
/// database cleanly: what the write-ahead log holds moves into `store.db`, and the log goes.
pub struct SqliteStore {
    // Fields drop in this order: the watcher's connection closes first, the writer's last.
    watch: Arc<Watch>,
    readers: Arc<Readers>,
    writer: Arc<Mutex<Writer>>,
    turn: Turn,
    dir: PathBuf,
    database: PathBuf,
    id: [u8; 16],
    options: Options,
}

impl SqliteStore {
    /// Makes a store in a directory, which is made too where it does not exist, and opens it.
    ///
    /// The directory gets the mode 0700 and the database 0600, whatever the umask.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where the directory holds a store, or a `store.db` that is
    /// something else; [`ErrorKind::NotEmpty`] where it holds anything else.
    pub fn create(dir: &Path, options: Options) -> Result<Self> {
        Self::create_files(dir, &options).map_err(|e| e.op("create store").path(dir.display()))?;
        Self::open(dir, options)
    }

    fn create_files(dir: &Path, options: &Options) -> Result<()> {
        create_private_dir(dir)?;
        let database = dir.join(DATABASE_FILE);
        // POSIX drops all locks that a process has on a file when it closes any descriptor of it, so
        // a fresh `store.db` must not be opened by SQLite in one thread while another one still has
        // the descriptor that created it.
        let creating = fork::creating();
        if !database.try_exists()? {
            refuse_other_files(dir)?;
        }
        create_private_file(&database)?;
        let taken = |what: &str| {
            let detail = format!("{DATABASE_FILE} exists and is {what}");
            Err(Error::with_detail(ErrorKind::AlreadyExists, detail))
        };
        let mut conn = connect(&database, options.busy_timeout).db()?;
        let before = match schema::initialise(&mut conn) {
            Err(e) if e.kind() == ErrorKind::Corrupt => return taken("not a store"),
            before => before?,
        };
        drop(creating);
        match before {
            Identity::Empty => sync_dir(dir),
            Identity::Store(_) => Err(Error::with_detail(
                ErrorKind::AlreadyExists,
                "there is a store already",
            )),
            Identity::Foreign => taken("the database of another program"),
        }
    }

    /// Opens the store in a directory, and brings its schema to this program's version.
    ///
    /// # Errors
    /// [`ErrorKind::NotAStore`] where there is no store, or one of a newer version; the message
    /// says what is there and what to do. [`ErrorKind::PermissionDenied`] where the files may not
    /// be read or written.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        Self::open_files(dir, options).map_err(|e| e.op("open store").path(dir.display()))
    }

    fn open_files(dir: &Path, options: Options) -> Result<Self> {
        let database = dir.join(DATABASE_FILE);
        look_at_files(dir, &database)?;
        let conn = {
            let _creating = fork::creating();
            open_writer(&database, &options)
        };
        let conn = conn.map_err(|e| {
            if e.kind() != ErrorKind::Corrupt {
                return e;
            }
            Error::with_detail(ErrorKind::NotAStore, DAMAGED).source(e)
        })?;
        let id = until_free(options.busy_timeout, || {
            conn.query_row("SELECT id FROM store_info", [], |row| row.get(0))
        })?;
        let writer = Writer {
            conn,
            durability: Durability::Full,
            unsynced: false,
            changes: 0,
            honker: false,
        };
        let opened = Database::at(&database)?;
        Ok(Self {
            watch: Arc::new(Watch::new(opened.clone(), options.poll_interval)),
            readers: Arc::new(Readers {
                idle: Mutex::new(Vec::new()),
                keep: options.max_readers,
                database: opened,
                busy_timeout: options.busy_timeout,
            }),
            writer: Arc::new(Mutex::new(writer)),
            turn: Turn::open(&with_suffix(&database, "-turn"))?,
            dir: dir.to_owned(),
            database,
            id,
            options,
        })
    }

    /// Returns the store's directory, as it was given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the 32 hexadecimal digits that name this store and no other.
    pub fn id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.id))
    }

    /// Looks for damage, and returns one line for each problem found.
    ///
    /// Checks that the database is well formed, that what rows refer to exists, and that every row
    /// decodes; with `full`, that tables and indexes agree too, which reads everything.
    ///
    /// # Errors
    /// Only where the check itself cannot run; damage is not an error.
    pub fn check(&self, full: bool) -> Result<Vec<String>> {
        let reader = self.readers.take()?;
        crate::check::check(reader.conn(), full)
    }

    /// Returns how large the database is.
    pub fn stats(&self) -> Result<Stats> {
        let reader = self.readers.take()?;
        let pragma = |name: &str| -> Result<u64> {
            let value: i64 = reader
                .conn()
                .pragma_query_value(None, name, |row| row.get(0))
                .db()?;
            Ok(value.unsigned_abs())
        };
        Ok(Stats {
            page_size: pragma("page_size")?,
            pages: pragma("page_count")?,
            free_pages: pragma("freelist_count")?,
            database_bytes: fs::metadata(&self.database)?.len(),
            wal_bytes: fs::metadata(with_suffix(&self.database, "-wal")).map_or(0, |m| m.len()),
        })
    }

    /// Moves what the write-ahead log holds into `store.db`, and empties the log.
    ///
    /// Returns whether all of it went; what an open read transaction may still need stays. Those are waited
    /// for that end at once, as the looks of whoever waits for commits do.
    pub fn checkpoint(&self) -> Result<bool> {
        let writer = self.lock_writer(self.deadline())?;
        let mut pauses = Pauses::new(Instant::now().checked_add(GLANCE));
        loop {
            let busy = writer
                .conn
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                    row.get::<_, bool>(0)
                });
            match busy.map_err(from_sqlite) {
                Ok(false) => return Ok(true),
                Err(e) if e.kind() != ErrorKind::Busy => return Err(e),
                _ if pauses.pause() => {}
                _ => return Ok(false),
            }
        }
    }

    /// Writes the database anew without its free pages, and empties the log.
    ///
    /// Returns whether the file is as small as it gets; while an open read transaction may still
    /// need old pages, it shrinks at a later checkpoint. A crash leaves the database as it was.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where other writers do not end in time, [`ErrorKind::NoSpace`] where
    /// there is no room for a second copy.
    pub fn compact(&self) -> Result<bool> {
        let deadline = self.deadline();
        let writer = self.lock_writer(deadline)?;
        // The store's own connection keeps temporary tables, and so the copy, in memory.
        let conn = connect(self.readers.database.path()?, Duration::ZERO).db()?;
        let turn = self.turn.take(deadline)?;
        let mut pauses = Pauses::new(deadline);
        loop {
            match run(&conn, "VACUUM") {
                Err(e) if e.kind() == ErrorKind::Busy && pauses.pause() => {}
                result => break result?,
            }
        }
        drop((turn, conn, writer));
        self.watch.committed();
        self.checkpoint()
    }

    /// Returns until when a call may wait; nothing where that is for ever.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.options.busy_timeout)
    }

    fn lock_writer(&self, deadline: Option<Instant>) -> Result<WriterGuard> {
        match deadline {
            None => Ok(self.writer.lock_arc()),
            Some(deadline) => self
                .writer
                .try_lock_arc_until(deadline)
                .ok_or_else(|| Error::new(ErrorKind::Busy)),
        }
    }
}

impl Store for SqliteStore {
    fn read(&self) -> Result<Box<dyn ReadTxn>> {
        let reader = self.readers.take()?;
        Ok(Box::new(Txn(reader.begin()?)))
    }

    fn glance(&self) -> Result<Box<dyn ReadTxn>> {
        Ok(Box::new(Txn(self.readers.take()?)))
    }

    fn write(&self, durability: Durability) -> Result<Box<dyn WriteTxn>> {
        let deadline = self.deadline();
        let mut writer = self.lock_writer(deadline)?;
        if !writer.conn.is_autocommit() {
            // An earlier transaction could not be rolled back: its connection cannot be trusted.
            *writer = Writer {
                conn: open_writer(self.readers.database.path()?, &self.options)?,
                durability: Durability::Full,
                // Nobody knows what the old connection has committed.
                unsynced: true,
                changes: 0,
                honker: false,
            };
        }
        writer.set_durability(durability)?;
        writer.changes = writer.conn.total_changes();
        let turn = self.turn.take(deadline)?;
        begin(&writer.conn, deadline)?;
        drop(turn);
        Ok(Box::new(Txn(WriteHandle {
            writer,
            watch: self.watch.clone(),
            ended: false,
        })))
    }

    fn wait_for_commit(&self, seen: u64, timeout: Duration) -> Result<u64> {
        self.watch.wait(seen, timeout)
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore")
            .field("dir", &self.dir)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// The one writer connection.
pub(crate) struct Writer {
    conn: Connection,
    durability: Durability,
    /// Whether a relaxed commit may not have reached the disk yet.
    unsynced: bool,
    /// How many rows the connection had changed when the transaction began.
    changes: u64,
    honker: bool,
}

impl Writer {
    /// Sets what the next commit promises. A second connection would lose its page cache with each
    /// commit of the first, so one connection changes its mind instead, and only where it has to.
    fn set_durability(&mut self, durability: Durability) -> Result<()> {
        if self.durability != durability {
            let level = match durability {
                Durability::Full => "FULL",
                Durability::Relaxed => "NORMAL",
            };
            self.conn.pragma_update(None, "synchronous", level).db()?;
            self.durability = durability;
        }
        Ok(())
    }
}

type WriterGuard = ArcMutexGuard<RawMutex, Writer>;

/// The idle reader connections.
struct Readers {
    idle: Mutex<Vec<Versioned>>,
    keep: usize,
    database: Database,
    busy_timeout: Duration,
}

impl Readers {
    fn take(self: &Arc<Self>) -> Result<Reader> {
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => Versioned::new(open_reader(self.database.path()?, self.busy_timeout).db()?),
        };
        Ok(Reader {
            conn: Some(conn),
            readers: self.clone(),
        })
    }

    fn give_back(&self, conn: Versioned) {
        let mut idle = self.idle.lock();
        if idle.len() < self.keep {
            idle.push(conn);
        } else {
            drop(idle);
            drop(conn);
        }
    }
}

/// A reader connection that goes back to the pool.
pub(crate) struct Reader {
    /// Always there until the reader is dropped.
    conn: Option<Versioned>,
    readers: Arc<Readers>,
}

impl Reader {
    #[expect(clippy::unwrap_used, reason = "only drop takes the connection")]
    fn versioned(&self) -> &Versioned {
        self.conn.as_ref().unwrap()
    }

    fn conn(&self) -> &Connection {
        self.versioned().conn()
    }

    /// Begins a read transaction and pins its snapshot.
    fn begin(self) -> Result<Self> {
        run(self.conn(), "BEGIN")?;
        // BEGIN alone takes the snapshot at the first read; this statement reads no row.
        run(self.conn(), "SELECT 1 FROM store_info WHERE 0")?;
        Ok(self)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        if conn.conn().is_autocommit() || run(conn.conn(), "COMMIT").is_ok() {
            self.readers.give_back(conn);
        }
    }
}

/// What a transaction works on.
pub(crate) trait Handle: Send {
    /// Returns the connection, within the transaction.
    fn conn(&self) -> Result<&Connection>;

    /// Returns what was committed last, outside of a transaction.
    fn version(&self) -> Option<Version>;
}

impl Handle for Reader {
    fn conn(&self) -> Result<&Connection> {
        Ok(self.conn())
    }

    fn version(&self) -> Option<Version> {
        let conn = self.versioned();
        conn.conn().is_autocommit().then(|| conn.version())?
    }
}

/// The writer connection within a transaction.
pub(crate) struct WriteHandle {
    writer: WriterGuard,
    watch: Arc<Watch>,
    ended: bool,
}

impl Handle for WriteHandle {
    fn conn(&self) -> Result<&Connection> {
        // SQLite itself rolls back on some errors, a full disk among them; what came after would
        // then be committed statement by statement.
        if self.writer.conn.is_autocommit() {
            return Err(Error::with_detail(
                ErrorKind::Io,
                "the transaction was rolled back by an earlier error",
            ));
        }
        Ok(&self.writer.conn)
    }

    fn version(&self) -> Option<Version> {
        None
    }
}

impl WriteHandle {
    pub(crate) fn commit(mut self) -> Result<()> {
        let full = self.writer.durability == Durability::Full;
        if full && self.writer.unsynced && self.conn()?.total_changes() == self.writer.changes {
            // SQLite syncs the log with what it adds to it; adding nothing would leave the earlier
            // commits where they are. An update that changes no byte adds nothing.
            run(
                self.conn()?,
                "INSERT INTO store_info (id, created) VALUES (x'', 0)",
            )?;
            run(self.conn()?, "DELETE FROM store_info WHERE id = x''")?;
        }
        run(self.conn()?, "COMMIT")?;
        self.writer.unsynced = !full;
        self.ended = true;
        self.watch.committed();
        Ok(())
    }

    /// Returns the connection with honker's SQL functions, which are attached when first asked for:
    /// most programs never lock.
    pub(crate) fn honker(&mut self) -> Result<&Connection> {
        if !self.writer.honker {
            honker_core::attach_honker_functions(&self.writer.conn).db()?;
            self.writer.honker = true;
        }
        self.conn()
    }
}

impl Drop for WriteHandle {
    fn drop(&mut self) {
        if !self.ended && !self.writer.conn.is_autocommit() {
            // The next write transaction replaces a connection that is still in this one.
            let _ = run(&self.writer.conn, "ROLLBACK");
        }
    }
}

/// A transaction; its methods are in `read` and `write`.
pub(crate) struct Txn<H>(pub(crate) H);

/// Begins a write transaction as soon as no other process is in one.
fn begin(conn: &Connection, deadline: Option<Instant>) -> Result<()> {
    let mut pauses = Pauses::new(deadline);
    loop {
        match run(conn, "BEGIN IMMEDIATE") {
            Err(e) if e.kind() == ErrorKind::Busy && pauses.pause() => {}
            result => return result,
        }
    }
}

/// Runs a cached statement that returns no row.
fn run(conn: &Connection, sql: &str) -> Result<()> {
    let mut stmt = conn.prepare_cached(sql).db()?;
    let mut rows = stmt.raw_query();
    rows.next().db()?;
    Ok(())
}

fn connect(database: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let conn = Connection::open_with_flags(database, flags)?;
    // SQLite counts milliseconds in 32 bits.
    conn.busy_timeout(busy_timeout.min(Duration::from_millis(i32::MAX as u64)))?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

/// Readers map the database file: a content's pages are then copied once, not read into a cache that
/// every commit of another connection empties. Measured: reading 4 KiB for the first time in a view
/// takes 5.0 us instead of 6.3 us.
fn open_reader(database: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let conn = connect(database, busy_timeout)?;
    conn.execute_batch(
        "PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4000;
         PRAGMA mmap_size = 1073741824;",
    )?;
    Ok(conn)
}

fn open_writer(database: &Path, options: &Options) -> Result<Connection> {
    let mut conn = connect(database, options.busy_timeout).db()?;
    match schema::identity(&conn).db()? {
        Identity::Store(version) => schema::migrate(&mut conn, version, schema::MIGRATIONS)?,
        Identity::Empty => {
            let detail = format!(
                "{DATABASE_FILE} is empty or truncated: finish an interrupted `alkfs mkfs` by running \
                 it again, or restore the file from a backup"
            );
            return Err(Error::with_detail(ErrorKind::NotAStore, detail));
        }
        Identity::Foreign => {
            let detail = format!("{DATABASE_FILE} is the SQLite database of another program");
            return Err(Error::with_detail(ErrorKind::NotAStore, detail));
        }
    }
    set_wal(&conn, options.busy_timeout)?;
    // 10,000 pages between checkpoints: with SQLite's 1,000 a durable put of 4 KiB costs a seventh
    // more. A log that a large import made is cut back to 64 MiB when it is used again.
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16000;
         PRAGMA wal_autocheckpoint = 10000; PRAGMA journal_size_limit = 67108864;",
    )
    .db()?;
    // From here on `begin` waits for other writers, and a checkpoint waits for no reader.
    conn.busy_timeout(Duration::ZERO).db()?;
    Ok(conn)
}

/// Turns write-ahead logging on, which the file then keeps.
fn set_wal(conn: &Connection, timeout: Duration) -> Result<()> {
    let mode = until_free(timeout, || {
        conn.query_row("PRAGMA journal_mode = WAL", [], |row| {
            row.get::<_, String>(0)
        })
    })?;
    if mode == "wal" {
        return Ok(());
    }
    let detail = format!(
        "the file system of the store cannot share memory between processes, which SQLite's \
         write-ahead log needs (the journal stays {mode})"
    );
    Err(Error::with_detail(ErrorKind::Unsupported, detail))
}

/// Repeats what fails because others use the database, for some time.
///
/// While another process opens or closes the store, SQLite takes exclusive locks for which it does
/// not call the busy handler.
fn until_free<T>(timeout: Duration, mut attempt: impl FnMut() -> rusqlite::Result<T>) -> Result<T> {
    let deadline = Instant::now().checked_add(timeout);
    let mut pause = Duration::from_millis(1);
    loop {
        let error = match attempt().map_err(from_sqlite) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let expired = deadline.is_some_and(|at| Instant::now() >= at);
        if error.kind() != ErrorKind::Busy || expired {
            return Err(error);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Says what is wrong with the files, as far as that shows without opening them.
fn look_at_files(dir: &Path, database: &Path) -> Result<()> {
    let not_a_store = |detail: String| Err(Error::with_detail(ErrorKind::NotAStore, detail));
    match fs::metadata(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return not_a_store("there is no such directory: create a store first".into());
        }
        Err(e) => return Err(e.into()),
        Ok(meta) if !meta.is_dir() => {
            return not_a_store("a store is a directory and this is not".into());
        }
        Ok(_) => {}
    }
    match fs::metadata(database) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let next = match fs::read_dir(dir)?.next() {
                None => ": create a store in it first",
                // It is something else, or a store that lost its database.
                Some(_) => "",
            };
            not_a_store(format!("the directory has no {DATABASE_FILE}{next}"))
        }
        Err(e) => Err(e.into()),
        Ok(meta) if !meta.is_file() => {
            not_a_store(format!("{DATABASE_FILE} is not a regular file"))
        }
        Ok(_) => Ok(()),
    }?;
    // SQLite writes whole pages and forgives a torn last one, which its journals would mend. With
    // no journal there, the end of the file is lost.
    let journal = ["-wal", "-journal"].map(|suffix| with_suffix(database, suffix).exists());
    let torn = fs::metadata(database)?.len() % PAGE_SIZE != 0;
    if torn && journal == [false, false] {
        return not_a_store(DAMAGED.into());
    }
    Ok(())
}

/// Refuses a directory that something else uses; what a store consists of may be there.
fn refuse_other_files(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if name != "blobs"
            && name != "staging"
            && !name.to_string_lossy().starts_with(DATABASE_FILE)
        {
            let detail = format!(
                "the directory is not empty (it has {name:?}): a store needs one of its own"
            );
            return Err(Error::with_detail(ErrorKind::NotEmpty, detail));
        }
    }
    Ok(())
}

/// Makes a directory that only its owner can use. One that exists becomes so if it is empty.
fn create_private_dir(dir: &Path) -> Result<()> {
    let exists = dir.is_dir();
    let empty = exists && fs::read_dir(dir)?.next().is_none();
    if !exists {
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent)?;
        }
        #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes"))]
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(dir) {
            // Another process was faster.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made?,
        }
    }
    if !exists || empty {
        #[cfg(unix)]
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

/// Makes an empty file that only its owner can read and write, unless the file exists. SQLite
/// gives its other files the mode of this one.
fn create_private_file(path: &Path) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e.into()),
        Ok(file) => {
            #[cfg(unix)]
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            drop(file);
            Ok(())
        }
    }
}

/// Makes the new names in a directory, and its own name, survive a power cut.
fn sync_dir(dir: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        fs::File::open(dir)?.sync_all()?;
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::File::open(parent)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_store() -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::create(&dir.path().join("s"), Options::default()).unwrap();
        (dir, store)
    }

    fn set(store: &SqliteStore, durability: Durability, size: usize) -> Result<()> {
        let mut txn = store.write(durability)?;
        txn.set_value("scope", "name", Some(&vec![7; size]))?;
        txn.commit()
    }

    #[test]
    fn each_commit_is_as_durable_as_it_asked_for() {
        let (_dir, store) = new_store();
        for (durability, level) in [
            (Durability::Full, 2),
            (Durability::Relaxed, 1),
            (Durability::Relaxed, 1),
            (Durability::Full, 2),
        ] {
            set(&store, durability, 1).unwrap();
            let writer = store.writer.lock();
            let pragma = |name: &str| -> i32 {
                let value = writer.conn.pragma_query_value(None, name, |row| row.get(0));
                value.unwrap()
            };
            assert_eq!(pragma("synchronous"), level);
            assert_eq!(pragma("wal_autocheckpoint"), 10_000);
        }
    }

    #[test]
    fn a_full_disk_undoes_the_transaction_and_leaves_the_store_usable() {
        let (_dir, store) = new_store();
        let limit = |pages: i64| {
            let conn = &store.writer.lock().conn;
            let sql = format!("PRAGMA max_page_count = {pages}");
            conn.query_row(&sql, [], |_| Ok(())).unwrap();
        };
        limit(store.stats().unwrap().pages as i64 + 3);
        let mut txn = store.write(Durability::Full).unwrap();
        txn.set_value("scope", "first", Some(b"x")).unwrap();
        let error = txn
            .set_value("scope", "name", Some(&[7; 100_000]))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        drop(txn);
        assert_eq!(store.read().unwrap().value("scope", "first").unwrap(), None);
        limit(1_000_000);
        set(&store, Durability::Full, 100_000).unwrap();
    }

    #[test]
    fn compaction_gives_free_pages_back() {
        let (dir, store) = new_store();
        set(&store, Durability::Full, 3_000_000).unwrap();
        let options = Options {
            busy_timeout: Duration::from_millis(50),
            ..Options::default()
        };
        let other = SqliteStore::open(&dir.path().join("s"), options).unwrap();
        let mut txn = other.write(Durability::Full).unwrap();
        txn.set_value("scope", "name", None).unwrap();
        txn.set_value("scope", "kept", Some(b"kept")).unwrap();
        txn.commit().unwrap();
        assert!(store.stats().unwrap().free_pages > 500);
        // Not while somebody writes.
        let writing = store.write(Durability::Full).unwrap();
        assert_eq!(other.compact().unwrap_err().kind(), ErrorKind::Busy);
        drop(writing);
        // A reader from before sees what it saw, and keeps the file from shrinking.
        let reading = store.read().unwrap();
        assert!(!other.compact().unwrap());
        assert_eq!(
            reading.value("scope", "kept").unwrap(),
            Some(b"kept".to_vec())
        );
        drop(reading);
        assert!(other.compact().unwrap());
        let stats = store.stats().unwrap();
        assert_eq!(stats.free_pages, 0);
        assert!(stats.database_bytes < 1_000_000, "{stats:?}");
        let kept = store.read().unwrap().value("scope", "kept").unwrap();
        assert_eq!(kept, Some(b"kept".to_vec()));
        assert!(store.check(true).unwrap().is_empty());
        set(&store, Durability::Full, 1).unwrap();
        set(&other, Durability::Full, 1).unwrap();
    }

    #[test]
    fn nothing_is_written_after_sqlite_rolled_back() {
        let (_dir, store) = new_store();
        let writer = store.lock_writer(None).unwrap();
        begin(&writer.conn, None).unwrap();
        let mut txn = Txn(WriteHandle {
            writer,
            watch: store.watch.clone(),
            ended: false,
        });
        txn.set_value("scope", "name", Some(b"x")).unwrap();
        // SQLite does this by itself on some errors.
        run(&txn.0.writer.conn, "ROLLBACK").unwrap();
        let error = txn.set_value("scope", "name", Some(b"y")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(Box::new(txn).commit().is_err());
        assert_eq!(store.read().unwrap().value("scope", "name").unwrap(), None);
        set(&store, Durability::Full, 1).unwrap();
    }

    #[test]
    fn readers_are_pooled_up_to_the_limit_and_cannot_write() {
        let (_dir, store) = new_store();
        let many: Vec<_> = (0..9).map(|_| store.read().unwrap()).collect();
        drop(many);
        let idle = store.readers.idle.lock();
        assert_eq!(idle.len(), Options::default().max_readers);
        assert!(idle[0].conn().execute("DELETE FROM kv", []).is_err());
    }
}
