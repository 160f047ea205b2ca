/** What `node:fs` does, as operations that run on the calling thread or as promises. */

import { Blob } from 'node:buffer';
import { randomInt } from 'node:crypto';
import * as nodefs from 'node:fs';
import {
  type BigIntStatsFs,
  type CopyOptions,
  type CopySyncOptions,
  constants,
  type MakeDirectoryOptions,
  type PathLike,
  type RmDirOptions,
  type RmOptions,
  type StatsFs,
  type TimeLike,
} from 'node:fs';
import { freemem, totalmem } from 'node:os';
import { posix } from 'node:path';

import {
  APPEND,
  check,
  decoded,
  EXCLUSIVE,
  encoded,
  integer,
  onlyReads,
  permissions,
  toBits,
  toBytes,
  toFlags,
  toLength,
  toMode,
  toOptions,
  toPath,
  toTime,
  WRITE,
} from './arguments.js';
import { checkObject, toFunction } from './attributes.js';
import { drive, run, runSmall, type Step, type Steps, step, until } from './calls.js';
import { DirectoryFile } from './directory.js';
import {
  failure,
  isThenable,
  rebuild,
  systemError,
  tooLarge,
  wrongResult,
  wrongType,
} from './errors.js';
import type { Listing, OpenFile, Outcome, Tree } from './native.js';
import { type AttributeNumbers, BigIntStats, BLOCK, Dirent, Stats } from './stats.js';

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

export function stats(numbers: AttributeNumbers, bigint?: boolean): Stats | BigIntStats {
  return bigint ? new BigIntStats(numbers) : new Stats(numbers);
}

/** Where the native module writes the attributes of one entry, to be used at once. */
const NUMBERS = new Float64Array(9);

let passing: boolean | undefined;

/** Whether `statSync` of this Node may find nothing below a file; older ones throw an error. */
function passesFiles(): boolean {
  if (passing === undefined) {
    try {
      nodefs.statSync(`${process.execPath}/x`, { throwIfNoEntry: false });
      passing = true;
    } catch {
      passing = false;
    }
  }
  return passing;
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
    return runSmall(
      call,
      () => {
        tree.statInto(name, links, NUMBERS);
        return stats(NUMBERS, bigint);
      },
      async () => stats((await tree.stat(name, links, true)) as number[], bigint),
    );
  }
  try {
    tree.statInto(name, links, NUMBERS);
  } catch (native) {
    const error = rebuild(native, call);
    if (options?.throwIfNoEntry === false) {
      const none =
        code(error) === 'ENOENT' || (code(error) === 'ENOTDIR' && links && passesFiles());
      if (none) {
        return undefined;
      }
    }
    throw error;
  }
  return stats(NUMBERS, bigint);
}

export function stat(tree: Tree, later: boolean, path: PathLike, options: StatOptions = null) {
  return statWith(tree, later, path, options, true);
}

export function lstat(tree: Tree, later: boolean, path: PathLike, options: StatOptions = null) {
  return statWith(tree, later, path, options, false);
}

/** As Node's, which tells of no error: of what cannot be looked at, nothing is there. */
export function exists(tree: Tree, later: boolean, path: PathLike): Outcome<boolean> {
  try {
    const name = toPath(path);
    if (!later) {
      return tree.exists(name, false);
    }
    const found = runSmall(
      undefined,
      () => tree.exists(name, false) as boolean,
      () => tree.exists(name, true) as Promise<boolean>,
    );
    return found.catch(() => false);
  } catch {
    return false;
  }
}

export function access(tree: Tree, later: boolean, path: PathLike, mode?: number) {
  const name = toPath(path);
  const bits = toBits(mode, constants.F_OK);
  const call = { syscall: 'access', path: name };
  const permit = (numbers: AttributeNumbers) => {
    const found = new Stats(numbers);
    if (bits & constants.X_OK && found.isFile() && (found.mode & 0o111) === 0) {
      throw failure('EACCES', 'PermissionDenied', call);
    }
  };
  const now = () => {
    tree.statInto(name, true, NUMBERS);
    permit(NUMBERS);
  };
  if (later) {
    return runSmall(call, now, async () => permit((await tree.stat(name, true, true)) as number[]));
  }
  return run(false, call, now);
}

