/** A tree in the shape of `node:fs`. */

import * as nodefs from 'node:fs';
import { promisify } from 'node:util';

import { check, toOptions } from './arguments.js';
import * as descriptors from './descriptors.js';
import { lookUp, type Part, register } from './descriptors.js';
import { Dir, opendir } from './dir.js';
import { wrongType } from './errors.js';
import {
  type FileChange,
  type FileWatchOptions,
  type FSWatcher,
  fileWatching,
  type StatListener,
  type StatWatcher,
  type StatWatchOptions,
  type Watching,
  type WatchListener,
  watch,
  watchLater,
} from './fswatch.js';
import { type GlobOptions, glob } from './glob.js';
import { FileHandle, isIterable } from './handle.js';
import type { OpenFile, Outcome, Tree } from './native.js';
import * as operations from './operations.js';
import { BigIntStats, Dirent, Stats } from './stats.js';
import { streams } from './streams.js';

/** The operations on paths, which have all three forms. */
const PATHS = [
  'access',
  'appendFile',
  'chmod',
  'chown',
  'copyFile',
  'cp',
  'lchmod',
  'lchown',
  'link',
  'lstat',
  'lutimes',
  'mkdir',
  'mkdtemp',
  'opendir',
  'readFile',
  'readdir',
  'readlink',
  'realpath',
  'rename',
  'rm',
  'rmdir',
  'stat',
  'statfs',
  'symlink',
  'truncate',
  'unlink',
  'utimes',
  'writeFile',
] as const;

/** The operations on open files by their numbers. */
const NUMBERS = [
  'fchmod',
  'fchown',
  'fdatasync',
  'fstat',
  'fsync',
  'ftruncate',
  'futimes',
  'read',
  'readv',
  'write',
  'writev',
] as const;

type Node = typeof nodefs;
type PathName = (typeof PATHS)[number];
type NumberName = (typeof NUMBERS)[number] | 'open' | 'close' | 'exists';
type StreamName = 'createReadStream' | 'createWriteStream' | 'ReadStream' | 'WriteStream';
type Patterns = string | readonly string[];

/** `fs.promises` of a tree. */
export type FileSystemPromises = Pick<
  Node['promises'],
  Exclude<PathName, 'opendir'> | 'constants'
> & {
  open(path: nodefs.PathLike, flags?: string | number, mode?: nodefs.Mode): Promise<FileHandle>;
  opendir(path: nodefs.PathLike, options?: nodefs.OpenDirOptions): Promise<Dir>;
  /** Finds what matches a pattern, as `globSync` of {@link FileSystem}. */
  glob(
    pattern: Patterns,
    options: GlobOptions & { withFileTypes: true },
  ): AsyncGenerator<Dirent, undefined>;
  glob(pattern: Patterns, options?: GlobOptions): AsyncGenerator<string, undefined>;
  /** Tells of changes from now on, until the loop is left or the signal says so. */
  watch(
    path: nodefs.PathLike,
    options: (FileWatchOptions & { encoding: 'buffer' }) | 'buffer',
  ): AsyncGenerator<FileChange<Buffer>, undefined>;
  watch(
    path: nodefs.PathLike,
    options?: FileWatchOptions | BufferEncoding | null,
  ): AsyncGenerator<FileChange<string>, undefined>;
  watch(
    path: nodefs.PathLike,
    options: FileWatchOptions | string,
  ): AsyncGenerator<FileChange<string>, undefined> | AsyncGenerator<FileChange<Buffer>, undefined>;
};

/** What ends an operation, with what it gave. */
type Then<T> = (error: NodeJS.ErrnoException | null, value: T) => void;

/**
 * A tree in the shape of `node:fs`: what it has takes the arguments, gives the results and throws
 * the errors of Node's own. Paths are those of the tree; a relative one starts at its root.
 *
 * A file that was opened for writing, by number, handle or stream, shows when it is closed.
 */
export type FileSystem = Pick<
  Node,
  | Exclude<PathName, 'opendir'>
  | Exclude<`${PathName}Sync`, 'opendirSync'>
  | NumberName
  | `${NumberName}Sync`
  | StreamName
  | 'openAsBlob'
  | 'constants'
