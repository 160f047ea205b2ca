/** The native module, and how it is found. */

/** What a native operation gives: a value, or a promise where its last argument says so. */
export type Outcome<T> = T | Promise<T>;

export interface Listing {
  names: string[];
  kinds: number[];
}

export interface Attributes {
  mode?: number;
  uid?: number;
  gid?: number;
  /** Nanoseconds since 1970. */
  mtime?: bigint;
}

/** Everything the store knows of one file, directory or link. */
export interface Entry {
  kind: 'file' | 'dir' | 'symlink';
  /** In bytes. */
  size: number;
  /** Of a file: the BLAKE3 hash of its bytes, in 64 hexadecimal digits. */
  hash?: string;
  /** Of a link: its text. */
  target?: string;
  mode: number;
  uid: number;
  gid: number;
  /** Nanoseconds since 1970. */
  mtime: bigint;
  /** Nanoseconds since 1970. */
  ctime: bigint;
}

/** An entry with its name in a directory. */
export interface NamedEntry extends Entry {
  name: string;
}

/** An entry with its path. */
export interface PathEntry extends Entry {
  path: string;
}

/** What is known of a branch. */
export interface BranchInfo {
  name: string;
  /** When it was made, in nanoseconds since 1970. */
  created: bigint;
  /** The branch it was forked from. */
  parent?: string;
  /** Whether later writes to the parent show through. */
  live: boolean;
  /** The number of its snapshots. */
  snapshots: number;
}

/** What is known of a snapshot. */
export interface SnapshotInfo {
  name: string;
  /** When it was taken, in nanoseconds since 1970. */
  created: bigint;
}

/** How a path differs between two trees. */
export interface Difference {
  path: string;
  /**
   * `'added'`: only the second tree has it; `'deleted'`: only the first has it; `'renamed'`: a file
   * or link that the first has elsewhere, with the same content.
   */
  what: 'added' | 'deleted' | 'modified' | 'renamed';
  /** Of what was renamed: where the first tree has it. */
  from?: string;
  /** What the first tree has. */
  old?: Entry;
  /** What the second tree has. */
  new?: Entry;
}

/** What closing a file that was written committed. */
export interface Closed {
  /** The path, links resolved. */
  path: string;
  /** The BLAKE3 hash of the content, in 64 hexadecimal digits. */
  hash: string;
  /** In bytes. */
  size: number;
}

/** One committed change. What does not apply to its `op` is absent. */
export interface StoreEvent {
  /** The position of the event: a watcher that starts after it continues with the next one. */
  cursor: number;
  /** When, in nanoseconds since 1970. In JSON it is text, in decimal digits. */
  at: bigint;
  /** Who. */
  author: string;
  bucket: string;
  /** The name that the branch had then. */
  branch: string;
  /** The number of the write session that was closed. */
  session?: number;
  op:
    | 'create'
    | 'modify'
    | 'attributes'
    | 'remove'
    | 'rename'
    | 'fork'
    | 'rename_branch'
    | 'delete_branch'
    | 'snapshot'
    | 'delete_snapshot'
    | 'restore';
  path?: string;
  /** Where a renamed entry was before. */
  from?: string;
  /** The kind of the entry after the change, or before it where it was removed. */
  kind?: Entry['kind'];
  /** The hash of the content before the change. */
  old?: string;
  /** The hash of the content after the change. */
  new?: string;
  /** The size after the change, in bytes. */
  size?: number;
  /** The other name that the `op` speaks of: of a snapshot, or of another branch. */
  name?: string;
  /**
   * The node whose store it was written in, where that is one that this store deals with itself;
   * absent for what was written in this store. Of what came from a node by way of others, the author
   * is the id of its replica.
   */
  peer?: EventPeer;
}

/** A node that something came from. */
export interface EventPeer {
  /** Its key. */
  id: string;
  /** What it is called here. */
  name?: string;
}

