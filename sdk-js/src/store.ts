/** Stores, buckets, branches and views. */

import type { PathLike } from 'node:fs';
import { type InspectOptions, inspect } from 'node:util';

import {
  APPEND,
  CREATE,
  EXCLUSIVE,
  integer,
  READ,
  TRUNCATE,
  toBytes,
  toMode,
  toPath,
  toText,
  toTexts,
  WRITE,
} from './arguments.js';
import { type Attributes, toAttributes, toFunction, toObject, toSignal } from './attributes.js';
import { Batch, type Data, type PutOptions } from './batch.js';
import { later, now } from './calls.js';
import { type AlkError, failure, isThenable, wrongResult, wrongValue } from './errors.js';
import { type FileSystem, fileSystem } from './fs.js';
import type { Watching } from './fswatch.js';
import { FileHandle } from './handle.js';
import {
  type BranchInfo,
  type BucketHandle,
  type CollectOptions,
  type Conflict,
  type ContentSettings,
  type Difference,
  type Entry,
  type EventFilter,
  type EvictReport,
  type ExportReport,
  type FetchReport,
  type FsckReport,
  type GcReport,
  type GcSchedule,
  type GrantInfo,
  type ImportReport,
  type NameConflict,
  type Named,
  type NamedEntry,
  type NativeFilter,
  native,
  type Outcome,
  type PathEntry,
  type PeerInfo,
  type SessionInfo,
  type Sharing,
  type SnapshotInfo,
  type StoreEvent,
  type StoreHandle,
  type StoreStats,
  type SyncStatus,
  type Tree,
  type Unsent,
} from './native.js';
import {
  type JoinOptions,
  Node,
  type NodeOptions,
  type ShareOptions,
  toNodeSettings,
  toShareSettings,
  type WaitOptions,
} from './node.js';
import { Reader } from './reader.js';
import { Session, type SessionOptions, toSessionOptions } from './session.js';
import { type TaskOptions, task } from './task.js';
import { Watcher, type WatchOptions, withJson } from './watch.js';

/** How to open a store. */
export interface OpenOptions {
  /**
   * `true` makes a store where there is none, which is the default; `false` fails there; `'new'`
   * fails where there is one.
   */
  create?: boolean | 'new';
  /** Who is named as the author of changes; otherwise the user. */
  author?: string;
  /**
   * What a commit promises when it returns: `'full'`, the default, survives a power cut;
   * `'relaxed'` may lose the newest commits to one.
   */
  durability?: 'full' | 'relaxed';
  /** How long a write waits for those of other processes, in milliseconds; otherwise 30,000. */
  busyTimeout?: number;
}

/** How to collect garbage. */
export interface GcOptions {
  /**
   * For how long content must have been known to be unreferenced before it is removed, in
   * milliseconds; otherwise an hour. A collection finds out what is; so with any other time than 0,
   * it takes a second one to remove it.
   */
  grace?: number;
  /** How many of its newest events each bucket keeps, about; otherwise all. */
  keepEvents?: number;
  /** How old events get before they go, in milliseconds; otherwise they stay. */
  keepEventsFor?: number;
}

/** How to open a file with a position; all flags are off unless stated, as those of `open(2)`. */
export interface FileOptions {
  read?: boolean;
  write?: boolean;
  /** Whether every write goes to the end. */
  append?: boolean;
  create?: boolean;
  /** Whether the file must be new, when it is opened and when it is closed. */
  createNew?: boolean;
  truncate?: boolean;
  /** The permission bits of a file that is new; otherwise `0o644`. */
  mode?: number;
}

/** Which events of the log. */
export interface LogOptions extends EventFilter {
  /** At most so many; otherwise 100. */
  limit?: number;
  /** Only those before this {@link StoreEvent.cursor | position}: for the next page. */
  before?: number;
}

/** What to import, and how. */
export interface ImportOptions extends TaskOptions {
  /** Where to; otherwise the root. It is made if it is missing. */
  to?: PathLike;
  /** What to leave out: patterns as those of {@link EventFilter.glob}. */
  exclude?: string[];
  /** Whether entries that the source lacks are removed from the branch. */
  delete?: boolean;
}

/** What to export, and how. */
export interface ExportOptions extends TaskOptions {
  /** What; otherwise the root. */
  from?: PathLike;
  /** Whether the target may have entries: files of the same name are replaced, others stay. */
  overwrite?: boolean;
  /** Whether the files are safe from a power cut when the export returns. */
  sync?: boolean;
}

function convert(options: OpenOptions) {
  const { create = true, author, durability, busyTimeout } = toObject(options);
  return {
    ...(create === true
      ? {}
      : { mode: create === 'new' ? ('create' as const) : ('open' as const) }),
    ...(author === undefined ? {} : { author: toText(author, 'author') }),
    ...(busyTimeout === undefined ? {} : { busyTimeout }),
    relaxed: durability === 'relaxed',
  };
}

function toFilter(options: EventFilter | undefined): NativeFilter {
  const { branch, under, directlyIn, glob, ops, kinds } = toObject(options);
  return {
    ...(branch === undefined ? {} : { branch: toText(branch, 'branch') }),
    ...(under === undefined ? {} : { under: toPath(under, 'under') }),
    ...(directlyIn === undefined ? {} : { directlyIn: toPath(directlyIn, 'directlyIn') }),
    ...(glob === undefined ? {} : { globs: toTexts([glob].flat(), 'glob') }),
    ...(ops === undefined ? {} : { ops: toTexts(ops, 'ops') }),
    ...(kinds === undefined ? {} : { kinds: toTexts(kinds, 'kinds') }),
  };
}

function toCollect(options: (GcOptions & { dryRun?: boolean }) | undefined): CollectOptions {
  const { grace, keepEvents, keepEventsFor, dryRun } = toObject(options);
  return {
    ...(grace === undefined ? {} : { grace }),
    ...(keepEvents === undefined ? {} : { keepEvents }),
    ...(keepEventsFor === undefined ? {} : { keepEventsFor }),
    ...(dryRun === undefined ? {} : { dryRun }),
  };
}

function toBits(options: FileOptions): number {
  const { read, write, append, create, createNew, truncate } = toObject(options);
  return (
    (read ? READ : 0) |
    (write ? WRITE : 0) |
    (append ? APPEND : 0) |
    (create || createNew ? CREATE : 0) |
    (createNew ? EXCLUSIVE : 0) |
    (truncate ? TRUNCATE : 0)
  );
}

