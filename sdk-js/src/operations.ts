/** What `node:fs` does, as operations that run on the calling thread or as promises. */

import {
  type CopyOptions,
  type CopySyncOptions,
  constants,
  type MakeDirectoryOptions,
  type PathLike,
  type RmOptions,
  type TimeLike,
} from 'node:fs';

import { encoded, toBytes, toFlags, toMode, toOptions, toPath, toTime } from './arguments.js';
import { drive, run, type Step, type Steps, step } from './calls.js';
import { failure, systemError, wrongValue } from './errors.js';
import type { OpenFile, Outcome, Tree } from './native.js';
import { BigIntStats, Dirent, Stats } from './stats.js';

type Encoding = { encoding?: BufferEncoding | 'buffer' | null } | string | null;
type FileOptions =
  | {
      encoding?: BufferEncoding | null;
      flag?: string | number;
      mode?: string | number;
      signal?: AbortSignal;
      flush?: boolean;
    }
  | string
  | null;
type StatOptions = { bigint?: boolean; throwIfNoEntry?: boolean } | null;

const code = (error: unknown) => (error as NodeJS.ErrnoException).code;

export function stats(numbers: number[], bigint?: boolean): Stats | BigIntStats {
  return bigint ? new BigIntStats(numbers) : new Stats(numbers);
}

function statWith(
  tree: Tree,
  later: boolean,
  path: PathLike,
  options: StatOptions,
  links: boolean,
) {
  const name = toPath(path);
  const bigint = options?.bigint;
  const call = { syscall: links ? 'stat' : 'lstat', path: name };
  if (later) {
    const numbers = run(true, call, () => tree.stat(name, links, true)) as Promise<number[]>;
    return numbers.then((numbers) => stats(numbers, bigint));
  }
  try {
    const numbers = run(false, call, () => tree.stat(name, links, false)) as number[];
    return stats(numbers, bigint);
  } catch (error) {
    if (options?.throwIfNoEntry === false && ['ENOENT', 'ENOTDIR'].includes(code(error) ?? '')) {
      return undefined;
    }
    throw error;
  }
}

export function stat(tree: Tree, later: boolean, path: PathLike, options: StatOptions = null) {
  return statWith(tree, later, path, options, true);
}

export function lstat(tree: Tree, later: boolean, path: PathLike, options: StatOptions = null) {
  return statWith(tree, later, path, options, false);
}

export function exists(tree: Tree, later: boolean, path: PathLike): Outcome<boolean> {
  let name: string;
  try {
    name = toPath(path);
  } catch {
    return false;
  }
  return run(later, undefined, (later) => tree.exists(name, later));
}

export function access(tree: Tree, later: boolean, path: PathLike, mode = constants.F_OK) {
  const name = toPath(path);
  const call = { syscall: 'access', path: name };
  const steps = function* (): Steps<void> {
    const numbers = yield* step(call, (later) => tree.stat(name, true, later));
    const found = new Stats(numbers);
    if (mode & constants.X_OK && found.isFile() && (found.mode & 0o111) === 0) {
      throw failure('EACCES', 'PermissionDenied', call);
    }
  };
  return drive(later, steps());
}

export function readFile(tree: Tree, later: boolean, path: PathLike, options?: FileOptions) {
  const { encoding, flag, signal } = toOptions(options);
  const name = toPath(path);
  const decode = (bytes: Buffer) =>
    encoding && (encoding as string) !== 'buffer' ? bytes.toString(encoding) : bytes;
  const call = { syscall: 'open', path: name };
  if (flag !== undefined && flag !== 'r') {
    return drive(later, readOpened(tree, name, flag, decode));
  }
  if (later) {
    const bytes = run(true, call, () => tree.read(name, true)) as Promise<Buffer>;
    return bytes.then(
      (bytes) => {
        toOptions({ signal });
        return decode(bytes);
      },
      (error) => {
        throw readingDirectory(error);
      },
    );
  }
  try {
    return decode(run(false, call, () => tree.read(name, false)) as Buffer);
  } catch (error) {
    throw readingDirectory(error);
  }
}

/** A directory can be opened; it is the read that fails, as Node tells it. */
function readingDirectory(error: unknown): unknown {
  if (code(error) === 'EISDIR') {
    return failure('EISDIR', 'IsADirectory', { syscall: 'read' });
  }
  return error;
}

function* readOpened<R>(
  tree: Tree,
  path: string,
  flag: string | number,
  decode: (bytes: Buffer) => R,
): Steps<R> {
  const call = { syscall: 'open', path };
  const file = yield* step(call, (later) => tree.open(path, toFlags(flag, 'r'), undefined, later));
  const bytes = yield* readAll(file);
  yield* step({ syscall: 'close' }, (later) => file.close(later));
  return decode(bytes);
}