/** Which events: those that pass every part that is given. */
export interface EventFilter {
  /** Only those of this branch. */
  branch?: string;
  /** Only those at this path and at any depth below it. */
  under?: string;
  /** Only those at this path and of the names directly in it. */
  directlyIn?: string;
  /**
   * Only those whose path matches this or one of these: `*` and `?` stop at `/`, `**` does not, and a
   * pattern without a `/` matches the name in any directory.
   */
  glob?: string | string[];
  /** Only those of which this happened. */
  ops?: StoreEvent['op'][];
  /** Only those of entries of these kinds. */
  kinds?: Entry['kind'][];
}

/** As {@link EventFilter}, as the native module takes it. */
export interface NativeFilter extends Omit<EventFilter, 'glob'> {
  globs?: string[];
}

/** What is known of an open write session. */
export interface SessionInfo {
  /** Its number, by which it is resumed or aborted. */
  id: number;
  bucket: string;
  branch: string;
  /** The path that it will write. */
  path: string;
  owner: string;
  /** Whether it holds the path's exclusive lock. */
  exclusive: boolean;
  /** Where its bytes are: in the database or in a file. */
  staging: 'rows' | 'file';
  /** How many bytes are staged. */
  staged: number;
  /** The size of the version that it started from, in bytes; absent for an empty file. */
  base?: number;
  /** When it was opened, in nanoseconds since 1970. */
  created: bigint;
  /** When it last wrote, about, in nanoseconds since 1970. */
  touched: bigint;
  /** Whether a living process works on it; one that is not alive can be resumed. */
  alive: boolean;
}

/** What a store holds. */
export interface StoreStats {
  buckets: number;
  branches: number;
  snapshots: number;
  /** Open write sessions. */
  sessions: number;
  /** Contents, each counted once however many files have it. */
  contents: number;
  /** Their sizes, in bytes. */
  contentBytes: number;
  /** Of these, kept inside the database. */
  inlineContents: number;
  /** Of these, kept as files. */
  fileContents: number;
  /** Of these, kept as deltas over others. */
  deltaContents: number;
  /** Bytes of the database file; 0 in memory. */
  databaseBytes: number;
  /** Of these, bytes that are free and that later writes use again. */
  freeBytes: number;
  /** Bytes of the database's write-ahead log. */
  walBytes: number;
  /** Bytes of content files, hash trees and deltas. */
  blobBytes: number;
  /** Bytes staged by large write sessions. */
  stagedBytes: number;
  /** All bytes that the store takes on disk. */
  storedBytes: number;
}

/** Something that is wrong with a store. */
export interface Problem {
  /** What it is about: a path, a hash, a branch, a table. */
  subject: string;
  detail: string;
  /** Where a damaged content is used, as `BUCKET/BRANCH:PATH`; a few of them. */
  uses: string[];
  /** In how many more places it is used. */
  moreUses: number;
}

/** What a check found. */
export interface FsckReport {
  /** Entries looked at, in all branches and snapshots. */
  entries: number;
  contents: number;
  /** Bytes read and compared with their hash. */
  bytes: number;
  /** Files that nothing owns: harmless leftovers of crashes, which {@link Store.gc} removes. */
  orphans: number;
  orphanBytes: number;
  /** Contents of which a part has arrived from a peer: no damage, and gone on with. */
  partials: number;
  /** Their sizes when they are complete. */
  partialBytes: number;
  /** What is wrong; empty for a healthy store. */
  problems: Problem[];
}

/** What a collection removed, or would remove. Sizes are in bytes. */
export interface GcReport {
  events: number;
  /** Versions of entries that no branch and no snapshot shows. */
  versions: number;
  /** Contents that nothing has referred to for the grace period. */
  contents: number;
  contentBytes: number;
  /** Contents that nothing refers to and whose grace period is not over. */
  waiting: number;
  waitingBytes: number;
  /** Deltas that were rewritten in full, because only they kept a base alive. */
  flattened: number;
  /** Files that were removed from the disk. */
  files: number;
  fileBytes: number;
  /** Whether removing files was put off because a view was open. */
  filesDeferred: boolean;
}

