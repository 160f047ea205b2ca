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

/** What is known of a branch. */
export interface BranchInfo {
  name: string;
  /** The branch it was forked from. */
  parent?: string;
  /** Whether later writes to the parent show through. */
  live: boolean;
  /** The number of its snapshots. */
  snapshots: number;
}

export interface OpenFile {
  path(): string;
  stat(later: boolean): Outcome<number[]>;
  read(buffer: Uint8Array, offset: number | undefined, later: boolean): Outcome<number>;
  write(data: Uint8Array, offset: number | undefined, later: boolean): Outcome<void>;
  truncate(size: number, later: boolean): Outcome<void>;
  sync(later: boolean): Outcome<void>;
  setAttributes(attributes: Attributes, later: boolean): Outcome<void>;
  close(later: boolean): Outcome<void>;
  abort(later: boolean): Outcome<void>;
}

export interface Tree {
  /** The directory of the store; nothing for a store in memory. */
  home(): string | null;
  stat(path: string, links: boolean, later: boolean): Outcome<number[]>;
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
  mkdir(path: string, mode: number | undefined, later: boolean): Outcome<void>;
  mkdirAll(path: string, mode: number | undefined, later: boolean): Outcome<string | null>;
  symlink(target: string, path: string, later: boolean): Outcome<void>;
  remove(path: string, later: boolean): Outcome<void>;
  removeDir(path: string, later: boolean): Outcome<void>;
  removeAll(path: string, later: boolean): Outcome<number>;
  rename(from: string, to: string, replace: boolean, later: boolean): Outcome<void>;
  copy(from: string, to: string, later: boolean): Outcome<number>;
  setAttributes(
    path: string,
    attributes: Attributes,
    links: boolean,
    later: boolean,
  ): Outcome<void>;
  truncate(path: string, size: number, later: boolean): Outcome<void>;
  name(): string;
  fork(snapshot: string | undefined, name: string, later: boolean): Outcome<Tree>;
  view(snapshot: string | undefined, later: boolean): Outcome<Tree>;
  snapshot(name: string, later: boolean): Outcome<void>;
  snapshots(later: boolean): Outcome<string[]>;
  deleteSnapshot(name: string, later: boolean): Outcome<void>;
  restore(snapshot: string, later: boolean): Outcome<void>;
  renameTo(name: string, later: boolean): Outcome<void>;
}

export interface BucketHandle {
  name(): string;
  branch(name: string): Tree;
  branches(later: boolean): Outcome<BranchInfo[]>;
  deleteBranch(name: string, later: boolean): Outcome<void>;
}

export interface StoreHandle {
  path(): string | null;
  bucket(name: string): BucketHandle;
  buckets(later: boolean): Outcome<string[]>;
  createBucket(name: string, later: boolean): Outcome<BucketHandle>;
  renameBucket(name: string, to: string, later: boolean): Outcome<void>;
  deleteBucket(name: string, later: boolean): Outcome<void>;
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
}

/** The platform, as it is named in the files and packages of native modules. */
function platformName(): string {
  const { platform, arch } = process;
  if (platform === 'win32') {
    return `win32-${arch}-msvc`;
  }
  if (platform !== 'linux') {
    return `${platform}-${arch}`;
  }
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return `linux-${arch}-${report.header?.glibcVersionRuntime ? 'gnu' : 'musl'}`;
}

const platform = platformName();

/** The name of the native module's file, in the root of the package. */
export const file = `alknet-fs.${platform}.node`;

let loaded: Native | undefined;

/** Loads the native module: one that was built here, or the package of this platform. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

function load(): Native {
  const failures: unknown[] = [];
  for (const module of [`../${file}`, `@alknet/fs-${platform}`]) {
    try {
      return require(module);
    } catch (error) {
      failures.push(error);
    }
  }
  const cause = new AggregateError(failures);
  throw new Error(`alknet-fs has no native module for ${platform}`, { cause });
}
