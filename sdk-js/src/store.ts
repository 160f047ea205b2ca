/** Stores, buckets, branches and views. */

import { run } from './calls.js';
import { type FileSystem, fileSystem } from './fs.js';
import {
  type BranchInfo,
  type BucketHandle,
  type Entry,
  native,
  type Outcome,
  type StoreHandle,
  type Tree,
} from './native.js';

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

function convert(options: OpenOptions) {
  const { create = true, author, durability, busyTimeout } = options;
  return {
    ...(create === true
      ? {}
      : { mode: create === 'new' ? ('create' as const) : ('open' as const) }),
    ...(author === undefined ? {} : { author }),
    ...(busyTimeout === undefined ? {} : { busyTimeout }),
    relaxed: durability === 'relaxed',
  };
}

function now<T>(step: (later: boolean) => Outcome<T>): T {
  return run(false, undefined, step) as T;
}

async function later<T>(step: (later: boolean) => Outcome<T>): Promise<T> {
  return run(true, undefined, step);
}

/** Opens the store in a directory. */
export async function open(path: string, options: OpenOptions = {}): Promise<Store> {
  return new Store(
    await later((later) => native().StoreHandle.open(path, convert(options), later)),
  );
}

/** As {@link open}, on the calling thread. */
export function openSync(path: string, options: OpenOptions = {}): Store {
  return new Store(now((later) => native().StoreHandle.open(path, convert(options), later)));
}

/** Makes a store in memory, which is gone with the last thing that was taken from it. */
export function memory(options: Omit<OpenOptions, 'create'> = {}): Store {
  return new Store(now((later) => native().StoreHandle.open(undefined, convert(options), later)));
}

/** A store: buckets, in a directory or in memory. */
export class Store {
  readonly #native: StoreHandle;

  /** @internal */
  constructor(handle: StoreHandle) {
    this.#native = handle;
  }

  /** The directory; nothing for a store in memory. */
  get path(): string | undefined {
    return this.#native.path() ?? undefined;
  }

  /** Finds a bucket; without a name, the one that every store is made with. */
  bucket(name = 'default'): Bucket {
    return new Bucket(now(() => this.#native.bucket(name)));
  }

  /** Lists the names of all buckets. */
  async buckets(): Promise<string[]> {
    return later((later) => this.#native.buckets(later));
  }

  /** Makes a bucket with an empty branch `main`. */
  async createBucket(name: string): Promise<Bucket> {
    return new Bucket(await later((later) => this.#native.createBucket(name, later)));
  }

  async renameBucket(name: string, to: string): Promise<void> {
    await later((later) => this.#native.renameBucket(name, to, later));
  }

  /** Deletes a bucket with all in it. */
  async deleteBucket(name: string): Promise<void> {
    await later((later) => this.#native.deleteBucket(name, later));
  }
}

/** A bucket: branches that share content and history. */
export class Bucket {
  readonly #native: BucketHandle;

  /** @internal */
  constructor(handle: BucketHandle) {
    this.#native = handle;
  }

  /** The bucket's name as it is now. */
  get name(): string {
    return now(() => this.#native.name());
  }

  /** Finds a branch; without a name, the one that every bucket is made with. */
  branch(name = 'main'): Branch {
    return new Branch(now(() => this.#native.branch(name)));
  }

  /** Lists all branches from the oldest. */
  async branches(): Promise<BranchInfo[]> {
    return later((later) => this.#native.branches(later));
  }

  /** Deletes a branch with its snapshots. */
  async deleteBranch(name: string): Promise<void> {
    await later((later) => this.#native.deleteBranch(name, later));
  }
}

abstract class Readable {
  /** @internal */
  protected readonly native: Tree;
  /** The tree in the shape of `node:fs`. */
  readonly fs: FileSystem;

  /** @internal */
  constructor(tree: Tree) {
    this.native = tree;
    this.fs = fileSystem(tree);
  }

  /** Tells all that is known of a path; links at its end are followed unless said otherwise. */
  async entry(path: string, options: { follow?: boolean } = {}): Promise<Entry> {
    return later((later) => this.native.entry(path, options.follow !== false, later));
  }
}

/** A branch or a snapshot at one moment; it never changes, and cannot be changed. */
export class View extends Readable {}

/** A branch: a tree of files that forks at once and shares what is unchanged. */
export class Branch extends Readable {
  /** The branch's name as it is now. */
  get name(): string {
    return now(() => this.native.name());
  }

  /**
   * Forks a branch. Later writes to this one show in the fork where that has not changed the
   * file, unless it is forked off a snapshot.
   */
  async fork(name: string, options: { snapshot?: string } = {}): Promise<Branch> {
    return new Branch(await later((later) => this.native.fork(options.snapshot, name, later)));
  }

  /** As {@link fork}, on the calling thread. */
  forkSync(name: string, options: { snapshot?: string } = {}): Branch {
    return new Branch(now((later) => this.native.fork(options.snapshot, name, later)));
  }

  /** Opens a view of the branch as it is now, or of one of its snapshots. */
  view(snapshot?: string): View {
    return new View(now((later) => this.native.view(snapshot, later)));
  }

  /** Takes a snapshot of all that the branch shows. */
  async snapshot(name: string): Promise<void> {
    await later((later) => this.native.snapshot(name, later));
  }

  /** Lists the names of the branch's snapshots from the oldest. */
  async snapshots(): Promise<string[]> {
    return later((later) => this.native.snapshots(later));
  }

  /** Forgets a snapshot's name; branches forked off it keep what they show. */
  async deleteSnapshot(name: string): Promise<void> {
    await later((later) => this.native.deleteSnapshot(name, later));
  }

  /** Makes the branch look as it did at one of its snapshots. */
  async restore(snapshot: string): Promise<void> {
    await later((later) => this.native.restore(snapshot, later));
  }

  /** Gives the branch another name. */
  async rename(name: string): Promise<void> {
    await later((later) => this.native.renameTo(name, later));
  }
}