/** When garbage is collected. */
export interface GcSchedule {
  /** Five cron fields in local time, or an interval such as `@every 6h`. */
  when: string;
  /** When next, in nanoseconds since 1970. */
  next: bigint;
}

/** What one of several trees holds, and how much of it others of them hold too. */
export interface TreeSharing {
  /** `BRANCH` or `BRANCH@SNAPSHOT`. */
  tree: string;
  files: number;
  /** The sum of the sizes of the files. */
  bytes: number;
  /** The files whose content, as a whole, another tree has too. */
  sharedFiles: number;
  /** The bytes that the tree's contents take in the store, each content once. */
  stored: number;
  /** Of those, the bytes that another tree needs too. */
  shared: number;
}

/** How much content trees have in common. */
export interface Sharing {
  /** Each tree, in the order asked for. */
  trees: TreeSharing[];
  /** The bytes that all the trees together take, each content once. */
  stored: number;
  /** The bytes that the trees would take as plain copies. */
  apart: number;
}

/** What an import did. */
export interface ImportReport {
  /** Regular files in the source, those not counted that were left out. */
  files: number;
  dirs: number;
  symlinks: number;
  /** Bytes in the source's regular files. */
  bytes: number;
  /** Entries that were already as in the source. */
  unchanged: number;
  unchangedFiles: number;
  /** Files whose bytes were read. */
  filesRead: number;
  bytesRead: number;
  /** Entries removed because the source lacks them. */
  removed: number;
  /** What was left out because it cannot be represented or read, or is the store itself. */
  skipped: { path: string; reason: string }[];
}

/** What an export wrote. */
export interface ExportReport {
  files: number;
  dirs: number;
  symlinks: number;
  bytes: number;
}

/** How far long work has come. Totals are 0 until they are known. */
export interface Progress {
  /** Entries done, or what else the operation says that it counts. */
  files: number;
  totalFiles: number;
  bytes: number;
  totalBytes: number;
}

/** What a grant allows. */
export type Access = 'read' | 'write';

/** How much is missing on one side. */
export interface Behind {
  /** Commits of other nodes. */
  commits: number;
  /** The branches that they are of. */
  branches: number;
  /** Contents; absent where that is not known. */
  contents?: number;
  /** Their bytes. */
  bytes?: number;
}

/** How it stands with one peer about one bucket. */
export interface PeerStatus {
  /** The peer's key. */
  peer: string;
  /** What the peer is called here. */
  name?: string;
  /** The bucket's name here; absent where it was deleted. */
  bucket?: string;
  /** Whether this store shares the bucket with the peer, rather than having joined it from there. */
  shared: boolean;
  /** Whether others let both into the bucket, with no grant between them. */
  member: boolean;
  /** What the grant between them allows; where there is none, what the peer lets this store do. */
  access: Access;
  connected: boolean;
  /** When the peer was last known to be there, in nanoseconds since 1970. */
  seen?: bigint;
  /** Whether both are known to know the same of the bucket, contents aside. */
  inStep: boolean;
  /** Whether anything is known of what the other side has: nothing is before they were connected. */
  known: boolean;
  /** What the peer is known to have that is missing here, and contents that are elsewhere. */
  behindHere: Behind;
  /** What the peer is not known to have. */
  behindThere: Behind;
  /**
   * How many changes that were made here stay here, because the grant lets the bucket only be read where
   * they were made; commits that follow each other within a moment are one. As was last known, and absent
   * where it never was.
   */
  staysHere?: number;
  /**
   * Whether the peer has all that this store has of the bucket, contents included, and the other way
   * round.
   */
  synced: boolean;
  /** What keeps them apart, and what to do about it. */
  trouble?: string;
  /** Whether that is because the peer does not let this store in: nothing comes before it does. */
  refused: boolean;
  /** Why the peer is not let in any more, where all that it was given of the bucket is over. */
  ended?: 'revoked' | 'expired';
}

