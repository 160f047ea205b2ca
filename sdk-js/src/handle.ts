/** Open files: `FileHandle`, and file descriptors as numbers. */

import { EventEmitter } from 'node:events';
import type { TimeLike } from 'node:fs';

import { toBytes, toMode, toOptions, toTime } from './arguments.js';
import { drive, run } from './calls.js';
import { failure, wrongType } from './errors.js';
import type { OpenFile, Outcome } from './native.js';
import { owner, readAll, stats } from './operations.js';
import type { BigIntStats, Stats } from './stats.js';

type Position = number | bigint | null | undefined;

/** Which part of a buffer, and where in the file. */
export interface Where {
  offset?: number | null;
  length?: number | null;
  position?: Position;
}

/** The files that have a number. Numbers are far from those of the operating system. */
const files = new Map<number, OpenFile>();
const FIRST = 1 << 30;
let last = FIRST;

/** Gives an open file a number. */
export function register(file: OpenFile): number {
  last += 1;
  files.set(last, file);
  return last;
}

/** Finds an open file by its number. */
export function lookUp(fd: number, syscall: string): OpenFile {
  const file = files.get(fd);
  if (file === undefined) {
    throw failure('EBADF', 'BadHandle', { syscall });
  }
  return file;
}

/** Closes the file of a number. */
export function closeNumber(fd: number, later: boolean): Outcome<void> {
  const file = lookUp(fd, 'close');
  files.delete(fd);
  return run(later, { syscall: 'close' }, (later) => file.close(later));
}

function at(position: Position): number | undefined {
  const number = Number(position ?? -1);
  return number < 0 ? undefined : number;
}

function view(buffer: NodeJS.ArrayBufferView): Uint8Array {
  return new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
}

/** Cuts out the part of a buffer that offset and length name. */
function part(buffer: NodeJS.ArrayBufferView, offset?: number | null, length?: number | null) {
  const bytes = view(buffer);
  const start = offset ?? 0;
  const count = length ?? bytes.length - start;
  if (start < 0 || count < 0 || start + count > bytes.length) {
    const message = `The value of "length" is out of range. It must be <= ${bytes.length - start}. Received ${count}`;
    throw Object.assign(new RangeError(message), { code: 'ERR_OUT_OF_RANGE' });
  }
  return bytes.subarray(start, start + count);
}

/** Reads as `fs.read` does, with its two forms of arguments. */
export function read(
  file: OpenFile,
  later: boolean,
  buffer: NodeJS.ArrayBufferView,
  offset?: number | null | Where,
  length?: number | null,
  position?: Position,
): Outcome<number> {
  if (!ArrayBuffer.isView(buffer)) {
    throw wrongType('buffer', 'an instance of Buffer, TypedArray, or DataView', buffer);
  }
  if (typeof offset === 'object' && offset !== null) {
    return read(file, later, buffer, offset.offset, offset.length, offset.position);
  }
  const bytes = part(buffer, offset, length);
  return run(later, { syscall: 'read' }, (later) => file.read(bytes, at(position), later));
}

/** Writes as `fs.write` does, with its three forms of arguments; returns how many bytes. */
export function write(
  file: OpenFile,
  later: boolean,
  data: NodeJS.ArrayBufferView | string,
  offset?: number | null | { offset?: number; length?: number; position?: Position },
  length?: number | string | null,
  position?: Position,
): Outcome<number> {
  let bytes: Uint8Array;
  let where: number | undefined;
  if (typeof data === 'string') {
    bytes = toBytes(data, length as BufferEncoding | undefined);
    where = at(offset as number | null | undefined);
  } else if (typeof offset === 'object' && offset !== null) {
    bytes = part(data, offset.offset, offset.length);
    where = at(offset.position);
  } else {
    bytes = part(data, offset, length as number | null | undefined);
    where = at(position);
  }
  const written = run(later, { syscall: 'write' }, (later) => file.write(bytes, where, later));
  return later ? (written as Promise<void>).then(() => bytes.length) : bytes.length;
}

/**
 * An open file, as `FileHandle` of `node:fs/promises`.
 *
 * What is written shows in the branch after {@link close}. One that is let go without it, or
 * {@link abort | aborted}, changes nothing.
 */
export class FileHandle extends EventEmitter {
  readonly #file: OpenFile;
  #fd?: number;
  #closed = false;

  /** @internal */
  constructor(file: OpenFile) {
    super();
    this.#file = file;
  }

  /** A number for the file, for the functions that take one. */
  get fd(): number {
    if (this.#closed) {
      return -1;
    }
    this.#fd ??= register(this.#file);
    return this.#fd;
  }