/** Reads from the position to the end. */
export function* readAll(file: OpenFile): Steps<Buffer> {
  const blocks: Buffer[] = [];
  const numbers = yield* step({ syscall: 'fstat' }, (later) => file.stat(later));
  let size = Math.max(numbers[4] as number, 1);
  for (;;) {
    const block = Buffer.allocUnsafeSlow(size);
    const call = { syscall: 'read' };
    const n = yield* step(call, (later) => file.read(block, undefined, later));
    blocks.push(block.subarray(0, n));
    if (n < size) {
      return blocks.length === 1 ? (blocks[0] as Buffer) : Buffer.concat(blocks);
    }
    size = 64 * 1024;
  }
}

function writeWith(
  tree: Tree,
  later: boolean,
  path: PathLike,
  data: unknown,
  options: FileOptions | undefined,
  otherwise: string,
) {
  const { encoding, flag, mode } = toOptions(options);
  const name = toPath(path);
  const bytes = toBytes(data, encoding as BufferEncoding | null | undefined);
  const flags = toFlags(flag, otherwise);
  const bits = toMode(mode);
  const call = { syscall: 'open', path: name };
  return run(later, call, (later) => tree.write(name, bytes, flags, bits, later));
}

export function writeFile(
  tree: Tree,
  later: boolean,
  path: PathLike,
  data: unknown,
  options?: FileOptions,
) {
  return writeWith(tree, later, path, data, options, 'w');
}

export function appendFile(
  tree: Tree,
  later: boolean,
  path: PathLike,
  data: unknown,
  options?: FileOptions,
) {
  return writeWith(tree, later, path, data, options, 'a');
}

export function open(
  tree: Tree,
  later: boolean,
  path: PathLike,
  flags?: string | number | null,
  mode?: string | number | null,
): Outcome<OpenFile> {
  const name = toPath(path);
  const bits = toFlags(flags, 'r');
  const permissions = toMode(mode);
  const call = { syscall: 'open', path: name };
  return run(later, call, (later) => tree.open(name, bits, permissions, later));
}

type ReaddirOptions =
  | { encoding?: BufferEncoding | 'buffer' | null; withFileTypes?: boolean; recursive?: boolean }
  | string
  | null;

export function readdir(tree: Tree, later: boolean, path: PathLike, options?: ReaddirOptions) {
  const { encoding, withFileTypes, recursive } = toOptions(options);
  const name = toPath(path);
  const steps = function* (): Steps<unknown[]> {
    const { names, kinds } = yield* step({ syscall: 'scandir', path: name }, (later) =>
      recursive ? tree.listAll(name, later) : tree.list(name, later),
    );
    if (!withFileTypes) {
      const plain = !encoding || encoding === 'utf8' || encoding === 'utf-8';
      return plain ? names : names.map((name) => encoded(name, encoding));
    }
    return names.map((relative, at) => {
      const slash = relative.lastIndexOf('/');
      const base = name.endsWith('/') ? name.slice(0, -1) : name;
      const parent = slash < 0 ? name : `${base}/${relative.slice(0, slash)}`;
      return new Dirent(encoded(relative.slice(slash + 1), encoding), parent, kinds[at] as number);
    });
  };
  return drive(later, steps());
}

export function mkdir(
  tree: Tree,
  later: boolean,
  path: PathLike,
  options?: MakeDirectoryOptions | string | number | null,
) {
  const given = typeof options === 'object' ? (options ?? {}) : { mode: options };
  const { recursive, mode } = given as MakeDirectoryOptions;
  const name = toPath(path);
  const bits = toMode(mode);
  const call = { syscall: 'mkdir', path: name };
  if (!recursive) {
    return run(later, call, (later) => tree.mkdir(name, bits, later));
  }
  const steps = function* (): Steps<string | undefined> {
    try {
      return (yield* step(call, (later) => tree.mkdirAll(name, bits, later))) ?? undefined;
    } catch (error) {
      if (code(error) === 'ENOTDIR' && (yield* step(call, (later) => tree.exists(name, later)))) {
        throw failure('EEXIST', 'NotADirectory', call);
      }
      throw error;
    }
  };
  return drive(later, steps());
}

export function rmdir(tree: Tree, later: boolean, path: PathLike) {
  const name = toPath(path);
  return run(later, { syscall: 'rmdir', path: name }, (later) => tree.removeDir(name, later));
}

export function unlink(tree: Tree, later: boolean, path: PathLike) {
  const name = toPath(path);
  return run(later, { syscall: 'unlink', path: name }, (later) => tree.remove(name, later));
}