export function readFile(tree: Tree, later: boolean, path: PathLike, options?: FileOptions) {
  const { encoding, flag, signal } = toOptions(options);
  const name = toPath(path);
  if (flag !== undefined && flag !== null && flag !== 'r') {
    if (later) {
      check(signal);
    }
    return drive(later, readOpened(tree, name, flag, encoding));
  }
  const call = { syscall: 'open', path: name };
  if (later) {
    check(signal);
    const bytes = run(true, call, () => tree.read(name, true)) as Promise<Buffer>;
    return until(signal, bytes).then(
      (bytes) => decoded(bytes, encoding),
      (error) => {
        throw readingDirectory(error);
      },
    );
  }
  try {
    return decoded(run(false, call, () => tree.read(name, false)) as Buffer, encoding);
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

function* readOpened(
  tree: Tree,
  path: string,
  flag: string | number,
  encoding?: string | null,
): Steps<Buffer | string> {
  const call = { syscall: 'open', path };
  const bits = toFlags(flag, 'r');
  yield* permitted(tree, path, flag);
  const file = yield* step(call, (later) => tree.open(path, bits, undefined, later));
  try {
    return decoded(yield* readAll(file), encoding);
  } finally {
    yield* step({ syscall: 'close' }, (later) => file.close(later));
  }
}

const { O_DIRECTORY = 0, O_NOFOLLOW = 0 } = constants;

/** Tells whether flags say what must be there, which is looked at before a file is opened. */
function demands(flags: unknown): flags is number {
  return typeof flags === 'number' && (flags & (O_DIRECTORY | O_NOFOLLOW)) !== 0;
}

/** Fails where something else is at a path than flags say. */
function* permitted(tree: Tree, path: string, flags: unknown): Steps<void> {
  if (!demands(flags)) {
    return;
  }
  const kind = yield* look(tree, path, (flags & O_NOFOLLOW) === 0, 'open');
  const call = { syscall: 'open', path };
  if (flags & O_DIRECTORY && kind !== undefined && kind !== 1) {
    throw failure('ENOTDIR', 'NotADirectory', call);
  }
  if (kind === 2) {
    throw failure('ELOOP', 'TooManyLinks', call);
  }
}

/** The most bytes that a file is read with at once, as in Node. */
const LARGEST = 2 ** 31 - 1;

/** After how many bytes a read looks whether it is to end. */
const PART = 8 << 20;

/** Reads from the position to the end. */
export function* readAll(file: OpenFile, signal?: AbortSignal | null): Steps<Buffer> {
  const blocks: Buffer[] = [];
  const numbers = yield* step({ syscall: 'fstat' }, (later) => file.stat(later));
  const size = numbers[4] as number;
  if (size > LARGEST) {
    throw tooLarge(`File size (${size}) is greater than 2 GiB`);
  }
  let block = Buffer.allocUnsafeSlow(Math.max(size, 1));
  for (;;) {
    let filled = 0;
    while (filled < block.length) {
      check(signal);
      const part = block.subarray(filled, filled + PART);
      const call = { syscall: 'read' };
      const n = yield* step(call, (later) => file.read(part, undefined, later));
      filled += n;
      if (n < part.length) {
        blocks.push(block.subarray(0, filled));
        return blocks.length === 1 ? (blocks[0] as Buffer) : Buffer.concat(blocks);
      }
    }
    blocks.push(block);
    block = Buffer.allocUnsafeSlow(64 * 1024);
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
  const { encoding, flag, mode, signal } = toOptions(options);
  const name = toPath(path);
  const bytes = toBytes(data, encoding as BufferEncoding | null | undefined);
  const flags = toFlags(flag, otherwise);
  const bits = toMode(mode);
  if (later) {
    check(signal);
  }
  const call = { syscall: 'open', path: name };
  if (!demands(flag) && flags & (WRITE | APPEND)) {
    return run(later, call, (later) => tree.write(name, bytes, flags, bits, later));
  }
  const steps = function* (): Steps<void> {
    yield* permitted(tree, name, flag);
    const file = yield* step(call, (later) => tree.open(name, flags, bits, later));
    try {
      const call = { syscall: 'write' };
      yield* step(call, (later) => file.write(bytes, undefined, later));
    } catch (error) {
      yield* step({ syscall: 'close' }, (later) => file.abort(later));
      throw error;
    }
    yield* step({ syscall: 'close' }, (later) => file.close(later));
  };
  return drive(later, steps());
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
  const refused = (error: unknown): OpenFile => {
    if (bits & EXCLUSIVE && (error as { kind?: string }).kind === 'Locked') {
      // Another is making the file: in Node it would be there already.
      throw failure('EEXIST', 'Locked', call);
    }
    if (onlyReads(bits) && code(error) === 'EISDIR') {
      return new DirectoryFile(tree, name);
    }
    throw error;
  };
  const opening = function* (): Steps<OpenFile> {
    yield* permitted(tree, name, flags);
    return yield* step(call, (later) => tree.open(name, bits, permissions, later));
  };
  try {
    const file = drive(later, opening());
    return later ? (file as Promise<OpenFile>).catch(refused) : (file as OpenFile);
  } catch (error) {
    return refused(error);
  }
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
    if (withFileTypes) {
      return dirents(name, { names, kinds }, encoding);
    }
    const plain = !encoding || encoding === 'utf8' || encoding === 'utf-8';
    return plain ? names : names.map((name) => encoded(name, encoding));
  };
  return drive(later, steps());
}

/** Makes entries of names that are relative to a directory. */
export function dirents(name: string, { names, kinds }: Listing, encoding?: string | null) {
  const base = name.endsWith('/') ? name.slice(0, -1) : name;
  return names.map((relative, at) => {
    const slash = relative.lastIndexOf('/');
    const parent = slash < 0 ? name : `${base}/${relative.slice(0, slash)}`;
    return new Dirent(encoded(relative.slice(slash + 1), encoding), parent, kinds[at] as number);
  });
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
  flagOption('recursive', recursive);
  const bits = toMode(mode);
  const call = { syscall: 'mkdir', path: name };
  if (!recursive) {
    return run(later, call, (later) => tree.mkdir(name, bits, later));
  }
  const steps = function* (): Steps<string | undefined> {
    try {
      return (yield* step(call, (later) => tree.mkdirAll(name, bits, later))) ?? undefined;
    } catch (error) {
      const there = yield* step(call, (later) => tree.exists(name, later));
      if (code(error) === 'ENOTDIR' && there) {
        throw failure('EEXIST', 'NotADirectory', call);
      }
      if (code(error) === 'EEXIST' && !there) {
        throw failure('ENOENT', 'NotFound', call);
      }
      throw error;
    }
  };
  return drive(later, steps());
}

export function rmdir(tree: Tree, later: boolean, path: PathLike, options?: RmDirOptions) {
  const name = toPath(path);
  const call = { syscall: 'rmdir', path: name };
  flagOption('recursive', options?.recursive);
  if (!options?.recursive) {
    return run(later, call, (later) => tree.removeDir(name, later));
  }
  const steps = function* (): Steps<void> {
    const found = yield* step(call, (later) => tree.stat(name, false, later));
    if (found[0] !== 1) {
      throw failure('ENOTDIR', 'NotADirectory', call);
    }
    yield* step(call, (later) => tree.removeAll(name, later));
  };
  return drive(later, steps());
}

export function unlink(tree: Tree, later: boolean, path: PathLike) {
  const name = toPath(path);
  return run(later, { syscall: 'unlink', path: name }, (later) => tree.remove(name, later));
}

export function rm(tree: Tree, later: boolean, path: PathLike, options?: RmOptions) {
  const name = toPath(path);
  flagOption('force', options?.force);
  flagOption('recursive', options?.recursive);
  const call = { syscall: 'lstat', path: name };
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
        const call = { syscall: 'rm', path: name };
        throw systemError('ERR_FS_EISDIR', 'EISDIR', 'Path is a directory', call, 'is a directory');
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

export function copyFile(tree: Tree, later: boolean, from: PathLike, to: PathLike, mode?: number) {
  const path = toPath(from, 'src');
  const dest = toPath(to, 'dest');
  const exclusive = (toBits(mode, 0) & constants.COPYFILE_EXCL) !== 0;
  return drive(later, copyOne(tree, path, dest, exclusive));
}

function* copyOne(tree: Tree, path: string, dest: string, exclusive: boolean): Steps<void> {
  const call = { syscall: 'copyfile', path, dest };
  const source = yield* step(call, (later) => tree.canonicalize(path, later));
  const found = yield* step(call, (later) => tree.stat(source, false, later));
  let target = dest;
  let there: number | undefined;
  try {
    target = yield* step(call, (later) => tree.canonicalize(dest, later));
    there = (yield* step(call, (later) => tree.stat(target, false, later)))[0];
  } catch (error) {
    if (code(error) !== 'ENOENT') {
      throw error;
    }
  }
  if (there !== undefined && exclusive) {
    throw failure('EEXIST', 'AlreadyExists', call);
  }
  if (found[0] !== 0 || (there !== undefined && there !== 0)) {
    throw failure('EISDIR', 'IsADirectory', call);
  }
  // Who comes in between is found by the copy itself.
  yield* step(call, (later) => tree.copy(source, target, !exclusive, true, later));
}

function* look(
  tree: Tree,
  path: string,
  links: boolean,
  syscall = links ? 'stat' : 'lstat',
): Steps<number | undefined> {
  try {
    const call = { syscall, path };
    return (yield* step(call, (later) => tree.stat(path, links, later)))[0];
  } catch (error) {
    if (code(error) === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}

type CpCode = 'EINVAL' | 'EISDIR' | 'ENOTDIR' | 'EEXIST';

function cpError(name: string, errno: CpCode, text: string, path: string, detail: string) {
  return systemError(name, errno, text, { syscall: 'cp', path }, detail);
}

/** Copies with all below. */
export function cp(
  tree: Tree,
  later: boolean,
  from: PathLike,
  to: PathLike,
  options?: CopyOptions | CopySyncOptions,
) {
  const given = checkObject(options, 'options');
  if (given.filter !== undefined) {
    toFunction(given.filter, 'options.filter');
  }
  const path = toPath(from, 'src');
  const dest = toPath(to, 'dest');
  return drive(later, cpSteps(tree, path, dest, given));
}

function* cpSteps(
  tree: Tree,
  path: string,
  dest: string,
  options: CopyOptions | CopySyncOptions,
): Steps<void> {
  const { filter, dereference = false, recursive = false, verbatimSymlinks = false } = options;
  const { force = true, errorOnExist = false, preserveTimestamps = false } = options;
  const touch = !preserveTimestamps;
  if (filter) {
    const wanted = yield ((later) => {
      const wanted = filter(path, dest);
      if (!later && isThenable(wanted)) {
        Promise.resolve(wanted).catch(() => {});
        throw wrongResult('boolean', 'filter', wanted);
      }
      return wanted;
    }) as Step<boolean>;
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
  checkCp(path, dest, kind === 1, there);
  if (kind === 1) {
    if (!recursive) {
      const detail = `${path} is a directory (not copied)`;
      throw cpError('ERR_FS_EISDIR', 'EISDIR', 'Path is a directory', path, detail);
    }
    const { names } = yield* step({ syscall: 'scandir', path }, (later) => tree.list(path, later));
    if (there === undefined) {
      const parent = posix.dirname(posix.normalize(dest));
      yield* step(call, (later) => tree.mkdirAll(parent, undefined, later));
      const simple = !filter && !dereference;
      if (simple && (verbatimSymlinks || !(yield* hasLinks(tree, path)))) {
        yield* step(call, (later) => tree.copy(path, dest, true, touch, later));
        return;
      }
      yield* step(call, (later) => tree.mkdir(dest, numbers[1], later));
    }
    for (const name of names) {
      yield* cpSteps(tree, posix.join(path, name), posix.join(dest, name), options);
    }
    return;
  }
  if (there !== undefined && !force) {
    if (errorOnExist) {
      const detail = `${dest} already exists`;
      throw cpError('ERR_FS_CP_EEXIST', 'EEXIST', 'Target already exists', dest, detail);
    }
    return;
  }
  if (there === undefined) {
    const parent = posix.dirname(posix.normalize(dest));
    yield* step(call, (later) => tree.mkdirAll(parent, undefined, later));
  }
  if (kind === 2 && !verbatimSymlinks) {
    const target = yield* step(call, (later) => tree.readLink(path, later));
    if (!target.startsWith('/')) {
      if (there !== undefined) {
        yield* step(call, (later) => tree.remove(dest, later));
      }
      const absolute = posix.join(posix.dirname(path), target);
      yield* step(call, (later) => tree.symlink(absolute, dest, later));
      return;
    }
  }
  const source = dereference ? yield* step(call, (later) => tree.canonicalize(path, later)) : path;
  const copy = { syscall: 'copyfile', path, dest };
  yield* step(copy, (later) => tree.copy(source, dest, force, touch, later));
}

/** Finds what cannot be copied to where it is to go. */
function checkCp(path: string, dest: string, isDirectory: boolean, there: number | undefined) {
  if (there !== undefined && path === dest) {
    const detail = 'src and dest cannot be the same';
    throw cpError('ERR_FS_CP_EINVAL', 'EINVAL', 'Invalid src or dest', dest, detail);
  }
  if (isDirectory && there !== undefined && there !== 1) {
    const text = 'Cannot overwrite non-directory with directory';
    const detail = `cannot overwrite non-directory ${dest} with directory ${path}`;
    throw cpError('ERR_FS_CP_DIR_TO_NON_DIR', 'EISDIR', text, dest, detail);
  }
  if (!isDirectory && there === 1) {
    const text = 'Cannot overwrite directory with non-directory';
    const detail = `cannot overwrite directory ${dest} with non-directory ${path}`;
    throw cpError('ERR_FS_CP_NON_DIR_TO_DIR', 'ENOTDIR', text, dest, detail);
  }
  if (isDirectory && `${dest}/`.startsWith(`${path}/`)) {
    const detail = `cannot copy ${path} to a subdirectory of self ${dest}`;
    throw cpError('ERR_FS_CP_EINVAL', 'EINVAL', 'Invalid src or dest', dest, detail);
  }
}

/** Tells whether there is a link below, whose text a copy has to change. */
function* hasLinks(tree: Tree, path: string): Steps<boolean> {
  const call = { syscall: 'scandir', path };
  const { kinds } = yield* step(call, (later) => tree.listAll(path, later));
  return kinds.includes(2);
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

/** As {@link realpath}; an error tells the first part of the path that is not there. */
export function realpathParts(tree: Tree, later: boolean, path: PathLike, options?: Encoding) {
  const { encoding } = toOptions(options);
  const name = toPath(path);
  const steps = function* (): Steps<string | Buffer> {
    try {
      const real = (later: boolean) => tree.canonicalize(name, later);
      return encoded(yield* step({ syscall: 'lstat', path: name }, real), encoding);
    } catch {
      let found = '/';
      for (const part of posix.resolve('/', name).split('/').slice(1)) {
        const path = posix.join(found, part);
        yield* step({ syscall: 'lstat', path }, (later) => tree.stat(path, false, later));
        const call = { syscall: 'stat', path };
        found = yield* step(call, (later) => tree.canonicalize(path, later));
      }
      return encoded(found, encoding);
    }
  };
  return drive(later, steps());
}

export function chmod(tree: Tree, later: boolean, path: PathLike, mode: string | number) {
  return permit(tree, later, path, mode, true);
}

export function lchmod(tree: Tree, later: boolean, path: PathLike, mode: string | number) {
  return permit(tree, later, path, mode, false);
}

function permit(tree: Tree, later: boolean, path: PathLike, mode: string | number, links: boolean) {
  const name = toPath(path);
  const set = { mode: permissions(mode) };
  const call = { syscall: links ? 'chmod' : 'lchmod', path: name };
  return run(later, call, (later) => tree.setAttributes(name, set, links, later));
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
  const largest = 2 ** 32 - 1;
  integer(uid, 'uid', -1, largest);
  integer(gid, 'gid', -1, largest);
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
  toTime(atime);
  const set = { mtime: toTime(mtime) };
  const call = { syscall: links ? 'utime' : 'lutime', path: name };
  return run(later, call, (later) => tree.setAttributes(name, set, links, later));
}

export function truncate(tree: Tree, later: boolean, path: PathLike, size?: number | null) {
  const name = toPath(path);
  const length = toLength(size);
  const call = { syscall: 'open', path: name };
  return run(later, call, (later) => tree.truncate(name, length, later));
}

/** Fails: a store has no hard links. */
export function link(tree: Tree, later: boolean, from: PathLike, to: PathLike) {
  const path = toPath(from, 'existingPath');
  const dest = toPath(to, 'newPath');
  const call = { syscall: 'link', path, dest };
  const steps = function* (): Steps<void> {
    yield* step(call, (later) => tree.stat(path, false, later));
    throw failure('EPERM', 'Unsupported', call);
  };
  return drive(later, steps());
}

const LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';

export function mkdtemp(tree: Tree, later: boolean, prefix: PathLike, options?: Encoding) {
  const { encoding } = toOptions(options);
  const start = toPath(prefix, 'prefix');
  const call = { syscall: 'mkdtemp', path: `${start}XXXXXX` };
  const steps = function* (): Steps<string | Buffer> {
    for (;;) {
      const letters = Array.from({ length: 6 }, () => LETTERS[randomInt(LETTERS.length)]);
      const path = start + letters.join('');
      try {
        yield* step(call, (later) => tree.mkdir(path, 0o700, later));
        return encoded(path, encoding);
      } catch (error) {
        if (code(error) !== 'EEXIST') {
          throw error;
        }
      }
    }
  };
  return drive(later, steps());
}

/** Tells of the disk that the store lies on; of a store in memory, of the memory. */
export function statfs(tree: Tree, later: boolean, path: PathLike, options?: StatOptions) {
  const name = toPath(path);
  const call = { syscall: 'statfs', path: name };
  const steps = function* (): Steps<StatsFs | BigIntStatsFs> {
    yield* step(call, (later) => tree.stat(name, true, later));
    const home = tree.home();
    const bigint = options?.bigint === true;
    if (home !== null) {
      return yield ((later) =>
        later
          ? nodefs.promises.statfs(home, { bigint })
          : nodefs.statfsSync(home, { bigint })) as Step<StatsFs | BigIntStatsFs>;
    }
    const number = (n: number) => (bigint ? BigInt(Math.floor(n)) : Math.floor(n));
    // The fields that this Node has: some have more.
    const shape = nodefs.statfsSync('/', { bigint });
    const [size, free] = [number(BLOCK), number(freemem() / BLOCK)];
    return Object.assign(shape, {
      type: number(0),
      bsize: size,
      ...('frsize' in shape ? { frsize: size } : {}),
      blocks: number(totalmem() / BLOCK),
      bfree: free,
      bavail: free,
      files: number(0),
      ffree: number(0),
    });
  };
  return drive(later, steps());
}

/** The whole file at once, as `openAsBlob`. */
export async function openAsBlob(tree: Tree, path: PathLike, options?: { type?: string }) {
  const bytes = (await readFile(tree, true, path)) as Buffer;
  return new Blob([bytes], options);
}

function flagOption(name: string, value: unknown) {
  if (value !== undefined && typeof value !== 'boolean') {
    throw wrongType(`options.${name}`, 'of type boolean', value);
  }
}
