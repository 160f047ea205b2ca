/** `Stats`, `BigIntStats` and `Dirent`, as of `node:fs`. */

import { constants } from 'node:fs';

const TYPES = [constants.S_IFREG, constants.S_IFDIR, constants.S_IFLNK];
/** The size of a block, in bytes. */
export const BLOCK = 4096;

/** The name of what tells an entry's type, out of the way of the names that Node has. */
const TYPE = Symbol('type');

abstract class Typed {
  protected abstract [TYPE](): number;

  isFile(): boolean {
    return this[TYPE]() === constants.S_IFREG;
  }

  isDirectory(): boolean {
    return this[TYPE]() === constants.S_IFDIR;
  }

  isSymbolicLink(): boolean {
    return this[TYPE]() === constants.S_IFLNK;
  }

  isBlockDevice(): boolean {
    return false;
  }

  isCharacterDevice(): boolean {
    return false;
  }

  isFIFO(): boolean {
    return false;
  }

  isSocket(): boolean {
    return false;
  }
}

abstract class AnyStats<N extends number | bigint> extends Typed {
  declare mode: N;
  abstract atimeMs: N;
  abstract mtimeMs: N;
  abstract ctimeMs: N;
  abstract birthtimeMs: N;

  protected [TYPE](): number {
    return Number(this.mode) & constants.S_IFMT;
  }

  get atime(): Date {
    return date(this.atimeMs);
  }

  get mtime(): Date {
    return date(this.mtimeMs);
  }

  get ctime(): Date {
    return date(this.ctimeMs);
  }

  get birthtime(): Date {
    return date(this.birthtimeMs);
  }
}

/**
 * What is known of a file. There are no inodes: `ino` and `dev` are 0. Times of access and birth are
 * not kept: the first is `mtime`, the second `ctime`.
 */
export class Stats extends AnyStats<number> {
  dev = 0;
  declare mode: number;
  nlink = 1;
  uid: number;
  gid: number;
  rdev = 0;
  blksize = BLOCK;
  ino = 0;
  size: number;
  blocks: number;
  atimeMs: number;
  mtimeMs: number;
  ctimeMs: number;
  birthtimeMs: number;

  /** @internal */
  constructor(numbers: AttributeNumbers) {
    super();
    const n = numbers as Numbers;
    this.mode = (TYPES[n[0]] as number) | n[1];
    this.uid = n[2];
    this.gid = n[3];
    this.size = n[4];
    this.blocks = Math.ceil(n[4] / 512);
    this.mtimeMs = n[5] * 1e3 + n[6] / 1e6;
    this.ctimeMs = n[7] * 1e3 + n[8] / 1e6;
    this.atimeMs = this.mtimeMs;
    this.birthtimeMs = this.ctimeMs;
  }
}

/** The same in BigInts, with times in nanoseconds too. */
export class BigIntStats extends AnyStats<bigint> {
  dev = 0n;
  declare mode: bigint;
  nlink = 1n;
  uid: bigint;
  gid: bigint;
  rdev = 0n;
  blksize = BigInt(BLOCK);
  ino = 0n;
  size: bigint;
  blocks: bigint;
  atimeMs: bigint;
  mtimeMs: bigint;
  ctimeMs: bigint;
  birthtimeMs: bigint;
  atimeNs: bigint;
  mtimeNs: bigint;
  ctimeNs: bigint;
  birthtimeNs: bigint;

  /** @internal */
  constructor(numbers: AttributeNumbers) {
    super();
    const [kind, mode, uid, gid, size, mtime, mtimeNs, ctime, ctimeNs] =
      numbers as Iterable<number> as Numbers;
    this.mode = BigInt((TYPES[kind] as number) | mode);
    this.uid = BigInt(uid);
    this.gid = BigInt(gid);
    this.size = BigInt(size);
    this.blocks = BigInt(Math.ceil(size / 512));
    this.mtimeNs = BigInt(mtime) * 1_000_000_000n + BigInt(mtimeNs);
    this.ctimeNs = BigInt(ctime) * 1_000_000_000n + BigInt(ctimeNs);
    this.mtimeMs = this.mtimeNs / 1_000_000n;
    this.ctimeMs = this.ctimeNs / 1_000_000n;
    this.atimeNs = this.mtimeNs;
    this.atimeMs = this.mtimeMs;
    this.birthtimeNs = this.ctimeNs;
    this.birthtimeMs = this.ctimeMs;
  }
}

/** Attributes as the native module gives them. */
export type AttributeNumbers = ArrayLike<number> & Iterable<number>;

// Read by index: to take a typed array apart goes through its iterator.
type Numbers = [number, number, number, number, number, number, number, number, number];

function date(ms: number | bigint): Date {
  return new Date(Math.round(Number(ms)));
}

/** A name in a directory, with its kind. */
export class Dirent<Name extends string | Buffer = string> extends Typed {
  name: Name;
  parentPath: string;
  path: string;
  readonly #kind: number;

  /** @internal */
  constructor(name: Name, parentPath: string, kind: number) {
    super();
    this.name = name;
    this.parentPath = parentPath;
    this.path = parentPath;
    this.#kind = kind;
  }

  protected [TYPE](): number {
    return TYPES[this.#kind] as number;
  }
}