> & {
  promises: FileSystemPromises;
  Stats: typeof Stats;
  BigIntStats: typeof BigIntStats;
  Dirent: typeof Dirent;
  Dir: typeof Dir;
  opendirSync(path: nodefs.PathLike, options?: nodefs.OpenDirOptions): Dir;
  opendir: {
    (path: nodefs.PathLike, cb: Then<Dir>): void;
    (path: nodefs.PathLike, options: nodefs.OpenDirOptions, cb: Then<Dir>): void;
    __promisify__(path: nodefs.PathLike, options?: nodefs.OpenDirOptions): Promise<Dir>;
  };
  /** Finds what matches a pattern: `*`, `?`, `[a-z]`, `{a,b}`, and `**` for any directories. */
  globSync(pattern: Patterns, options: GlobOptions & { withFileTypes: true }): Dirent[];
  globSync(pattern: Patterns, options?: GlobOptions): string[];
  glob(pattern: Patterns, cb: Then<string[]>): void;
  glob(pattern: Patterns, options: GlobOptions, cb: Then<string[] | Dirent[]>): void;
  /**
   * Tells of changes: those of the branch itself, and not those that a live fork sees of the
   * branch that it was forked from.
   */
  watch(
    path: nodefs.PathLike,
    options: (FileWatchOptions & { encoding: 'buffer' }) | 'buffer',
    listener?: WatchListener<Buffer>,
  ): FSWatcher;
  watch(
    path: nodefs.PathLike,
    options?: FileWatchOptions | BufferEncoding | null,
    listener?: WatchListener,
  ): FSWatcher;
  watch(
    path: nodefs.PathLike,
    options: FileWatchOptions | string,
    listener?: WatchListener<string | Buffer>,
  ): FSWatcher;
  watch(path: nodefs.PathLike, listener?: WatchListener): FSWatcher;
  watchFile(
    path: nodefs.PathLike,
    options: (StatWatchOptions & { bigint?: false | undefined }) | undefined,
    listener: StatListener<Stats>,
  ): StatWatcher;
  watchFile(
    path: nodefs.PathLike,
    options: (StatWatchOptions & { bigint: true }) | undefined,
    listener: StatListener<BigIntStats>,
  ): StatWatcher;
  watchFile(path: nodefs.PathLike, listener: StatListener<Stats>): StatWatcher;
  unwatchFile(path: nodefs.PathLike, listener?: StatListener<never>): void;
  readonly F_OK: number;
  readonly R_OK: number;
  readonly W_OK: number;
  readonly X_OK: number;
};

// biome-ignore lint/suspicious/noExplicitAny: the shapes are those of node:fs, stated in FileSystem.
type Anything = any;
type Operation = (tree: Tree, later: boolean, ...args: Anything[]) => Anything;
type OfNumber = (file: OpenFile, later: boolean, ...args: Anything[]) => Anything;
type Callback = (error: unknown, ...values: unknown[]) => void;

/** Splits off the callback at the end. */
function callback(args: unknown[]): [unknown[], Callback] {
  const last = args.pop();
  if (typeof last !== 'function') {
    throw wrongType('cb', 'of type function', last);
  }
  return [args, last as Callback];
}

const one = (value: unknown) => (value === undefined ? [] : [value]);

/**
 * Starts an operation and calls back, outside of the promise, so that what the callback throws is
 * its own. Wrong arguments are thrown at once, as Node does.
 */
function deliver(
  operation: () => Outcome<unknown>,
  cb: Callback,
  spread: (value: Anything) => unknown[] = one,
) {
  let promise: Outcome<unknown>;
  try {
    promise = operation();
  } catch (error) {
    const { errno, name } = error as NodeJS.ErrnoException;
    if (errno === undefined && name !== 'AbortError') {
      throw error;
    }
    process.nextTick(cb, error);
    return;
  }
  (promise as Promise<unknown>).then(
    (value) => process.nextTick(cb, null, ...spread(value)),
    (error) => process.nextTick(cb, error),
  );
}

/** What takes a path or a number: reading and writing whole files. */
function whole(name: 'readFile' | 'writeFile' | 'appendFile', operation: Operation): Operation {
  return (tree, later, target, ...args) => {
    if (typeof target !== 'number') {
      return operation(tree, later, target, ...args);
    }
    const options = toOptions(name === 'readFile' ? args[0] : args[1]);
    if (later) {
      check(options.signal);
    }
    return name === 'readFile'
      ? descriptors.readText(lookUp(target, 'fstat'), later, options.encoding)
      : descriptors.writeAll(lookUp(target, 'write'), later, args[0], options.encoding);
  };
}