/** How it stands with all peers. */
export interface SyncStatus {
  /** The process that runs the node, if one does. */
  running?: string;
  /** The key of this store's node; absent where it never shared, joined or ran. */
  id?: string;
  /** When the node last told of it, in nanoseconds since 1970. */
  at?: bigint;
  /** Whether there is a peer, and all are synced. */
  synced: boolean;
  /** Each peer and bucket. */
  peers: PeerStatus[];
}

/** Something that was given to others. */
export interface GrantInfo {
  id: string;
  /** The bucket's name; absent where it was deleted. */
  bucket?: string;
  access: Access;
  /** The names of the branches that it covers; none for the whole bucket. */
  branches: string[];
  /** What it is called. */
  name?: string;
  /** When it was given, in nanoseconds since 1970. */
  created: bigint;
  /** When it ends, if ever. */
  expires?: bigint;
  /** When it was taken back, if it was. */
  revoked?: bigint;
  /** Whether its ticket still lets in who does not use it yet. */
  open: boolean;
  /** The keys of the peers that use it. */
  peers: string[];
}

/** Something that was joined. */
export interface JoinInfo {
  /** The bucket's name; absent where it was deleted. */
  bucket?: string;
  access: Access;
  /** The names of the branches that it is for; none for the whole bucket. */
  branches: string[];
  /** When it was joined, in nanoseconds since 1970. */
  since: bigint;
  /** When the grant ends, if ever. */
  expires?: bigint;
}

/** Something that others let a node into. */
export interface MemberInfo {
  /** The bucket's name; absent where it was deleted. */
  bucket?: string;
  /** What the node may do. */
  access: Access;
  /** The key of the node that let it in. */
  by: string;
  /** What that node is called here. */
  byName?: string;
}

/** A node that this store has to do with. */
export interface PeerInfo {
  /** Its key. */
  id: string;
  /** What it is called here. */
  name?: string;
  /** What it was given, and not taken from it again. */
  grants: GrantInfo[];
  /** What was joined from it. */
  joined: JoinInfo[];
  /** What others let it into, without a grant between it and this store. */
  member: MemberInfo[];
}

/** What a bucket does about contents that are elsewhere. */
export interface ContentSettings {
  /**
   * Which contents are fetched before anybody reads them: `'eager'` for all, `'on-read'` for those of
   * pinned paths only.
   */
  policy: 'eager' | 'on-read';
  /** How long a read waits for a content, in milliseconds. */
  timeout: number;
  /** The pinned paths and patterns, as they were given. */
  pins: string[];
}

/** What a fetch brought. */
export interface FetchReport {
  /** Contents that were fetched. */
  contents: number;
  /** Their bytes. */
  bytes: number;
  /** What could not be fetched, with one path that has it, and why; at most 100. */
  failed: { path: string; hash: string; why: string }[];
  /** How many more could not be fetched. */
  moreFailed: number;
}

/** What an eviction removed. Sizes are in bytes. */
export interface EvictReport {
  /** Contents that were removed. */
  contents: number;
  bytes: number;
  /** The bytes of all contents that are here now. */
  bytesHere: number;
  /** Contents that nobody else was found to hold and keep, and so stay. */
  onlyHere: number;
  onlyHereBytes: number;
  /** Contents that peers were promised, and so stay: these removed theirs, and rely on it. */
  promised: number;
  promisedBytes: number;
  /** When the last of these promises ends, in nanoseconds since 1970. */
  promisedUntil?: bigint;
  /** Whether removing files was put off because a view was open. */
  filesDeferred: boolean;
}

/** One side of a conflict. */
export interface ConflictSide {
  /** What is, or would be, at the path; absent where it was removed. */
  entry?: Entry;
  /** Whether the content of a file is here, too; true for all that has none. */
  contentHere: boolean;
  /**
   * When it was written, by its writer's clock, in nanoseconds since 1970; absent for a directory that
   * is shown only because something is in it.
   */
  at?: bigint;
  /** The replica of the bucket that wrote it. */
  replica?: string;
  /** Whether that is this store. */
  here: boolean;
  /** The node that has the replica, where that is one that this store deals with itself. */
  peer?: EventPeer;
}