function optional(value: string | undefined, name: string): string | undefined {
  return value === undefined ? undefined : toText(value, name);
}

const withPaths = (found: Named[]): PathEntry[] =>
  found.map(({ name, entry }) => ({ path: name, ...entry }));

/** Opens the store in a directory. */
export async function open(path: string, options: OpenOptions = {}): Promise<Store> {
  const [where, how] = [toPath(path), convert(options)];
  return new Store(await later((later) => native().StoreHandle.open(where, how, later)));
}

/** As {@link open}, on the calling thread. */
export function openSync(path: string, options: OpenOptions = {}): Store {
  const [where, how] = [toPath(path), convert(options)];
  return new Store(now((later) => native().StoreHandle.open(where, how, later)));
}

/** Makes a store in memory, which is gone with the last thing that was taken from it. */
export function memory(options: Omit<OpenOptions, 'create'> = {}): Store {
  const how = convert(options);
  return new Store(now((later) => native().StoreHandle.open(undefined, how, later)));
}

/**
 * A store: buckets, in a directory or in memory.
 *
 * With `using` or `await using` it is closed at the end of the block. Otherwise {@link close} it, or
 * leave it to the end of the process: nothing that was committed depends on it.
 */
export class Store {
  readonly #native: StoreHandle;

  /** @internal */
  constructor(handle: StoreHandle) {
    this.#native = handle;
  }

