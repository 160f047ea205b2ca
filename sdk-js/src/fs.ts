/** A tree in the shape of `node:fs`. */

import * as nodefs from 'node:fs';

import { toMode, toOptions, toTime } from './arguments.js';
import { drive, run } from './calls.js';
import { aborted, wrongType } from './errors.js';
import { closeNumber, FileHandle, lookUp, read, register, write } from './handle.js';
import type { OpenFile, Tree } from './native.js';
import * as operations from './operations.js';
import { BigIntStats, Dirent, Stats } from './stats.js';

/** The operations on paths, which have all three forms. */
const PATHS = [
  'access',
  'appendFile',
  'chmod',
  'chown',
  'copyFile',
  'cp',
  'lchown',
  'lstat',
  'lutimes',
  'mkdir',
  'readFile',
  'readdir',
  'readlink',
  'realpath',
  'rename',
  'rm',
  'rmdir',
  'stat',
  'symlink',
  'truncate',
  'unlink',
  'utimes',
  'writeFile',
] as const;

type PathName = (typeof PATHS)[number];
type NumberName =
  | 'open'
  | 'close'
  | 'read'
  | 'write'
  | 'fstat'
  | 'ftruncate'
  | 'fsync'
  | 'fdatasync'
  | 'fchmod'
  | 'fchown'
  | 'futimes'
  | 'exists';
type Node = typeof nodefs;

/** `fs.promises` of a tree. */
export type FileSystemPromises = Pick<Node['promises'], PathName | 'constants'> & {
  open(path: nodefs.PathLike, flags?: string | number, mode?: string | number): Promise<FileHandle>;
};

/**
 * A tree in the shape of `node:fs`: what it has takes the arguments, gives the results and throws
 * the errors of Node's own. Paths are those of the tree; a relative one starts at its root.
 */
export type FileSystem = Pick<
  Node,
  PathName | `${PathName}Sync` | NumberName | `${NumberName}Sync` | 'constants'
> & {
  promises: FileSystemPromises;
  Stats: typeof Stats;
  BigIntStats: typeof BigIntStats;
  Dirent: typeof Dirent;
};

// biome-ignore lint/suspicious/noExplicitAny: the shapes are those of node:fs, stated in FileSystem.
type Anything = any;
type Operation = (tree: Tree, later: boolean, ...args: Anything[]) => Anything;
type Callback = (error: unknown, ...values: unknown[]) => void;

/** Splits off the callback at the end. */
function callback(args: unknown[]): [unknown[], Callback] {
  const last = args.pop();
  if (typeof last !== 'function') {
    throw wrongType('cb', 'of type function', last);
  }
  return [args, last as Callback];
}

/** Calls back outside of the promise, so that what the callback throws is its own. */
function deliver(promise: Promise<unknown>, cb: Callback, spread: (v: Anything) => unknown[]) {
  promise.then(
    (value) => process.nextTick(() => cb(null, ...spread(value))),
    (error) => process.nextTick(() => cb(error)),
  );
}

const one = (value: unknown) => (value === undefined ? [] : [value]);

/** The operations on open files by their numbers. */
const NUMBERS: Record<string, (later: boolean, fd: number, ...args: Anything[]) => Anything> = {
  close: (later, fd) => closeNumber(fd, later),
  read: (later, fd, ...args) => read(lookUp(fd, 'read'), later, ...(args as [Anything])),
  write: (later, fd, ...args) => write(lookUp(fd, 'write'), later, ...(args as [Anything])),
  fstat: (later, fd, options) => {
    const numbers = lookUp(fd, 'fstat').stat(later);
    const made = (numbers: number[]) => operations.stats(numbers, options?.bigint);
    return later ? (numbers as Promise<number[]>).then(made) : made(numbers as number[]);
  },
  ftruncate: (later, fd, size = 0) =>
    onFile(later, fd, 'ftruncate', (file, later) => file.truncate(Math.max(size ?? 0, 0), later)),
  fsync: (later, fd) => onFile(later, fd, 'fsync', (file, later) => file.sync(later)),
  fdatasync: (later, fd) => onFile(later, fd, 'fdatasync', (file, later) => file.sync(later)),
  fchmod: (later, fd, mode) => {
    const set = { mode: toMode(mode) };
    return onFile(later, fd, 'fchmod', (file, later) => file.setAttributes(set, later));
  },
  fchown: (later, fd, uid, gid) => {
    const set = operations.owner(uid, gid);
    return onFile(later, fd, 'fchown', (file, later) => file.setAttributes(set, later));
  },
  futimes: (later, fd, _atime, mtime) => {
    const set = { mtime: toTime(mtime, 'mtime') };
    return onFile(later, fd, 'futime', (file, later) => file.setAttributes(set, later));
  },
};

function onFile<T>(
  later: boolean,
  fd: number,
  syscall: string,
  native: (file: OpenFile, later: boolean) => T | Promise<T>,
) {
  const file = lookUp(fd, syscall);
  return run(later, { syscall }, (later) => native(file, later));
}