/** A path that nodes wrote without knowing of each other, and that nobody has decided about. */
export interface Conflict {
  /** The branch's name. */
  branch: string;
  path: string;
  /** What is shown, on all nodes. */
  shown: ConflictSide;
  /** What is not, from what comes next to it. */
  others: ConflictSide[];
}

/**
 * A branch or a snapshot that has a suffix here, because another one of its name came from elsewhere.
 */
export interface NameConflict {
  /** The name that the branch has here. */
  branch: string;
  /** The name that the snapshot of the branch has here; absent where it is about the branch. */
  snapshot?: string;
  /** The name that was given to it. */
  name: string;
  /**
   * When it was given that name, by the clock of who gave it, in nanoseconds since 1970; absent where
   * that is not known.
   */
  at?: bigint;
  /** The replica of the bucket that gave it that name; absent where that is not known. */
  replica?: string;
  /** Whether that is this store. */
  here: boolean;
  /** The node that has the replica, where that is one that this store deals with itself. */
  peer?: EventPeer;
}

/** What was written here while others did not take it, and a ticket lets out. */
export interface Unsent {
  /** The number of commits; absent where it is not known. */
  commits?: number;
}

export interface NodeSettings {
  loopback?: boolean;
  port?: number;
  n0?: boolean;
  relays?: string[];
  mdns?: boolean;
  gossip?: boolean;
}

export interface ShareSettings {
  readOnly?: boolean;
  branches?: string[];
  expires?: number;
  name?: string;
}

export interface NodeHandle {
  id(): string;
  running(): boolean;
  status(later: boolean): Outcome<SyncStatus>;
  stop(later: boolean): Outcome<void>;
}

export interface Named {
  name: string;
  entry: Entry;
}

export interface TaskHandle {
  cancel(): void;
  progress(): Progress | null;
}

export interface BatchHandle {
  len(): number;
  contentBytes(): number;
  put(
    path: string,
    data: Uint8Array,
    attributes: Attributes,
    create: boolean,
    replace: boolean,
    later: boolean,
  ): Outcome<void>;
  mkdir(path: string, attributes: Attributes, later: boolean): Outcome<void>;
  mkdirAll(path: string, attributes: Attributes, later: boolean): Outcome<void>;
  symlink(target: string, path: string, attributes: Attributes, later: boolean): Outcome<void>;
  remove(path: string, later: boolean): Outcome<void>;
  removeDir(path: string, later: boolean): Outcome<void>;
  removeAll(path: string, later: boolean): Outcome<void>;
  rename(from: string, to: string, later: boolean): Outcome<void>;
  copy(from: string, to: string, later: boolean): Outcome<void>;
  setAttributes(
    path: string,
    attributes: Attributes,
    links: boolean,
    later: boolean,
  ): Outcome<void>;
  commit(later: boolean): Outcome<void>;
  abort(): void;
}

export interface SessionOptions {
  create?: boolean;
  createNew?: boolean;
  truncate?: boolean;
  exclusive?: boolean;
  owner?: string;
  mode?: number;
}

export interface SessionHandle {
  id(): number;
  path(): string;
  size(): number;
  read(offset: number, len: number, later: boolean): Outcome<Buffer>;
  readInto(buffer: Uint8Array, offset: number, later: boolean): Outcome<number>;
  write(data: Uint8Array, offset: number, later: boolean): Outcome<void>;
  append(data: Uint8Array, later: boolean): Outcome<number>;
  truncate(size: number, later: boolean): Outcome<void>;
  sync(later: boolean): Outcome<void>;
  close(attributes: Attributes, later: boolean): Outcome<Closed>;
  abort(later: boolean): Outcome<void>;
  detach(later: boolean): Outcome<number>;
}

export interface ReaderHandle {
  size(): number;
  hash(): string;
  form(): 'inline' | 'file' | 'delta';
  read(offset: number, len: number, later: boolean): Outcome<Buffer>;
  readInto(buffer: Uint8Array, offset: number, later: boolean): Outcome<number>;
  close(): void;
}