/** What is written at once although it could be stopped, in bytes. */
const AT_ONCE = 512 * 1024;

function* pieces(data: Uint8Array) {
  for (let at = 0; at < data.length; at += AT_ONCE) {
    yield data.subarray(at, at + AT_ONCE);
  }
}

/** Writes what an iterable or a stream gives, and commits it at its end. */
async function writePieces(
  tree: Tree,
  path: nodefs.PathLike,
  chunks: AsyncIterable<unknown> | Iterable<unknown>,
  options: Anything,
  otherwise: string,
) {
  const { encoding, flag, mode, signal } = toOptions<Anything>(options);
  check(signal);
  const file = await operations.open(tree, true, path, flag ?? otherwise, mode);
  const handle = new FileHandle(file);
  try {
    await handle.writeFile(chunks, { encoding, signal });
    check(signal);
  } catch (error) {
    await handle.abort();
    throw error;
  }
  await handle.close();
}

/** `writeFile` and `appendFile` as promises, which take iterables and signals. */
function writing(tree: Tree, simple: Operation, otherwise: string) {
  return async (target: Anything, data: unknown, options?: Anything) => {
    if (target instanceof FileHandle) {
      return target.writeFile(data, options);
    }
    if (isIterable(data)) {
      return writePieces(tree, target, data, options, otherwise);
    }
    const length = (data as { length?: number } | null)?.length ?? 0;
    if (options?.signal && length > AT_ONCE) {
      const bytes = typeof data === 'string' ? Buffer.from(data, options.encoding) : data;
      return writePieces(tree, target, pieces(bytes as Uint8Array), options, otherwise);
    }
    return simple(tree, true, target, data, options);
  };
}

/** The forms of `read` and `readSync`: a buffer and where, or options that name it. */
function reading(args: Anything[]): [NodeJS.ArrayBufferView, ...Anything[]] {
  const [first, ...rest] = args;
  if (
    first === undefined ||
    first === null ||
    (typeof first === 'object' && !ArrayBuffer.isView(first))
  ) {
    const options = (first ?? {}) as Part & { buffer?: NodeJS.ArrayBufferView };
    return [options.buffer ?? Buffer.alloc(16384), options];
  }
  return [first, ...rest];
}

/** Makes the face of a tree that looks like `node:fs`. */
export function fileSystem(tree: Tree, watching: Watching): FileSystem {
  const { constants } = nodefs;
  const { F_OK, R_OK, W_OK, X_OK } = constants;
  const promises: Record<string, Anything> = { constants };
  const fs: Record<string, Anything> = {
    promises,
    constants,
    ...{ F_OK, R_OK, W_OK, X_OK },
    ...{ Stats, BigIntStats, Dirent, Dir },
    ...streams(tree),
    ...fileWatching(tree, watching),
    watch: (path: nodefs.PathLike, ...rest: [WatchListener]) =>
      watch(tree, watching, path, ...rest),
  };
  promises.watch = (path: nodefs.PathLike, options?: FileWatchOptions) =>
    watchLater(tree, watching, path, options);
  addPaths(tree, fs, promises);
  addNumbers(fs);
  addOpen(tree, fs, promises);
  addGlob(tree, fs, promises);
  return fs as FileSystem;
}