/** What takes a path, a `FileHandle` or a number: reading and writing whole files. */
function whole(name: string, operation: Operation): Operation {
  return (tree, later, target, ...args) => {
    const fd = target instanceof FileHandle ? target.fd : target;
    if (typeof fd !== 'number') {
      return operation(tree, later, target, ...args);
    }
    const file = lookUp(fd, name === 'readFile' ? 'read' : 'write');
    if (name === 'readFile') {
      const { encoding } = toOptions(args[0]);
      const decode = (bytes: Buffer) =>
        encoding && encoding !== 'buffer' ? bytes.toString(encoding) : bytes;
      const bytes = drive(later, operations.readAll(file));
      return later ? (bytes as Promise<Buffer>).then(decode) : decode(bytes as Buffer);
    }
    const { encoding } = toOptions(args[1]);
    const written = write(file, later, args[0], null, encoding);
    return later ? (written as Promise<number>).then(() => undefined) : undefined;
  };
}

/** Writes what an iterable or a stream gives, and commits it at its end. */
async function writeIterable(
  tree: Tree,
  path: nodefs.PathLike,
  chunks: AsyncIterable<unknown> | Iterable<unknown>,
  options: Anything,
  otherwise: string,
) {
  const { encoding, flag, mode, signal } = toOptions<Anything>(options);
  const handle = new FileHandle(await operations.open(tree, true, path, flag ?? otherwise, mode));
  try {
    for await (const chunk of chunks) {
      if (signal?.aborted) {
        throw aborted(signal);
      }
      await handle.writeFile(chunk, { encoding });
    }
  } catch (error) {
    await handle.abort();
    throw error;
  }
  await handle.close();
}

function isIterable(data: unknown): data is AsyncIterable<unknown> {
  const object = data as { [Symbol.asyncIterator]?: unknown; [Symbol.iterator]?: unknown } | null;
  return (
    typeof object === 'object' &&
    object !== null &&
    !ArrayBuffer.isView(object) &&
    (Symbol.asyncIterator in object || Symbol.iterator in object)
  );
}

/** Makes the face of a tree that looks like `node:fs`. */
export function fileSystem(tree: Tree): FileSystem {
  const fs: Record<string, unknown> = { constants: nodefs.constants, Stats, BigIntStats, Dirent };
  const promises: Record<string, unknown> = { constants: nodefs.constants };
  fs.promises = promises;

  for (const name of PATHS) {
    const files = ['readFile', 'writeFile', 'appendFile'].includes(name);
    // biome-ignore lint/performance/noDynamicNamespaceImportAccess: all of them are used.
    const plain = operations[name] as Operation;
    const operation = files ? whole(name, plain) : plain;
    fs[`${name}Sync`] = (...args: unknown[]) => operation(tree, false, ...args);
    promises[name] = async (...args: unknown[]) => operation(tree, true, ...args);
    fs[name] = (...args: unknown[]) => {
      const [rest, cb] = callback(args);
      deliver(operation(tree, true, ...rest), cb, one);
    };
  }
  for (const [name, otherwise] of [
    ['writeFile', 'w'],
    ['appendFile', 'a'],
  ] as const) {
    const simple = promises[name] as (...args: unknown[]) => Promise<void>;
    promises[name] = async (path: Anything, data: unknown, options?: unknown) =>
      isIterable(data)
        ? writeIterable(tree, path, data, options, otherwise)
        : simple(path, data, options);
  }
  for (const [name, operation] of Object.entries(NUMBERS)) {
    fs[`${name}Sync`] = (fd: number, ...args: unknown[]) => operation(false, fd, ...args);
    fs[name] = (fd: number, ...args: unknown[]) => {
      if (name === 'close' && args.length === 0) {
        args.push(() => {});
      }
      const [rest, cb] = callback(args);
      const spread = name === 'read' || name === 'write' ? (n: number) => [n, rest[0]] : one;
      deliver((async () => operation(true, fd, ...rest))(), cb, spread);
    };
  }

  const open = async (...args: unknown[]) =>
    operations.open(tree, true, ...(args as [nodefs.PathLike]));
  promises.open = async (...args: unknown[]) => new FileHandle(await open(...args));
  fs.openSync = (...args: unknown[]) =>
    register(operations.open(tree, false, ...(args as [nodefs.PathLike])) as OpenFile);
  fs.open = (...args: unknown[]) => {
    const [rest, cb] = callback(args);
    deliver(open(...rest).then(register), cb, one);
  };
  fs.existsSync = (path: nodefs.PathLike) => operations.exists(tree, false, path);
  fs.exists = (path: nodefs.PathLike, cb: (exists: boolean) => void) => {
    const found = Promise.resolve(operations.exists(tree, true, path));
    deliver(found, (_error, value) => cb(value === true), one);
  };
  return fs as FileSystem;
}