export interface Delivery {
  events: StoreEvent[];
  cursor: number;
  error?: string;
}

export interface WatchHandle {
  cursor(): number;
  poll(): StoreEvent | null;
  wait(): void;
  stop(): void;
}

export interface CollectOptions {
  grace?: number;
  dryRun?: boolean;
  keepEvents?: number;
  keepEventsFor?: number;
}

export interface OpenFile {
  path(): string;
  stat(later: boolean): Outcome<number[]>;
  read(buffer: Uint8Array, offset: number | undefined, later: boolean): Outcome<number>;
  write(data: Uint8Array, offset: number | undefined, later: boolean): Outcome<void>;
  truncate(size: number, later: boolean): Outcome<void>;
  sync(later: boolean): Outcome<void>;
  setAttributes(attributes: Attributes, later: boolean): Outcome<void>;
  position(): number;
  seek(position: number): void;
  entry(later: boolean): Outcome<Entry>;
  close(later: boolean): Outcome<void>;
  commit(later: boolean): Outcome<Closed | null>;
  abort(later: boolean): Outcome<void>;
}

export interface Tree {
  /** The directory of the store; nothing for a store in memory. */
  home(): string | null;
  stat(path: string, links: boolean, later: boolean): Outcome<number[]>;
  /** As {@link stat}, on the calling thread, into numbers that are there already. */
  statInto(path: string, links: boolean, numbers: Float64Array): void;
  entry(path: string, links: boolean, later: boolean): Outcome<Entry>;
  exists(path: string, later: boolean): Outcome<boolean>;
  canonicalize(path: string, later: boolean): Outcome<string>;
  readLink(path: string, later: boolean): Outcome<string>;
  read(path: string, later: boolean): Outcome<Buffer>;
  list(path: string, later: boolean): Outcome<Listing>;
  listAll(path: string, later: boolean): Outcome<Listing>;
  open(path: string, bits: number, mode: number | undefined, later: boolean): Outcome<OpenFile>;
  write(
    path: string,
    data: Uint8Array,
    bits: number,
    mode: number | undefined,
    later: boolean,
  ): Outcome<void>;
  entries(path: string, later: boolean): Outcome<Named[]>;
  walk(path: string, later: boolean): Outcome<Named[]>;
  glob(path: string, pattern: string, later: boolean): Outcome<Named[]>;
  reader(path: string, later: boolean): Outcome<ReaderHandle>;
  content(hash: string, later: boolean): Outcome<ReaderHandle>;
  verify(path: string, later: boolean): Outcome<void>;
  treeHash(later: boolean): Outcome<string>;
  export(
    from: string,
    target: string,
    overwrite: boolean,
    sync: boolean,
    task: TaskHandle,
    later: boolean,
  ): Outcome<ExportReport>;
  close(): void;
  put(
    path: string,
    data: Uint8Array,
    attributes: Attributes,
    create: boolean,
    replace: boolean,
    later: boolean,
  ): Outcome<void>;
  mkdirWith(path: string, attributes: Attributes, later: boolean): Outcome<void>;
  mkdirAllWith(path: string, attributes: Attributes, later: boolean): Outcome<string | null>;
  hardLink(target: string, path: string, later: boolean): Outcome<void>;
  import(
    source: string,
    to: string,
    exclude: string[],
    remove: boolean,
    task: TaskHandle,
    later: boolean,
  ): Outcome<ImportReport>;
  batch(): BatchHandle;
  openSession(path: string, options: SessionOptions, later: boolean): Outcome<SessionHandle>;
  sessions(later: boolean): Outcome<SessionInfo[]>;
  mkdir(path: string, mode: number | undefined, later: boolean): Outcome<void>;
  mkdirAll(path: string, mode: number | undefined, later: boolean): Outcome<string | null>;
  symlink(target: string, path: string, later: boolean): Outcome<void>;
  remove(path: string, later: boolean): Outcome<void>;
  removeDir(path: string, later: boolean): Outcome<void>;
  removeAll(path: string, later: boolean): Outcome<number>;
  rename(from: string, to: string, replace: boolean, later: boolean): Outcome<void>;
  copy(from: string, to: string, replace: boolean, touch: boolean, later: boolean): Outcome<number>;
  setAttributes(
    path: string,
    attributes: Attributes,
    links: boolean,
    later: boolean,
  ): Outcome<void>;
  truncate(path: string, size: number, later: boolean): Outcome<void>;
  fetching(timeout: number | undefined): Tree;
  fetch(path: string, task: TaskHandle, later: boolean): Outcome<FetchReport>;
  conflicts(later: boolean): Outcome<Conflict[]>;
  resolve(path: string, keep: string | number, later: boolean): Outcome<string[]>;
  name(): string;
  info(later: boolean): Outcome<BranchInfo>;
  bucket(): BucketHandle;
  fork(snapshot: string | undefined, name: string, later: boolean): Outcome<Tree>;
  view(snapshot: string | undefined, later: boolean): Outcome<Tree>;
  snapshot(name: string, later: boolean): Outcome<void>;
  snapshots(later: boolean): Outcome<SnapshotInfo[]>;
  renameSnapshot(name: string, to: string, later: boolean): Outcome<void>;
  deleteSnapshot(name: string, later: boolean): Outcome<void>;
  restore(snapshot: string, later: boolean): Outcome<void>;
  renameTo(name: string, later: boolean): Outcome<void>;
}

