CREATE TABLE store_info (
    -- What the store is. One row, written when the store is made.
    id      BLOB    NOT NULL, -- 16 random bytes that name this store
    created INTEGER NOT NULL  -- when it was made; like every time here, nanoseconds since 1970-01-01 UTC
) STRICT;

CREATE TABLE buckets (
    -- A tenant each: the unit of isolation, sharing and access.
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
    name       TEXT    NOT NULL UNIQUE,
    created    INTEGER NOT NULL,
    epoch      INTEGER NOT NULL, -- the epoch that writes go to now; counts up with every snapshot
    generation INTEGER NOT NULL, -- counts up with every change of branches, lines and snapshots
    pruned     INTEGER NOT NULL  -- events up to and including this cursor were pruned
) STRICT;

CREATE TABLE branches (
    -- A named, writable view of a bucket each.
    id      INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, greater than the parent's
    bucket  INTEGER NOT NULL, -- buckets.id
    name    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (bucket, name)
) STRICT;

CREATE TABLE lines (
    -- From which epoch on a branch shows what, below its own writes.
    branch      INTEGER NOT NULL, -- branches.id
    start       INTEGER NOT NULL, -- the first epoch of the line
    base_branch INTEGER,          -- branches.id of what shows through; NULL: nothing does
    base_epoch  INTEGER,          -- the last epoch that shows through; NULL: later writes do too
    stays_live  INTEGER NOT NULL, -- 1: what is live below the base stays so after base_epoch; else 0
    may_hide    INTEGER NOT NULL, -- 1: rows of the base may lie below what is no directory; else 0
    PRIMARY KEY (branch, start)
) STRICT, WITHOUT ROWID;

CREATE INDEX lines_by_base ON lines (base_branch);

CREATE TABLE snapshots (
    -- The named points in time of branches.
    branch  INTEGER NOT NULL, -- branches.id
    name    TEXT    NOT NULL,
    epoch   INTEGER NOT NULL, -- the last epoch it shows
    created INTEGER NOT NULL,
    PRIMARY KEY (branch, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE entries (
    -- What each layer, that is a branch in an epoch, holds at each path. By this key the newest row
    -- of a path that a deep chain of branches sees is one seek away, however many layers have rows.
    bucket INTEGER NOT NULL, -- buckets.id
    parent TEXT    NOT NULL, -- the directory's path, '/' for the root; '' for the root's own row
    name   TEXT    NOT NULL, -- the name in it; '' for the root's own row
    branch INTEGER NOT NULL, -- branches.id
    epoch  INTEGER NOT NULL,
    kind   INTEGER NOT NULL, -- 0 tombstone, 1 file, 2 directory, 3 symbolic link
    size   INTEGER,          -- of a file, in bytes
    hash   BLOB,             -- of a file: the BLAKE3 hash of its content, 32 bytes
    target TEXT,             -- of a symbolic link
    mode   INTEGER,          -- the permission bits; from here to ctime NULL for a tombstone
    uid    INTEGER,
    gid    INTEGER,
    mtime  INTEGER,
    ctime  INTEGER,
    base   BLOB,             -- the identity of the inherited entry this replaced, 16 bytes, or NULL
    PRIMARY KEY (bucket, parent, name, branch DESC, epoch DESC)
) STRICT, WITHOUT ROWID;

-- Has the whole rows once more, in an order in which those of one branch lie side by side: however
-- many branches have rows in a directory, one branch's listing is read from the same few pages.
CREATE INDEX entries_by_branch ON entries (
    branch, parent, name, epoch DESC,
    kind, size, hash, target, mode, uid, gid, mtime, ctime, base
);

CREATE TABLE contents (
    -- The bytes that exist, each once, named by their hash.
    id      INTEGER PRIMARY KEY, -- makes new rows append
    hash    BLOB    NOT NULL UNIQUE, -- BLAKE3, 32 bytes
    size    INTEGER NOT NULL, -- in bytes
    form    INTEGER NOT NULL, -- 1 bytes in data, 2 file below blobs/ with its hash tree in data, 3 delta in data
    base    BLOB,             -- of a delta: contents.hash of what it builds on
    created INTEGER NOT NULL, -- when it was stored
    data    BLOB    NOT NULL
) STRICT;

CREATE INDEX contents_by_base ON contents (base) WHERE base IS NOT NULL;

CREATE TABLE pins (
    -- Contents that garbage collection keeps for a time.
    hash  BLOB    NOT NULL PRIMARY KEY, -- contents.hash
    until INTEGER NOT NULL -- when that time is over
) STRICT, WITHOUT ROWID;

CREATE TABLE unreferenced (
    -- Contents that garbage collection found unreferenced: once they have been for its grace period,
    -- the next collection removes them.
    hash  BLOB    NOT NULL PRIMARY KEY, -- contents.hash
    since INTEGER NOT NULL -- when they were found
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    -- The open write sessions.
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
    branch     INTEGER NOT NULL, -- branches.id of where the close commits to
    path       TEXT    NOT NULL, -- what the close puts
    owner      TEXT    NOT NULL, -- who opened it
    holder     TEXT    NOT NULL, -- which open store works on it
    exclusive  INTEGER NOT NULL, -- 1 where it holds the path's lock, else 0
    create_new INTEGER NOT NULL, -- 1 where the close fails if something is at the path, else 0
    base_hash  BLOB,             -- contents.hash of what it started from; NULL: an empty start
    base_size  INTEGER,          -- the size of that
    mode       INTEGER NOT NULL, -- the permission bits of a file it creates
    created    INTEGER NOT NULL,
    touched    INTEGER NOT NULL, -- when it last wrote, about
    staging    INTEGER NOT NULL  -- 1 in session_ops, 2 in a file below staging/
) STRICT;

CREATE TABLE session_ops (
    -- The staged operations of write sessions.
    id      INTEGER PRIMARY KEY, -- the order of arrival
    session INTEGER NOT NULL,    -- sessions.id
    offset  INTEGER NOT NULL,    -- of a write: where the first byte goes; of a truncation: the new size
    data    BLOB                 -- of a write: the bytes; NULL for a truncation
) STRICT;

CREATE INDEX session_ops_by_session ON session_ops (session);

CREATE TABLE conflicts (
    -- The paths that nodes wrote without knowing of each other.
    branch INTEGER NOT NULL, -- branches.id
    path   TEXT    NOT NULL,
    data   BLOB    NOT NULL, -- what won and what did not
    PRIMARY KEY (branch, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE conflict_contents (
    -- The contents that conflicts refer to.
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- in the order in which they were set; never used twice
    branch INTEGER NOT NULL, -- conflicts.branch
    path   TEXT    NOT NULL, -- conflicts.path
    hash   BLOB    NOT NULL, -- contents.hash
    size   INTEGER NOT NULL, -- in bytes
    UNIQUE (branch, path, hash)
) STRICT;

CREATE TABLE kv (
    -- Small values by scope and name.
    scope TEXT NOT NULL,
    name  TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (scope, name)
) STRICT;