  /** Reads into a buffer, or into one that it makes. */
  read<T extends NodeJS.ArrayBufferView>(
    buffer: T,
    offset?: number | null | Where,
    length?: number | null,
    position?: Position,
  ): Promise<{ bytesRead: number; buffer: T }>;
  read<T extends NodeJS.ArrayBufferView>(
    options: Where & { buffer: T },
  ): Promise<{ bytesRead: number; buffer: T }>;
  read(options?: Where | null): Promise<{ bytesRead: number; buffer: Buffer }>;
  async read(
    first?: NodeJS.ArrayBufferView | (Where & { buffer?: NodeJS.ArrayBufferView }) | null,
    offset?: number | null | Where,
    length?: number | null,
    position?: Position,
  ): Promise<{ bytesRead: number; buffer: NodeJS.ArrayBufferView }> {
    if (ArrayBuffer.isView(first)) {
      const bytesRead = await read(this.#file, true, first, offset, length, position);
      return { bytesRead, buffer: first };
    }
    const buffer = first?.buffer ?? Buffer.alloc(16384);
    const bytesRead = await read(this.#file, true, buffer, first ?? {});
    return { bytesRead, buffer };
  }

  async write<T extends NodeJS.ArrayBufferView | string>(
    data: T,
    offset?: number | null | { offset?: number; length?: number; position?: Position },
    length?: number | string | null,
    position?: Position,
  ): Promise<{ bytesWritten: number; buffer: T }> {
    const bytesWritten = await write(this.#file, true, data, offset, length, position);
    return { bytesWritten, buffer: data };
  }

  async readv<T extends NodeJS.ArrayBufferView>(buffers: T[], position?: number | null) {
    let bytesRead = 0;
    for (const buffer of buffers) {
      const from = typeof position === 'number' ? position + bytesRead : null;
      const n = await read(this.#file, true, buffer, 0, buffer.byteLength, from);
      bytesRead += n;
      if (n < buffer.byteLength) {
        break;
      }
    }
    return { bytesRead, buffers };
  }

  async writev<T extends NodeJS.ArrayBufferView>(buffers: T[], position?: number | null) {
    let bytesWritten = 0;
    for (const buffer of buffers) {
      const to = typeof position === 'number' ? position + bytesWritten : null;
      bytesWritten += await write(this.#file, true, buffer, 0, buffer.byteLength, to);
    }
    return { bytesWritten, buffers };
  }

  /** Reads from the position to the end. */
  async readFile(options?: { encoding?: BufferEncoding | null; signal?: AbortSignal } | string) {
    const { encoding } = toOptions(options);
    const bytes = await drive(true, readAll(this.#file));
    return encoding ? bytes.toString(encoding as BufferEncoding) : bytes;
  }

  /** Writes at the position. */
  async writeFile(data: unknown, options?: { encoding?: BufferEncoding | null } | string) {
    const { encoding } = toOptions(options);
    const bytes = toBytes(data, encoding as BufferEncoding | undefined);
    await write(this.#file, true, bytes);
  }

  /** Writes at the position, which of a file opened for appending is its end. */
  async appendFile(data: unknown, options?: { encoding?: BufferEncoding | null } | string) {
    await this.writeFile(data, options);
  }

  async stat(options?: { bigint?: boolean }): Promise<Stats | BigIntStats> {
    return stats(await this.#file.stat(true), options?.bigint);
  }

  async truncate(size: number | null = 0): Promise<void> {
    const length = Math.max(size ?? 0, 0);
    await run(true, { syscall: 'ftruncate' }, () => this.#file.truncate(length, true));
  }

  /** Makes what was written survive a power cut, without committing it. */
  async sync(): Promise<void> {
    await run(true, { syscall: 'fsync' }, () => this.#file.sync(true));
  }

  /** As {@link sync}. */
  async datasync(): Promise<void> {
    await this.sync();
  }

  async chmod(mode: string | number): Promise<void> {
    const set = { mode: toMode(mode) };
    await run(true, { syscall: 'fchmod' }, () => this.#file.setAttributes(set, true));
  }

  async chown(uid: number, gid: number): Promise<void> {
    const set = owner(uid, gid);
    await run(true, { syscall: 'fchown' }, () => this.#file.setAttributes(set, true));
  }

  async utimes(_atime: TimeLike, mtime: TimeLike): Promise<void> {
    const set = { mtime: toTime(mtime, 'mtime') };
    await run(true, { syscall: 'futime' }, () => this.#file.setAttributes(set, true));
  }

  /** Commits what was written. */
  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    await run(true, { syscall: 'close' }, () => this.#file.close(true));
    this.#ended();
  }

  /** Closes the file and throws away what was written. */
  async abort(): Promise<void> {
    await run(true, { syscall: 'close' }, () => this.#file.abort(true));
    this.#ended();
  }

  #ended() {
    this.#closed = true;
    if (this.#fd !== undefined) {
      files.delete(this.#fd);
    }
    this.emit('close');
  }
}