export interface BucketHandle {
  name(): string;
  branch(name: string): Tree;
  branches(later: boolean): Outcome<BranchInfo[]>;
  view(tree: string, later: boolean): Outcome<Tree>;
  fork(from: string, name: string, later: boolean): Outcome<Tree>;
  deleteBranch(name: string, later: boolean): Outcome<void>;
  diff(from: string, to: string, under: string, later: boolean): Outcome<Difference[]>;
  log(
    filter: NativeFilter,
    before: number | undefined,
    limit: number,
    later: boolean,
  ): Outcome<StoreEvent[]>;
  pruneEvents(
    atMost: number | undefined,
    notBefore: bigint | undefined,
    later: boolean,
  ): Outcome<number>;
  sharing(trees: string[], task: TaskHandle, later: boolean): Outcome<Sharing>;
  contentSettings(later: boolean): Outcome<ContentSettings>;
  setContentPolicy(policy: string, later: boolean): Outcome<void>;
  setContentTimeout(timeout: number, later: boolean): Outcome<void>;
  pin(pattern: string, later: boolean): Outcome<void>;
  hasMatch(pattern: string, later: boolean): Outcome<boolean>;
  unpin(pattern: string, later: boolean): Outcome<void>;
  fetch(task: TaskHandle, later: boolean): Outcome<FetchReport>;
  conflicts(later: boolean): Outcome<Conflict[]>;
  nameConflicts(later: boolean): Outcome<NameConflict[]>;
}