function addPaths(tree: Tree, fs: Record<string, Anything>, promises: Record<string, Anything>) {
  const all: Record<PathName, Operation> = { ...operations, opendir };
  for (const name of PATHS) {
    const plain = all[name];
    const files = name === 'readFile' || name === 'writeFile' || name === 'appendFile';
    const operation = files ? whole(name, plain) : plain;
    fs[`${name}Sync`] = (...args: unknown[]) => operation(tree, false, ...args);
    promises[name] = async (...args: unknown[]) => plain(tree, true, ...args);
    fs[name] = (...args: unknown[]) => {
      const [rest, cb] = callback(args);
      deliver(() => operation(tree, true, ...rest), cb);
    };
  }
  const { readFile } = promises;
  promises.readFile = async (target: Anything, ...args: Anything[]) =>
    target instanceof FileHandle ? target.readFile(args[0]) : readFile(target, ...args);
  promises.writeFile = writing(tree, operations.writeFile, 'w');
  promises.appendFile = writing(tree, operations.appendFile, 'a');

  const { realpathParts } = operations;
  const { realpath, realpathSync } = fs;
  fs.realpathSync = (...args: [nodefs.PathLike]) => realpathParts(tree, false, ...args);
  fs.realpath = (...args: unknown[]) => {
    const [rest, cb] = callback(args);
    deliver(() => realpathParts(tree, true, ...(rest as [nodefs.PathLike])), cb);
  };
  fs.realpathSync.native = realpathSync;
  fs.realpath.native = realpath;

  const { exists } = operations;
  fs.existsSync = (path: nodefs.PathLike) => exists(tree, false, path);
  const later = async (path: nodefs.PathLike) => exists(tree, true, path);
  fs.exists = (path: nodefs.PathLike, cb: (exists: boolean) => void) => {
    callback([cb]);
    deliver(
      () => later(path),
      (_error, value) => cb(value === true),
    );
  };
  fs.exists[promisify.custom] = later;
  fs.openAsBlob = (path: nodefs.PathLike, options?: { type?: string }) =>
    operations.openAsBlob(tree, path, options);
}

/** The names under which `promisify` gives what is called back with more than one value. */
const SEVERAL: Record<string, [string, string]> = {
  read: ['bytesRead', 'buffer'],
  readv: ['bytesRead', 'buffers'],
  write: ['bytesWritten', 'buffer'],
  writev: ['bytesWritten', 'buffer'],
};

function addNumbers(fs: Record<string, Anything>) {
  for (const name of NUMBERS) {
    // biome-ignore lint/performance/noDynamicNamespaceImportAccess: all of them are used.
    const operation = descriptors[name] as OfNumber;
    const ordered = (args: Anything[]) => (name === 'read' ? reading(args) : args);
    const syscall = name === 'futimes' ? 'futime' : name.replace(/v$/, '');
    const start = (fd: number, args: Anything[]) => operation(lookUp(fd, syscall), true, ...args);
    fs[`${name}Sync`] = (fd: number, ...args: unknown[]) =>
      operation(lookUp(fd, syscall), false, ...ordered(args));
    fs[name] = (fd: number, ...args: unknown[]) => {
      const [rest, cb] = callback(args);
      const given = ordered(rest);
      const several = SEVERAL[name] && ((n: number) => [n, given[0]]);
      deliver(() => start(fd, given), cb, several);
    };
    const names = SEVERAL[name];
    if (names) {
      fs[name][promisify.custom] = async (fd: number, ...args: unknown[]) => {
        const given = ordered(args);
        return { [names[0]]: await start(fd, given), [names[1]]: given[0] };
      };
    }
  }
  fs.closeSync = (fd: number) => descriptors.close(false, fd);
  fs.close = (fd: number, cb: Callback = () => {}) => {
    callback([cb]);
    deliver(() => descriptors.close(true, fd), cb);
  };
}

function addOpen(tree: Tree, fs: Record<string, Anything>, promises: Record<string, Anything>) {
  type Arguments = [nodefs.PathLike, string?, string?];
  promises.open = async (...args: Arguments) =>
    new FileHandle(await operations.open(tree, true, ...args));
  fs.openSync = (...args: Arguments) => register(operations.open(tree, false, ...args) as OpenFile);
  fs.open = (...args: unknown[]) => {
    const [rest, cb] = callback(args);
    const opened = () => operations.open(tree, true, ...(rest as Arguments)) as Promise<OpenFile>;
    deliver(() => opened().then(register), cb);
  };
}

function addGlob(tree: Tree, fs: Record<string, Anything>, promises: Record<string, Anything>) {
  fs.globSync = (pattern: Patterns, options?: GlobOptions) => glob(tree, false, pattern, options);
  fs.glob = (...args: unknown[]) => {
    const [rest, cb] = callback(args);
    deliver(() => glob(tree, true, ...(rest as [Patterns])), cb);
  };
  promises.glob = async function* (pattern: Patterns, options?: GlobOptions) {
    yield* await glob(tree, true, pattern, options);
  };
}