export function rm(tree: Tree, later: boolean, path: PathLike, options?: RmOptions) {
  const name = toPath(path);
  const call = { syscall: 'rm', path: name };
  const steps = function* (): Steps<void> {
    try {
      if (options?.recursive) {
        yield* step(call, (later) => tree.removeAll(name, later));
      } else {
        yield* step(call, (later) => tree.remove(name, later));
      }
    } catch (error) {
      if (options?.force && code(error) === 'ENOENT') {
        return;
      }
      if (!options?.recursive && code(error) === 'EISDIR') {
        const message = `Path is a directory: rm returned EISDIR (is a directory) ${name}`;
        const made = systemError('ERR_FS_EISDIR', 'EISDIR', message);
        throw Object.assign(made, call);
      }
      throw error;
    }
  };
  return drive(later, steps());
}

export function rename(tree: Tree, later: boolean, from: PathLike, to: PathLike) {
  const path = toPath(from, 'oldPath');
  const dest = toPath(to, 'newPath');
  const call = { syscall: 'rename', path, dest };
  return run(later, call, (later) => tree.rename(path, dest, true, later));
}

export function copyFile(tree: Tree, later: boolean, from: PathLike, to: PathLike, mode = 0) {
  const path = toPath(from, 'src');
  const dest = toPath(to, 'dest');
  return drive(later, copyOne(tree, path, dest, (mode & constants.COPYFILE_EXCL) !== 0));
}

function* copyOne(tree: Tree, path: string, dest: string, exclusive: boolean): Steps<void> {
  const call = { syscall: 'copyfile', path, dest };
  const source = yield* step(call, (later) => tree.canonicalize(path, later));
  const found = yield* step(call, (later) => tree.stat(source, false, later));
  if (found[0] !== 0) {
    throw failure('EISDIR', 'IsADirectory', call);
  }
  let target = dest;
  try {
    target = yield* step(call, (later) => tree.canonicalize(dest, later));
    const there = yield* step(call, (later) => tree.stat(target, false, later));
    if (exclusive) {
      throw failure('EEXIST', 'AlreadyExists', call);
    }
    if (there[0] !== 0) {
      throw failure('EISDIR', 'IsADirectory', call);
    }
  } catch (error) {
    if (code(error) !== 'ENOENT') {
      throw error;
    }
  }
  yield* step(call, (later) => tree.copy(source, target, later));
}