export interface StoreHandle {
  path(): string | null;
  bucket(name: string): BucketHandle;
  buckets(later: boolean): Outcome<string[]>;
  createBucket(name: string, later: boolean): Outcome<BucketHandle>;
  renameBucket(name: string, to: string, later: boolean): Outcome<void>;
  deleteBucket(name: string, later: boolean): Outcome<void>;
  close(later: boolean): Outcome<void>;
  sessions(later: boolean): Outcome<SessionInfo[]>;
  resumeSession(id: number, later: boolean): Outcome<SessionHandle>;
  abortSession(id: number, force: boolean, later: boolean): Outcome<void>;
  watch(
    options: { bucket?: string; filter: NativeFilter; after?: number },
    deliver: (delivery: Delivery) => void,
  ): WatchHandle;
  stats(later: boolean): Outcome<StoreStats>;
  fsck(fast: boolean, task: TaskHandle, later: boolean): Outcome<FsckReport>;
  gc(options: CollectOptions, task: TaskHandle, later: boolean): Outcome<GcReport>;
  scheduleGc(when: string, options: CollectOptions, later: boolean): Outcome<void>;
  unscheduleGc(later: boolean): Outcome<boolean>;
  gcSchedule(later: boolean): Outcome<GcSchedule | null>;
  gcIfDue(task: TaskHandle, later: boolean): Outcome<GcReport | null>;
  compact(later: boolean): Outcome<number>;
  startNode(settings: NodeSettings, later: boolean): Outcome<NodeHandle>;
  share(bucket: string, settings: ShareSettings, later: boolean): Outcome<string>;
  join(
    ticket: string,
    name: string | undefined,
    merge: boolean,
    timeout: number,
    task: TaskHandle,
    later: boolean,
  ): Outcome<BucketHandle>;
  unsent(ticket: string, later: boolean): Outcome<Unsent | null>;
  leave(bucket: string, peer: string | undefined, later: boolean): Outcome<void>;
  grants(later: boolean): Outcome<GrantInfo[]>;
  peers(later: boolean): Outcome<PeerInfo[]>;
  namePeer(who: string, name: string, later: boolean): Outcome<void>;
  forgetPeer(who: string, later: boolean): Outcome<void>;
  revokePeer(who: string, later: boolean): Outcome<number>;
  revoke(who: string, later: boolean): Outcome<number>;
  revokeGrant(id: string, later: boolean): Outcome<void>;
  syncStatus(later: boolean): Outcome<SyncStatus>;
  waitUntilSynced(
    bucket: string | undefined,
    timeout: number,
    task: TaskHandle,
    later: boolean,
  ): Outcome<SyncStatus>;
  cacheLimit(later: boolean): Outcome<number | null>;
  setCacheLimit(bytes: number | undefined, later: boolean): Outcome<void>;
  cachedBytes(later: boolean): Outcome<number>;
  evict(toBytes: number, task: TaskHandle, later: boolean): Outcome<EvictReport>;
}

export interface NativeOptions {
  mode?: 'open' | 'create';
  author?: string;
  relaxed?: boolean;
  busyTimeout?: number;
}

interface Native {
  StoreHandle: {
    open(path: string | undefined, options: NativeOptions, later: boolean): Outcome<StoreHandle>;
  };
  TaskHandle: new (follow: boolean) => TaskHandle;
  /** In builds for tests only. */
  panic?: (place: string, later: boolean) => Outcome<void>;
}

/** What the platform may be, as it is named in the files and packages of native modules. */
function platforms(): string[] {
  const { platform, arch } = process;
  if (platform === 'linux') {
    return [`linux-${arch}-gnu`, `linux-${arch}-musl`];
  }
  return [platform === 'win32' ? `win32-${arch}-msvc` : `${platform}-${arch}`];
}

/** The name of this platform. What is loaded is found without: on Linux this takes some time. */
export function platform(): string {
  const [name, other] = platforms() as [string, string?];
  if (other === undefined) {
    return name;
  }
  const report = process.report as typeof process.report & { excludeNetwork?: boolean };
  // Otherwise the report asks name servers about open connections.
  const before = report.excludeNetwork;
  report.excludeNetwork = true;
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } };
  report.excludeNetwork = before;
  return header?.glibcVersionRuntime ? name : other;
}

/** The name of a native module's file, in the root of the package; that of this platform. */
export function file(name = platform()): string {
  return `alknet-fs.${name}.node`;
}

let loaded: Native | undefined;

/** Loads the native module: one that was built here, or the package of this platform. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

function load(): Native {
  const failures: unknown[] = [];
  // Where there are two, the other is not installed, and would not load.
  const names = platforms();
  const built = names.map((name) => `../${file(name)}`);
  for (const module of [...built, ...names.map((name) => `@alknet/fs-${name}`)]) {
    try {
      return require(module);
    } catch (error) {
      failures.push(error);
    }
  }
  const cause = new AggregateError(failures);
  const name = platform();
  throw new Error(
    `alknet-fs has no native module for ${name}. It comes with the optional dependency ` +
      `@alknet/fs-${name}: install again without leaving optional dependencies out. ` +
      'Where there is none for this platform, build it in a clone of the repository.',
    { cause },
  );
}