  /** @internal */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    return shown('Store', options, () => this.path ?? 'in memory');
  }

  /** The directory; nothing for a store in memory. */
  get path(): string | undefined {
    return now(() => this.#native.path()) ?? undefined;
  }

  /**
   * Closes the store: whatever was taken from it fails from now on. Files and sessions that are
   * being written are aborted.
   */
  async close(): Promise<void> {
    await later((later) => this.#native.close(later));
  }

  /** As {@link close}, on the calling thread. */
  closeSync(): void {
    now((later) => this.#native.close(later));
  }

  [Symbol.dispose](): void {
    this.closeSync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Finds a bucket; without a name, the one that every store is made with. */
  bucket(name = 'default'): Bucket {
    const text = toText(name, 'name');
    return new Bucket(
      now(() => this.#native.bucket(text)),
      this.#native,
    );
  }

  /** Lists the names of all buckets. */
  async buckets(): Promise<string[]> {
    return later((later) => this.#native.buckets(later));
  }

  /** As {@link buckets}, on the calling thread. */
  bucketsSync(): string[] {
    return now((later) => this.#native.buckets(later));
  }

  /** Makes a bucket with an empty branch `main`. */
  async createBucket(name: string): Promise<Bucket> {
    const text = toText(name, 'name');
    const bucket = await later((later) => this.#native.createBucket(text, later));
    return new Bucket(bucket, this.#native);
  }

  /** As {@link createBucket}, on the calling thread. */
  createBucketSync(name: string): Bucket {
    const text = toText(name, 'name');
    return new Bucket(
      now((later) => this.#native.createBucket(text, later)),
      this.#native,
    );
  }

  /** Gives a bucket another name. */
  async renameBucket(name: string, to: string): Promise<void> {
    const [from, target] = [toText(name, 'name'), toText(to, 'to')];
    await later((later) => this.#native.renameBucket(from, target, later));
  }

  /** Deletes a bucket with all in it. */
  async deleteBucket(name: string): Promise<void> {
    const text = toText(name, 'name');
    await later((later) => this.#native.deleteBucket(text, later));
  }

  /** Watches the events of all buckets. */
  watch(options?: WatchOptions): Watcher {
    return watch(this.#native, undefined, options);
  }

  /** Lists all open write sessions from the oldest. */
  async sessions(): Promise<SessionInfo[]> {
    return later((later) => this.#native.sessions(later));
  }

  /** As {@link sessions}, on the calling thread. */
  sessionsSync(): SessionInfo[] {
    return now((later) => this.#native.sessions(later));
  }

  /** Takes over an open write session whose process is gone, with all that it had written. */
  async resumeSession(id: number): Promise<Session> {
    return new Session(await later((later) => this.#native.resumeSession(id, later)));
  }

  /** As {@link resumeSession}, on the calling thread. */
  resumeSessionSync(id: number): Session {
    return new Session(now((later) => this.#native.resumeSession(id, later)));
  }

  /**
   * Throws away an open write session, whoever opened it; one that a living process works on only
   * with `force`.
   */
  async abortSession(id: number, options?: { force?: boolean }): Promise<void> {
    const { force = false } = toObject(options);
    await later((later) => this.#native.abortSession(id, force, later));
  }

  /** Counts what the store holds. The cost follows the number of contents. */
  async stats(): Promise<StoreStats> {
    return later((later) => this.#native.stats(later));
  }

  /**
   * Checks the whole store; what is wrong is in the report. With `fast`, the structure only, without
   * reading the contents.
   */
  async fsck(options?: { fast?: boolean } & TaskOptions): Promise<FsckReport> {
    const given = toObject(options);
    return task(given, (task, later) => this.#native.fsck(given.fast === true, task, later));
  }

  /**
   * Removes what nothing refers to any more. Safe while others read and write. With `dryRun`, only
   * tells what it would remove.
   */
  async gc(options?: GcOptions & { dryRun?: boolean } & TaskOptions): Promise<GcReport> {
    const collect = toCollect(options);
    return task(toObject(options), (task, later) => this.#native.gc(collect, task, later));
  }

  /**
   * Sets when garbage is collected: five cron fields in local time, such as `0 3 * * *`, or an
   * interval, such as `@every 6h`. The store keeps it, and {@link gcIfDue} follows it.
   */
  async scheduleGc(when: string, options?: GcOptions): Promise<void> {
    const [text, collect] = [toText(when, 'when'), toCollect(options)];
    await later((later) => this.#native.scheduleGc(text, collect, later));
  }

  /** Ends the schedule; tells whether there was one. */
  async unscheduleGc(): Promise<boolean> {
    return later((later) => this.#native.unscheduleGc(later));
  }

  /** Tells the schedule. */
  async gcSchedule(): Promise<GcSchedule | undefined> {
    return (await later((later) => this.#native.gcSchedule(later))) ?? undefined;
  }

  /**
   * Collects garbage if the schedule says that it is time and no other process does. Meant to be
   * called now and then by programs that run for long.
   */
  async gcIfDue(options?: TaskOptions): Promise<GcReport | undefined> {
    const report = await task(toObject(options), (task, later) =>
      this.#native.gcIfDue(task, later),
    );
    return report ?? undefined;
  }

  /**
   * Gives the free space inside the database back to the disk; tells how many bytes that were.
   * Writers of all processes wait meanwhile.
   */
  async compact(): Promise<number> {
    return later((later) => this.#native.compact(later));
  }

  /**
   * Starts the store's node. Nothing leaves the machine but to nodes that were let in. Fails with an
   * error of kind `Locked` where a process runs the node of this store already.
   */
  async startNode(options?: NodeOptions): Promise<Node> {
    const settings = toNodeSettings(options);
    return new Node(await later((later) => this.#native.startNode(settings, later)));
  }

  /**
   * Shares a bucket, or some branches of it: tells the ticket that lets in whoever has it. Hand it over
   * in private. Who joins waits until the node runs.
   */
  async share(bucket = 'default', options?: ShareOptions): Promise<string> {
    const [name, settings] = [toText(bucket, 'bucket'), toShareSettings(options)];
    return later((later) => this.#native.share(name, settings, later));
  }

  /**
   * Makes a bucket here that somebody shares, and keeps the two the same while a node runs. Joining
   * again is harmless, and how a newer ticket for the same bucket is used.
   *
   * Where a process runs the node of this store, it waits for the answer of the node that gave the
   * ticket. If that does not let this one in, because the grant was revoked, it fails with an error of
   * kind `PermissionDenied`, and all is as it was before. When the time is over, when the wait is
   * aborted, and at once where no node runs here, the bucket stays joined: a node that runs goes on
   * trying, and {@link syncStatus} says how that went.
   */
  async join(ticket: string, options?: JoinOptions): Promise<Bucket> {
    const text = toText(ticket, 'ticket');
    const { name, merge = false, timeout = 10_000, signal } = toObject(options);
    const called = optional(name, 'options.name');
    const bucket = await task(signal === undefined ? {} : { signal }, (task, later) =>
      this.#native.join(text, called, merge, timeout, task, later),
    );
    return new Bucket(bucket, this.#native);
  }

  /**
   * Tells what a ticket would let out of what was written here while the bucket was only read; nothing
   * where there is no such thing.
   */
  async unsent(ticket: string): Promise<Unsent | undefined> {
    const text = toText(ticket, 'ticket');
    return (await later((later) => this.#native.unsent(text, later))) ?? undefined;
  }

  /**
   * Ends what was joined of a bucket, which stays as it is: all of it, or what was joined from one peer,
   * named by its name, its key or the beginning of that.
   */
  async leave(bucket: string, peer?: string): Promise<void> {
    const name = toText(bucket, 'bucket');
    const from = peer === undefined ? undefined : toText(peer, 'peer');
    await later((later) => this.#native.leave(name, from, later));
  }

  /** Lists what was given to others, from the oldest, used or not. */
  async grants(): Promise<GrantInfo[]> {
    return later((later) => this.#native.grants(later));
  }

  /** Lists the nodes that this store has to do with. */
  async peers(): Promise<PeerInfo[]> {
    return later((later) => this.#native.peers(later));
  }

  /**
   * Gives a peer a name, by which it is called from then on. `who` is its present name, its key, or the
   * beginning of its key.
   */
  async namePeer(who: string, name: string): Promise<void> {
    const [peer, text] = [toText(who, 'who'), toText(name, 'name')];
    await later((later) => this.#native.namePeer(peer, text, later));
  }

  /**
   * Forgets a peer that the store has nothing to do with any more: it is listed no longer. It fails
   * where the peer is let in, or a bucket was joined from it.
   */
  async forgetPeer(who: string): Promise<void> {
    const peer = toText(who, 'who');
    await later((later) => this.#native.forgetPeer(peer, later));
  }

  /**
   * Takes everything back that a peer was given, from this moment on. The tickets that it used let
   * nobody new in any more; who else used them stays. Tells how many grants it had.
   */
  async revokePeer(who: string): Promise<number> {
    const peer = toText(who, 'who');
    return later((later) => this.#native.revokePeer(peer, later));
  }

  /**
   * Takes back what `who` says: everything that a peer was given, by its name, its key or the beginning
   * of it, or a grant, by its label, its id or the beginning of it. Fails with an error of kind
   * `InvalidInput` where several match. Tells how many grants that were, and buckets into which others
   * alone let the peer.
   */
  async revoke(who: string): Promise<number> {
    const text = toText(who, 'who');
    return later((later) => this.#native.revoke(text, later));
  }

  /** Takes a grant back from everybody who uses it; its ticket is worth nothing any more. */
  async revokeGrant(id: string): Promise<void> {
    const text = toText(id, 'id');
    await later((later) => this.#native.revokeGrant(text, later));
  }

  /** Tells how it stands with each peer and bucket, whichever process runs the node. */
  async syncStatus(): Promise<SyncStatus> {
    return later((later) => this.#native.syncStatus(later));
  }

  /**
   * Waits until each bucket that is shared or joined, or one, is synced with all peers. Tells how it
   * stands then, or when the time is over: {@link SyncStatus.synced} says which.
   */
  async untilSynced(options?: WaitOptions): Promise<SyncStatus> {
    const given = toObject(options);
    const bucket = optional(given.bucket, 'options.bucket');
    const { timeout = 60_000, signal } = given;
    return task(signal === undefined ? {} : { signal }, (task, later) =>
      this.#native.waitUntilSynced(bucket, timeout, task, later),
    );
  }

  /** Tells how many bytes of contents the store may hold; nothing where that is any number. */
  async cacheLimit(): Promise<number | undefined> {
    return (await later((later) => this.#native.cacheLimit(later))) ?? undefined;
  }

  /**
   * Sets how many bytes of contents the store may hold; nothing for any number. The process that runs
   * the node evicts what is beyond, as {@link evict} does.
   */
  async setCacheLimit(bytes: number | undefined): Promise<void> {
    if (bytes !== undefined) {
      integer(bytes, 'bytes', 0);
    }
    await later((later) => this.#native.setCacheLimit(bytes, later));
  }

  /**
   * Counts the bytes of the contents that are here, as {@link setCacheLimit} limits them. The cost
   * follows the number of contents.
   */
  async cachedBytes(): Promise<number> {
    return later((later) => this.#native.cachedBytes(later));
  }

  /**
   * Removes what was not read for longest, and a peer confirms that it holds, until the store has at
   * most so many bytes of contents. It is fetched again when it is read. Contents of buckets that are
   * not shared, or are eager, and of pinned paths stay.
   */
  async evict(options?: { toBytes?: number } & TaskOptions): Promise<EvictReport> {
    const given = toObject(options);
    const { toBytes = 0 } = given;
    integer(toBytes, 'options.toBytes', 0);
    return task(given, (task, later) => this.#native.evict(toBytes, task, later));
  }
}

/** How something is printed: what it is and which one, or that it is closed. */
function shown(what: string, options: InspectOptions, which: () => string): string {
  try {
    return `${what} ${inspect(which(), options)}`;
  } catch {
    return `${what} (closed)`;
  }
}

function watch(
  store: StoreHandle,
  bucket: string | undefined,
  options: WatchOptions | undefined,
): Watcher {
  const { after, signal } = toObject(options);
  const ends = toSignal(signal);
  if (after !== undefined) {
    integer(after, 'options.after', 0);
  }
  const what = {
    ...(bucket === undefined ? {} : { bucket }),
    ...(after === undefined ? {} : { after }),
    filter: toFilter(options),
  };
  return new Watcher((deliver) => store.watch(what, deliver), ends);
}

/**
 * A tree of a bucket: the text `BRANCH` or `BRANCH@SNAPSHOT`, a {@link Branch}, or a {@link View} of
 * a snapshot.
 */
export type TreeName = string | Branch | View;

/** A bucket: branches that share content and history. */
export class Bucket {
  readonly #native: BucketHandle;
  readonly #store: StoreHandle;

  /** @internal */
  constructor(handle: BucketHandle, store: StoreHandle) {
    this.#native = handle;
    this.#store = store;
  }

  /** @internal */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    return shown('Bucket', options, () => this.name);
  }

  /** The bucket's name as it is now. */
  get name(): string {
    return now(() => this.#native.name());
  }

  /** Finds a branch; without a name, the one that every bucket is made with. */
  branch(name = 'main'): Branch {
    const text = toText(name, 'name');
    if (text.includes('@')) {
      throw wrongValue('name', `names a snapshot, which view(${inspect(text)}) opens`, text);
    }
    return new Branch(
      now(() => this.#native.branch(text)),
      this.#store,
    );
  }

  /** Lists all branches from the oldest. */
  async branches(): Promise<BranchInfo[]> {
    return later((later) => this.#native.branches(later));
  }

  /** As {@link branches}, on the calling thread. */
  branchesSync(): BranchInfo[] {
    return now((later) => this.#native.branches(later));
  }

  /** Opens a view of `BRANCH` as it is now, or of `BRANCH@SNAPSHOT`. */
  view(tree: string): View {
    const text = toText(tree, 'tree');
    const view = now((later) => this.#native.view(text, later));
    const snapshot = text.includes('@') ? text : undefined;
    return new View(view, () => ({ bucket: this, text: snapshot }));
  }

  /** Forks a branch off `BRANCH`, whose later writes show in it, or off `BRANCH@SNAPSHOT`. */
  async fork(from: string, name: string): Promise<Branch> {
    const [source, text] = [toText(from, 'from'), toText(name, 'name')];
    const fork = await later((later) => this.#native.fork(source, text, later));
    return new Branch(fork, this.#store);
  }

  /** As {@link fork}, on the calling thread. */
  forkSync(from: string, name: string): Branch {
    const [source, text] = [toText(from, 'from'), toText(name, 'name')];
    return new Branch(
      now((later) => this.#native.fork(source, text, later)),
      this.#store,
    );
  }

  /** Deletes a branch with its snapshots. */
  async deleteBranch(name: string): Promise<void> {
    const text = toText(name, 'name');
    await later((later) => this.#native.deleteBranch(text, later));
  }

  /**
   * Compares two trees at and below a path: what changes from the first to the second. The cost
   * follows what they do not share.
   */
  async diff(from: TreeName, to: TreeName, options?: { under?: PathLike }): Promise<Difference[]> {
    const [first, second] = [this.#treeName(from, 'from'), this.#treeName(to, 'to')];
    const under = toPath(toObject(options).under ?? '/', 'under');
    return later((later) => this.#native.diff(first, second, under, later));
  }

  /** As {@link diff}, on the calling thread. */
  diffSync(from: TreeName, to: TreeName, options?: { under?: PathLike }): Difference[] {
    const [first, second] = [this.#treeName(from, 'from'), this.#treeName(to, 'to')];
    const under = toPath(toObject(options).under ?? '/', 'under');
    return now((later) => this.#native.diff(first, second, under, later));
  }

  /** Tells how a tree of this bucket is called. */
  #treeName(tree: TreeName, name: string): string {
    if (!(tree instanceof ReadableTree)) {
      return toText(tree, name);
    }
    const { bucket, text } = tree[REFERENCE]();
    if (text === undefined) {
      throw wrongValue(name, 'shows no snapshot: compare a branch, or a view of a snapshot', tree);
    }
    if (bucket.#store !== this.#store || bucket.name !== this.name) {
      throw wrongValue(name, 'is in another bucket', tree);
    }
    return text;
  }

  /** Lists the newest events, newest first. */
  async log(options?: LogOptions): Promise<StoreEvent[]> {
    const filter = toFilter(options);
    const { limit = 100, before } = toObject(options);
    const most = limit === Number.POSITIVE_INFINITY ? Number.MAX_SAFE_INTEGER : limit;
    integer(most, 'options.limit', 0);
    if (before !== undefined) {
      integer(before, 'options.before', 0);
    }
    return withJson(await later((later) => this.#native.log(filter, before, most, later)));
  }

  /** Goes through the log from the newest event, page by page. */
  async *history(options?: Omit<LogOptions, 'limit'>): AsyncGenerator<StoreEvent, void> {
    const limit = 256;
    let before = toObject(options).before;
    for (;;) {
      const page = await this.log({
        ...options,
        limit,
        ...(before === undefined ? {} : { before }),
      });
      yield* page;
      before = page.at(-1)?.cursor;
      if (page.length < limit) {
        return;
      }
    }
  }

  /** Watches the events of the bucket. */
  watch(options?: WatchOptions): Watcher {
    return watch(this.#store, this.name, options);
  }

  /**
   * Removes old events, where both are given by the stricter; tells how many. Watchers that had not
   * seen them get an error of kind `Lagged`.
   *
   * @param options - `atMost`: about how many of the newest stay. `notBefore`: a Date, or
   * nanoseconds since 1970; events before it go.
   */
  async pruneEvents(options: { atMost?: number; notBefore?: Date | bigint }): Promise<number> {
    const { atMost, notBefore } = toObject(options);
    const { mtime } = toAttributes(notBefore === undefined ? {} : { mtime: notBefore });
    return later((later) => this.#native.pruneEvents(atMost, mtime, later));
  }

  /** Finds out how much content trees share, each `BRANCH` or `BRANCH@SNAPSHOT`. */
  async sharing(trees: string[], options?: TaskOptions): Promise<Sharing> {
    const names = toTexts(trees, 'trees');
    return task(toObject(options), (task, later) => this.#native.sharing(names, task, later));
  }

  /** Tells what the bucket does about contents that are elsewhere. */
  async contentSettings(): Promise<ContentSettings> {
    return later((later) => this.#native.contentSettings(later));
  }

  /** Sets which contents are fetched before anybody reads them. */
  async setContentPolicy(policy: ContentSettings['policy']): Promise<void> {
    const text = toText(policy, 'policy');
    await later((later) => this.#native.setContentPolicy(text, later));
  }

  /** Sets how long a read waits for a content that is elsewhere, in milliseconds. */
  async setContentTimeout(timeout: number): Promise<void> {
    await later((later) => this.#native.setContentTimeout(timeout, later));
  }

  /**
   * Pins a path with all below it, or what matches a pattern, in all branches and snapshots: the
   * contents are fetched in the background, and stay. Patterns are those of {@link EventFilter.glob}.
   */
  async pin(pattern: string): Promise<void> {
    const text = toText(pattern, 'pattern');
    await later((later) => this.#native.pin(text, later));
  }

  /**
   * Tells whether a pin would be of anything that is there: on a branch, or in what was there before and
   * is not collected yet. The cost follows the size of the bucket where it is not.
   */
  async hasMatch(pattern: string): Promise<boolean> {
    const text = toText(pattern, 'pattern');
    return later((later) => this.#native.hasMatch(text, later));
  }

  /** Takes a pin off, given as it was set. What is here stays until it is evicted. */
  async unpin(pattern: string): Promise<void> {
    const text = toText(pattern, 'pattern');
    await later((later) => this.#native.unpin(text, later));
  }

  /**
   * Fetches all contents that are elsewhere, of all branches and snapshots. The progress counts
   * contents, as `files`, and their bytes. What could not be fetched is in the report.
   */
  async fetch(options?: TaskOptions): Promise<FetchReport> {
    return task(toObject(options), (task, later) => this.#native.fetch(task, later));
  }

  /** Lists what nodes wrote to one path without knowing of each other, by branch and path. */
  async conflicts(): Promise<Conflict[]> {
    return later((later) => this.#native.conflicts(later));
  }

  /**
   * Lists the branches and snapshots that have a suffix, because another one of their name came from
   * elsewhere. To rename or delete one of the two settles it.
   */
  async nameConflicts(): Promise<NameConflict[]> {
    return later((later) => this.#native.nameConflicts(later));
  }
}

const REFERENCE = Symbol('reference');

/** Where a tree is, and how it is called there; nothing where it has no name. */
interface Reference {
  bucket: Bucket;
  text: string | undefined;
}

/** What is no path leads to nothing; all else that fails is an error. */
function unlessNoPath(error: unknown): false {
  const { kind, code } = error as AlkError;
  if (kind === 'InvalidPath' || kind === 'NameTooLong' || code === 'ERR_INVALID_ARG_VALUE') {
    return false;
  }
  throw error;
}

/** What branches and views have in common: a tree of files that can be read. */
export abstract class ReadableTree {
  /** @internal */
  protected readonly native: Tree;
  #fs: FileSystem | undefined;

  /** @internal */
  constructor(tree: Tree) {
    this.native = tree;
  }

  /** The tree in the shape of `node:fs`. */
  get fs(): FileSystem {
    this.#fs ??= fileSystem(this.native, (options) => this.watching(options));
    return this.#fs;
  }

  /** @internal */
  abstract [REFERENCE](): Reference;

  /** @internal */
  [inspect.custom](_depth: number, options: InspectOptions): string {
    return shown(this.constructor.name, options, () => {
      const { bucket, text = 'unnamed' } = this[REFERENCE]();
      return `${bucket.name}/${text}`;
    });
  }

  /** @internal */
  protected watching: Watching = () => {
    throw failure('ENOSYS', 'Unsupported', { syscall: 'watch' });
  };

  /** Tells all that is known of a path; links at its end are followed unless said otherwise. */
  async entry(path: PathLike, options?: { follow?: boolean }): Promise<Entry> {
    const [name, follow] = [toPath(path), toObject(options).follow !== false];
    return later((later) => this.native.entry(name, follow, later));
  }

  /** As {@link entry}, on the calling thread. */
  entrySync(path: PathLike, options?: { follow?: boolean }): Entry {
    const [name, follow] = [toPath(path), toObject(options).follow !== false];
    return now((later) => this.native.entry(name, follow, later));
  }

  /** Tells whether something is at a path, links followed. Nothing is where no path leads. */
  async exists(path: PathLike): Promise<boolean> {
    try {
      const name = toPath(path);
      return await later((later) => this.native.exists(name, later));
    } catch (error) {
      return unlessNoPath(error);
    }
  }

  /** As {@link exists}, on the calling thread. */
  existsSync(path: PathLike): boolean {
    try {
      const name = toPath(path);
      return now((later) => this.native.exists(name, later));
    } catch (error) {
      return unlessNoPath(error);
    }
  }

  /** Tells the path with every symbolic link replaced by what it points to. */
  async canonicalize(path: PathLike): Promise<string> {
    const name = toPath(path);
    return later((later) => this.native.canonicalize(name, later));
  }

  /** As {@link canonicalize}, on the calling thread. */
  canonicalizeSync(path: PathLike): string {
    const name = toPath(path);
    return now((later) => this.native.canonicalize(name, later));
  }

  /** Lists a directory by name, with all that is known of each entry. Links are not followed. */
  async list(path: PathLike = '/'): Promise<NamedEntry[]> {
    const name = toPath(path);
    const found = await later((later) => this.native.entries(name, later));
    return found.map(({ name, entry }) => ({ name, ...entry }));
  }

  /** As {@link list}, on the calling thread. */
  listSync(path: PathLike = '/'): NamedEntry[] {
    const name = toPath(path);
    const found = now((later) => this.native.entries(name, later));
    return found.map(({ name, entry }) => ({ name, ...entry }));
  }

  /** Lists everything below a directory, each directory before its entries, by name. */
  async walk(path: PathLike = '/'): Promise<PathEntry[]> {
    const name = toPath(path);
    return withPaths(await later((later) => this.native.walk(name, later)));
  }

  /** As {@link walk}, on the calling thread. */
  walkSync(path: PathLike = '/'): PathEntry[] {
    const name = toPath(path);
    return withPaths(now((later) => this.native.walk(name, later)));
  }

  /**
   * Finds what matches a pattern below a directory: `*` and `?` stop at `/`, `**` does not, and a
   * pattern without a `/` matches names at any depth.
   */
  async glob(pattern: string, options?: { cwd?: PathLike }): Promise<PathEntry[]> {
    const [text, name] = [toText(pattern, 'pattern'), toPath(toObject(options).cwd ?? '/', 'cwd')];
    return withPaths(await later((later) => this.native.glob(name, text, later)));
  }

  /** As {@link glob}, on the calling thread. */
  globSync(pattern: string, options?: { cwd?: PathLike }): PathEntry[] {
    const [text, name] = [toText(pattern, 'pattern'), toPath(toObject(options).cwd ?? '/', 'cwd')];
    return withPaths(now((later) => this.native.glob(name, text, later)));
  }

  /** Opens a file by flags of its own, where `fs.promises.open` takes those of Node. */
  async openFile(path: PathLike, options: FileOptions = { read: true }): Promise<FileHandle> {
    const name = toPath(path);
    const mode = toMode(toObject(options).mode);
    const bits = toBits(options);
    return new FileHandle(await later((later) => this.native.open(name, bits, mode, later)));
  }

  /** Opens the version of a file that is there now, for reading by ranges. */
  async reader(path: PathLike): Promise<Reader> {
    const name = toPath(path);
    return new Reader(await later((later) => this.native.reader(name, later)));
  }

  /** As {@link reader}, on the calling thread. */
  readerSync(path: PathLike): Reader {
    const name = toPath(path);
    return new Reader(now((later) => this.native.reader(name, later)));
  }

  /** Opens a content by its hash, whatever path it has. */
  async content(hash: string): Promise<Reader> {
    const text = toText(hash, 'hash');
    return new Reader(await later((later) => this.native.content(text, later)));
  }

  /** As {@link content}, on the calling thread. */
  contentSync(hash: string): Reader {
    const text = toText(hash, 'hash');
    return new Reader(now((later) => this.native.content(text, later)));
  }

  /**
   * Fetches what a path, or all below it, has of contents that are elsewhere. The progress counts
   * contents, as `files`, and their bytes. What could not be fetched is in the report.
   */
  async fetch(path: PathLike = '/', options?: TaskOptions): Promise<FetchReport> {
    const name = toPath(path);
    return task(toObject(options), (task, later) => this.native.fetch(name, task, later));
  }

  /** Reads a file again and checks every byte against its hash. */
  async verify(path: PathLike): Promise<void> {
    const name = toPath(path);
    await later((later) => this.native.verify(name, later));
  }

  /**
   * Hashes the whole tree: names, kinds, modes, contents and link texts, not times or owners. Two
   * trees with equal hashes hold the same files.
   */
  async treeHash(): Promise<string> {
    return later((later) => this.native.treeHash(later));
  }

  /** As {@link treeHash}, on the calling thread. */
  treeHashSync(): string {
    return now((later) => this.native.treeHash(later));
  }

  /**
   * Writes a directory of the tree, or a single file, with modes, times and links into a directory
   * of the operating system, which is made if it is missing.
   */
  async export(target: string | URL, options?: ExportOptions): Promise<ExportReport> {
    const given = toObject(options);
    const [from, to] = [toPath(given.from ?? '/', 'from'), toPath(target, 'target')];
    const { overwrite = false, sync = false } = given;
    return task(given, (task, later) => this.native.export(from, to, overwrite, sync, task, later));
  }
}

/**
 * A branch or a snapshot at one moment; it never changes, and cannot be changed.
 *
 * One that is held for long keeps the database's log from shrinking: {@link close} it, or take it
 * with `using`.
 */
export class View extends ReadableTree {
  readonly #reference: () => Reference;

  /** @internal */
  constructor(tree: Tree, reference: () => Reference) {
    super(tree);
    this.#reference = reference;
  }

  /** @internal */
  override [REFERENCE](): Reference {
    return this.#reference();
  }

  /** Lets the view go. */
  close(): void {
    now(() => this.native.close());
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

/** A branch: a tree of files that forks at once and shares what is unchanged. */
export class Branch extends ReadableTree {
  readonly #store: StoreHandle;

  /** @internal */
  constructor(tree: Tree, store: StoreHandle) {
    super(tree);
    this.#store = store;
    this.watching = (options) => this.watch(options);
  }

  /** The branch's name as it is now. */
  get name(): string {
    return now(() => this.native.name());
  }

  /** @internal */
  override [REFERENCE](): Reference {
    return { bucket: this.bucket, text: this.name };
  }

  /** The bucket that the branch is in. */
  get bucket(): Bucket {
    return new Bucket(
      now(() => this.native.bucket()),
      this.#store,
    );
  }

  /** Tells what is known of the branch. */
  async info(): Promise<BranchInfo> {
    return later((later) => this.native.info(later));
  }

  /** As {@link info}, on the calling thread. */
  infoSync(): BranchInfo {
    return now((later) => this.native.info(later));
  }

  /**
   * Forks a branch. Later writes to this one show in the fork where that has not changed the
   * file, unless it is forked off a snapshot.
   */
  async fork(name: string, options?: { snapshot?: string }): Promise<Branch> {
    const text = toText(name, 'name');
    const snapshot = optional(toObject(options).snapshot, 'snapshot');
    const fork = await later((later) => this.native.fork(snapshot, text, later));
    return new Branch(fork, this.#store);
  }

  /** As {@link fork}, on the calling thread. */
  forkSync(name: string, options?: { snapshot?: string }): Branch {
    const text = toText(name, 'name');
    const snapshot = optional(toObject(options).snapshot, 'snapshot');
    return new Branch(
      now((later) => this.native.fork(snapshot, text, later)),
      this.#store,
    );
  }

  /** Opens a view of the branch as it is now, or of one of its snapshots. */
  view(snapshot?: string): View {
    const text = optional(snapshot, 'snapshot');
    const view = now((later) => this.native.view(text, later));
    return new View(view, () => {
      const { bucket, name } = this;
      return { bucket, text: text === undefined ? undefined : `${name}@${text}` };
    });
  }

  /** Takes a snapshot of all that the branch shows. */
  async snapshot(name: string): Promise<void> {
    const text = toText(name, 'name');
    await later((later) => this.native.snapshot(text, later));
  }

  /** As {@link snapshot}, on the calling thread. */
  snapshotSync(name: string): void {
    const text = toText(name, 'name');
    now((later) => this.native.snapshot(text, later));
  }

  /** Lists the branch's snapshots from the oldest. */
  async snapshots(): Promise<SnapshotInfo[]> {
    return later((later) => this.native.snapshots(later));
  }

  /** As {@link snapshots}, on the calling thread. */
  snapshotsSync(): SnapshotInfo[] {
    return now((later) => this.native.snapshots(later));
  }

  /**
   * Gives a snapshot another name, on all nodes. To watchers one snapshot goes, and another comes.
   */
  async renameSnapshot(name: string, to: string): Promise<void> {
    const [from, target] = [toText(name, 'name'), toText(to, 'to')];
    await later((later) => this.native.renameSnapshot(from, target, later));
  }

  /** Forgets a snapshot's name; branches forked off it keep what they show. */
  async deleteSnapshot(name: string): Promise<void> {
    const text = toText(name, 'name');
    await later((later) => this.native.deleteSnapshot(text, later));
  }

  /** Makes the branch look as it did at one of its snapshots. */
  async restore(snapshot: string): Promise<void> {
    const text = toText(snapshot, 'snapshot');
    await later((later) => this.native.restore(text, later));
  }

  /** As {@link restore}, on the calling thread. */
  restoreSync(snapshot: string): void {
    const text = toText(snapshot, 'snapshot');
    now((later) => this.native.restore(text, later));
  }

  /** Gives the branch another name. */
  async rename(name: string): Promise<void> {
    const text = toText(name, 'name');
    await later((later) => this.native.renameTo(text, later));
  }

  /**
   * Tells what changes from this branch to another tree of the bucket: what that one added, deleted,
   * modified and renamed.
   */
  async diff(to: TreeName, options?: { under?: PathLike }): Promise<Difference[]> {
    return this.bucket.diff(this.name, to, options);
  }

  /** As {@link diff}, on the calling thread. */
  diffSync(to: TreeName, options?: { under?: PathLike }): Difference[] {
    return this.bucket.diffSync(this.name, to, options);
  }

  /**
   * Gives the branch with another time that its reads wait for contents that are elsewhere, in
   * milliseconds; with 0, only what is here can be read. Otherwise it is that of the bucket, 30,000
   * unless {@link Bucket.setContentTimeout} said otherwise.
   */
  fetching(options?: { timeout?: number }): Branch {
    const { timeout } = toObject(options);
    return new Branch(
      now(() => this.native.fetching(timeout)),
      this.#store,
    );
  }

  /** Lists what nodes wrote to one path of the branch without knowing of each other, by path. */
  async conflicts(): Promise<Conflict[]> {
    return later((later) => this.native.conflicts(later));
  }

  /**
   * Decides a conflict on all nodes: keeps what is shown, the one of {@link Conflict.others} at a place,
   * or both, the others beside what is shown under other names. Tells these.
   *
   * One of the others that is a removal removes what is shown, and one that is a file takes the place of
   * a directory with all that is in it; its content is waited for first where it is not here, as a read
   * waits.
   */
  async resolve(path: PathLike, keep: 'shown' | 'both' | number = 'shown'): Promise<string[]> {
    const name = toPath(path);
    if (typeof keep === 'number') {
      integer(keep, 'keep', 0);
    } else {
      toText(keep, 'keep');
    }
    return later((later) => this.native.resolve(name, keep, later));
  }

  /** Lists the newest events of the branch, newest first. */
  async log(options?: Omit<LogOptions, 'branch'>): Promise<StoreEvent[]> {
    return this.bucket.log({ ...toObject(options), branch: this.name });
  }

  /** Goes through the branch's log from the newest event, page by page. */
  history(options?: Omit<LogOptions, 'branch' | 'limit'>): AsyncGenerator<StoreEvent, void> {
    return this.bucket.history({ ...toObject(options), branch: this.name });
  }

  /**
   * Watches the commits of the branch, by the name that it has now. What a live fork inherits are
   * its parent's events: watch the parent, or the bucket.
   */
  watch(options?: Omit<WatchOptions, 'branch'>): Watcher {
    return this.bucket.watch({ ...toObject(options), branch: this.name });
  }

  /** Lists the open write sessions of the branch from the oldest. */
  async sessions(): Promise<SessionInfo[]> {
    return later((later) => this.native.sessions(later));
  }

  /** As {@link sessions}, on the calling thread. */
  sessionsSync(): SessionInfo[] {
    return now((later) => this.native.sessions(later));
  }

  /** Opens a file for writing. Nothing changes in the branch until the session is closed. */
  async openSession(path: PathLike, options?: SessionOptions): Promise<Session> {
    const [name, how] = [toPath(path), toSessionOptions(options)];
    return new Session(await later((later) => this.native.openSession(name, how, later)));
  }

  /** As {@link openSession}, on the calling thread. */
  openSessionSync(path: PathLike, options?: SessionOptions): Session {
    const [name, how] = [toPath(path), toSessionOptions(options)];
    return new Session(now((later) => this.native.openSession(name, how, later)));
  }

  /**
   * Begins a batch of changes that are committed together. With a function, the batch is committed
   * when that has returned, and dropped if it throws.
   *
   * ```ts
   * await branch.batch(async (batch) => {
   *   await batch.mkdir('/src');
   *   await batch.write('/src/a.ts', 'export {};');
   * });
   * ```
   */
  batch(): Batch;
  batch<R>(change: (batch: Batch) => R | Promise<R>): Promise<R>;
  batch<R>(change?: (batch: Batch) => R | Promise<R>): Batch | Promise<R> {
    if (change !== undefined) {
      toFunction(change, 'change');
    }
    const batch = new Batch(now(() => this.native.batch()));
    return change === undefined ? batch : this.#batched(batch, change);
  }

  async #batched<R>(batch: Batch, change: (batch: Batch) => R | Promise<R>): Promise<R> {
    try {
      const result = await change(batch);
      await batch.commit();
      return result;
    } finally {
      await batch.abort();
    }
  }

  /** As {@link batch} with a function, on the calling thread. */
  batchSync<R>(change: (batch: Batch) => R): R {
    toFunction(change, 'change');
    const batch = new Batch(now(() => this.native.batch()));
    try {
      const result = change(batch);
      if (isThenable(result)) {
        Promise.resolve(result).catch(() => {});
        throw wrongResult('a value that is no promise', 'change', result);
      }
      batch.commitSync();
      return result;
    } finally {
      batch.abortSync();
    }
  }

  /** Writes a whole file with attributes, in one commit. */
  async put(path: PathLike, data: Data, options?: PutOptions): Promise<void> {
    const [name, bytes, set] = [toPath(path), toBytes(data), toAttributes(options)];
    const { create = true, replace = true } = toObject(options);
    await later((later) => this.native.put(name, bytes, set, create, replace, later));
  }

  /** As {@link put}, on the calling thread. */
  putSync(path: PathLike, data: Data, options?: PutOptions): void {
    const [name, bytes, set] = [toPath(path), toBytes(data), toAttributes(options)];
    const { create = true, replace = true } = toObject(options);
    now((later) => this.native.put(name, bytes, set, create, replace, later));
  }

  /**
   * Makes a directory with attributes, in one commit. With `recursive`, those above it that are
   * missing too, and one that exists is left as it is. Tells the uppermost one that was made.
   */
  async mkdir(
    path: PathLike,
    options?: Attributes & { recursive?: boolean },
  ): Promise<string | undefined> {
    return (await later(this.#making(path, options))) ?? undefined;
  }

  /** As {@link mkdir}, on the calling thread. */
  mkdirSync(path: PathLike, options?: Attributes & { recursive?: boolean }): string | undefined {
    return now(this.#making(path, options)) ?? undefined;
  }

  #making(path: PathLike, options?: Attributes & { recursive?: boolean }) {
    const [name, set] = [toPath(path), toAttributes(options)];
    if (toObject(options).recursive) {
      return (later: boolean) => this.native.mkdirAllWith(name, set, later);
    }
    return (later: boolean): Outcome<string | null> => {
      const made = this.native.mkdirWith(name, set, later);
      return later ? (made as Promise<void>).then(() => name) : name;
    };
  }

  /**
   * Moves a file, link or directory, in one commit; what was at the target is replaced unless
   * `replace` is false.
   */
  async move(from: PathLike, to: PathLike, options?: { replace?: boolean }): Promise<void> {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    const { replace = true } = toObject(options);
    await later((later) => this.native.rename(source, target, replace, later));
  }

  /** As {@link move}, on the calling thread. */
  moveSync(from: PathLike, to: PathLike, options?: { replace?: boolean }): void {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    const { replace = true } = toObject(options);
    now((later) => this.native.rename(source, target, replace, later));
  }

  /**
   * Copies a file, link or directory with all below it, in one commit; the contents are shared.
   * Tells how many entries were made.
   */
  async copy(from: PathLike, to: PathLike): Promise<number> {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    return later((later) => this.native.copy(source, target, true, false, later));
  }

  /** As {@link copy}, on the calling thread. */
  copySync(from: PathLike, to: PathLike): number {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    return now((later) => this.native.copy(source, target, true, false, later));
  }

  /**
   * Removes whatever is at a path, a directory with all below it, in one commit. Tells how many
   * entries.
   */
  async removeAll(path: PathLike): Promise<number> {
    const name = toPath(path);
    return later((later) => this.native.removeAll(name, later));
  }

  /** As {@link removeAll}, on the calling thread. */
  removeAllSync(path: PathLike): number {
    const name = toPath(path);
    return now((later) => this.native.removeAll(name, later));
  }

  /** Changes attributes, in one commit; links at the end of the path are followed. */
  async setAttributes(
    path: PathLike,
    attributes: Attributes,
    options?: { follow?: boolean },
  ): Promise<void> {
    const [name, set] = [toPath(path), toAttributes(attributes)];
    const follow = toObject(options).follow !== false;
    await later((later) => this.native.setAttributes(name, set, follow, later));
  }

  /** As {@link setAttributes}, on the calling thread. */
  setAttributesSync(path: PathLike, attributes: Attributes, options?: { follow?: boolean }): void {
    const [name, set] = [toPath(path), toAttributes(attributes)];
    const follow = toObject(options).follow !== false;
    now((later) => this.native.setAttributes(name, set, follow, later));
  }

  /** Refuses to make a hard link: contents are shared, so a {@link copy} costs no space. */
  async link(target: PathLike, path: PathLike): Promise<never> {
    const [existing, name] = [toPath(target, 'target'), toPath(path)];
    return later((later) => this.native.hardLink(existing, name, later)) as Promise<never>;
  }

  /**
   * Imports a directory of the operating system with modes, owners, times and links. It is
   * committed in batches: after an error, importing again continues from there. Importing again
   * reads only what changed.
   */
  async import(source: string | URL, options?: ImportOptions): Promise<ImportReport> {
    const given = toObject(options);
    const [from, to] = [toPath(source, 'source'), toPath(given.to ?? '/', 'to')];
    const exclude = toTexts(given.exclude ?? [], 'exclude');
    return task(given, (task, later) =>
      this.native.import(from, to, exclude, given.delete === true, task, later),
    );
  }
}