function* look(tree: Tree, path: string, links: boolean): Steps<number | undefined> {
  try {
    const call = { syscall: links ? 'stat' : 'lstat', path };
    return (yield* step(call, (later) => tree.stat(path, links, later)))[0];
  } catch (error) {
    if (code(error) === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

function cpError(name: string, errno: 'EINVAL' | 'EISDIR' | 'ENOTDIR' | 'EEXIST', message: string) {
  return Object.assign(systemError(name, errno, message), { syscall: 'cp' });
}

/** Copies with all below. Links stay as they are written, and times are kept. */
export function cp(
  tree: Tree,
  later: boolean,
  from: PathLike,
  to: PathLike,
  options: CopyOptions | CopySyncOptions = {},
) {
  const path = toPath(from, 'src');
  const dest = toPath(to, 'dest');
  return drive(later, cpSteps(tree, path, dest, options));
}

function* cpSteps(
  tree: Tree,
  path: string,
  dest: string,
  options: CopyOptions | CopySyncOptions,
): Steps<void> {
  const { filter, dereference = false, recursive = false } = options;
  const { force = true, errorOnExist = false } = options;
  if (filter) {
    const wanted = yield ((_later) => filter(path, dest)) as Step<boolean>;
    if (!wanted) {
      return;
    }
  }
  const call = { syscall: 'cp', path, dest };
  const numbers = yield* step({ syscall: dereference ? 'stat' : 'lstat', path }, (later) =>
    tree.stat(path, dereference, later),
  );
  const kind = numbers[0];
  const there = yield* look(tree, dest, dereference);
  if (kind === 1) {
    if (!recursive) {
      const message = `Recursive option not enabled, cannot copy a directory: ${path}`;
      throw cpError('ERR_FS_EISDIR', 'EISDIR', message);
    }
    if (there !== undefined && there !== 1) {
      const message = `cannot overwrite non-directory ${dest} with directory ${path}`;
      throw cpError('ERR_FS_CP_DIR_TO_NON_DIR', 'EISDIR', message);
    }
    if (`${dest}/`.startsWith(`${path}/`)) {
      const message = `cannot copy ${path} to a subdirectory of self ${dest}`;
      throw cpError('ERR_FS_CP_EINVAL', 'EINVAL', message);
    }
    const parent = dest.replace(/\/+[^/]*\/*$/, '') || '/';
    if (there === undefined && !filter && !dereference) {
      yield* step(call, (later) => tree.mkdirAll(parent, undefined, later));
      yield* step(call, (later) => tree.copy(path, dest, later));
      return;
    }
    if (there === undefined) {
      yield* step(call, (later) => tree.mkdirAll(dest, numbers[1], later));
    }
    const { names } = yield* step({ syscall: 'scandir', path }, (later) => tree.list(path, later));
    for (const name of names) {
      yield* cpSteps(tree, `${path}/${name}`, `${dest}/${name}`, options);
    }
    return;
  }
  if (there === 1) {
    const message = `cannot overwrite directory ${dest} with non-directory ${path}`;
    throw cpError('ERR_FS_CP_NON_DIR_TO_DIR', 'ENOTDIR', message);
  }
  if (there !== undefined && !force) {
    if (errorOnExist) {
      throw cpError('ERR_FS_CP_EEXIST', 'EEXIST', `${dest} already exists`);
    }
    return;
  }
  const source = dereference ? yield* step(call, (later) => tree.canonicalize(path, later)) : path;
  if (there === undefined) {
    const parent = dest.replace(/\/+[^/]*\/*$/, '') || '/';
    yield* step(call, (later) => tree.mkdirAll(parent, undefined, later));
  }
  yield* step(call, (later) => tree.copy(source, dest, later));
}

export function symlink(tree: Tree, later: boolean, target: PathLike, path: PathLike) {
  const text = toPath(target, 'target');
  const dest = toPath(path);
  const call = { syscall: 'symlink', path: text, dest };
  return run(later, call, (later) => tree.symlink(text, dest, later));
}

export function readlink(tree: Tree, later: boolean, path: PathLike, options?: Encoding) {
  const { encoding } = toOptions(options);
  const name = toPath(path);
  const steps = function* (): Steps<string | Buffer> {
    const call = { syscall: 'readlink', path: name };
    return encoded(yield* step(call, (later) => tree.readLink(name, later)), encoding);
  };
  return drive(later, steps());
}

export function realpath(tree: Tree, later: boolean, path: PathLike, options?: Encoding) {
  const { encoding } = toOptions(options);
  const name = toPath(path);
  const steps = function* (): Steps<string | Buffer> {
    const call = { syscall: 'realpath', path: name };
    return encoded(yield* step(call, (later) => tree.canonicalize(name, later)), encoding);
  };
  return drive(later, steps());
}

export function chmod(tree: Tree, later: boolean, path: PathLike, mode: string | number) {
  const name = toPath(path);
  const set = { mode: toMode(mode) };
  if (set.mode === undefined) {
    throw wrongValue('mode', 'must be a number or an octal string');
  }
  const call = { syscall: 'chmod', path: name };
  return run(later, call, (later) => tree.setAttributes(name, set, true, later));
}

export function chown(tree: Tree, later: boolean, path: PathLike, uid: number, gid: number) {
  return own(tree, later, path, uid, gid, true);
}

export function lchown(tree: Tree, later: boolean, path: PathLike, uid: number, gid: number) {
  return own(tree, later, path, uid, gid, false);
}

function own(tree: Tree, later: boolean, path: PathLike, uid: number, gid: number, links: boolean) {
  const name = toPath(path);
  const set = owner(uid, gid);
  const call = { syscall: links ? 'chown' : 'lchown', path: name };
  return run(later, call, (later) => tree.setAttributes(name, set, links, later));
}

/** An owner and a group to set; -1 leaves one as it is. */
export function owner(uid: number, gid: number) {
  return { ...(uid === -1 ? {} : { uid }), ...(gid === -1 ? {} : { gid }) };
}

/** Sets the time of the last change; the time of the last access is not kept. */
export function utimes(
  tree: Tree,
  later: boolean,
  path: PathLike,
  atime: TimeLike | bigint,
  mtime: TimeLike | bigint,
) {
  return touch(tree, later, path, atime, mtime, true);
}

export function lutimes(
  tree: Tree,
  later: boolean,
  path: PathLike,
  atime: TimeLike | bigint,
  mtime: TimeLike | bigint,
) {
  return touch(tree, later, path, atime, mtime, false);
}

function touch(
  tree: Tree,
  later: boolean,
  path: PathLike,
  atime: TimeLike | bigint,
  mtime: TimeLike | bigint,
  links: boolean,
) {
  const name = toPath(path);
  toTime(atime, 'atime');
  const set = { mtime: toTime(mtime, 'mtime') };
  const call = { syscall: links ? 'utime' : 'lutime', path: name };
  return run(later, call, (later) => tree.setAttributes(name, set, links, later));
}

export function truncate(tree: Tree, later: boolean, path: PathLike, size: number | null = 0) {
  const name = toPath(path);
  const call = { syscall: 'open', path: name };
  return run(later, call, (later) => tree.truncate(name, Math.max(size ?? 0, 0), later));
}
