/** Open files by their numbers, and what `node:fs` does with them. */

import type { TimeLike } from 'node:fs';

import {
  decoded,
  integer,
  permissions,
  toBytes,
  toLength,
  toOptions,
  toTime,
  toUint8Array,
} from './arguments.js';
import { drive, run, type Steps } from './calls.js';
import { failure, isClosed, outOfRange, wrongType } from './errors.js';
import type { OpenFile, Outcome } from './native.js';
import { owner, readAll, stats } from './operations.js';

/** Where in a file, in bytes; nothing for the position. */
export type Position = number | bigint | null | undefined;

/** Which part of a buffer, and where in the file. */
export interface Part {
  offset?: number | null | undefined;
  length?: number | null | undefined;
  position?: Position | undefined;
}

/** The files that have a number. Numbers are far from those of the operating system. */
const files = new Map<number, OpenFile | WeakRef<OpenFile>>();
const lost = new FinalizationRegistry<number>((fd) => files.delete(fd));
let last = 1 << 30;

/** Gives an open file a number. */
export function register(file: OpenFile): number {
  last += 1;
  files.set(last, file);
  return last;
}

/** Gives the file of a handle a number, which goes with the handle. */
export function registerWeakly(file: OpenFile): number {
  last += 1;
  files.set(last, new WeakRef(file));
  lost.register(file, last);
  return last;
}

/** Takes a number back. */
export function forget(fd: number): void {
  files.delete(fd);
}

/** Finds an open file by its number. */
export function lookUp(fd: number, syscall: string): OpenFile {
  const found = files.get(fd);
  const file = found instanceof WeakRef ? found.deref() : found;
  if (file === undefined) {
    integer(fd, 'fd', 0, 2 ** 31 - 1);
    throw failure('EBADF', 'BadHandle', { syscall });
  }
  return file;
}

/** Closes the file of a number and commits what was written. */
export function close(later: boolean, fd: number): Outcome<void> {
  const file = lookUp(fd, 'close');
  forget(fd);
  return run(later, { syscall: 'close' }, (later) => file.close(later));
}

function at(position: Position): number | undefined {
  if (position === null || position === undefined) {
    return undefined;
  }
  if (typeof position !== 'number' && typeof position !== 'bigint') {
    throw wrongType('position', 'of type bigint or integer', position);
  }
  const number = Number(position);
  if (!Number.isInteger(number)) {
    throw outOfRange('position', 'an integer', position);
  }
  if (number < -1 || number > Number.MAX_SAFE_INTEGER) {
    throw outOfRange('position', `>= -1 && <= ${Number.MAX_SAFE_INTEGER}`, position);
  }
  return number < 0 ? undefined : number;
}

/** Of a write, where what is no place is ignored, as Node does. */
function to(position: unknown): number | undefined {
  return typeof position === 'number' || typeof position === 'bigint'
    ? at(Number(position) < 0 ? null : position)
    : undefined;
}

function view(buffer: NodeJS.ArrayBufferView): Uint8Array {
  return toUint8Array(buffer, 'buffer');
}

/** Reads as `fs.read` does, with its forms of arguments. */
export function read(
  file: OpenFile,
  later: boolean,
  buffer: NodeJS.ArrayBufferView,
  offset?: number | null | Part,
  length?: number | null,
  position?: Position,
): Outcome<number> {
  if (!ArrayBuffer.isView(buffer)) {
    throw wrongType('buffer', 'an instance of Buffer, TypedArray, or DataView', buffer);
  }
  if (typeof offset === 'object' && offset !== null) {
    return read(file, later, buffer, offset.offset, offset.length, offset.position);
  }
  const bytes = view(buffer);
  const start = integer(offset ?? 0, 'offset', 0);
  const count = integer(length ?? bytes.length - start, 'length');
  if (count === 0) {
    return later ? Promise.resolve(0) : 0;
  }
  if (count < 0) {
    throw outOfRange('length', '>= 0', count);
  }
  if (count > bytes.length - start) {
    throw outOfRange('length', `<= ${bytes.length - start}`, count);
  }
  const part = bytes.subarray(start, start + count);
  const from = at(position);
  return run(later, { syscall: 'read' }, (later) => file.read(part, from, later));
}

/** Writes as `fs.write` does, with its three forms of arguments; returns how many bytes. */
export function write(
  file: OpenFile,
  later: boolean,
  data: NodeJS.ArrayBufferView | string,
  offset?: number | null | Part,
  length?: number | string | null,
  position?: Position,
): Outcome<number> {
  if (typeof data === 'string') {
    const { encoding } = toOptions(length as string | null | undefined);
    const bytes = Buffer.from(data, (encoding ?? 'utf8') as BufferEncoding);
    return put(file, later, bytes, to(offset));
  }
  if (!ArrayBuffer.isView(data)) {
    const expected = 'of type string or an instance of Buffer, TypedArray, or DataView';
    throw wrongType('buffer', expected, data);
  }
  if (typeof offset === 'object' && offset !== null) {
    return write(file, later, data, offset.offset, offset.length, offset.position);
  }
  const bytes = view(data);
  const start = integer(offset ?? 0, 'offset', 0);
  if (start > bytes.length) {
    throw outOfRange('offset', `<= ${bytes.length}`, start);
  }
  const count = integer(length ?? bytes.length - start, 'length');
  if (count > bytes.length - start) {
    throw outOfRange('length', `<= ${bytes.length - start}`, count);
  }
  if (count < 0) {
    throw outOfRange('length', '>= 0', count);
  }
  return put(file, later, bytes.subarray(start, start + count), to(position));
}

function put(file: OpenFile, later: boolean, bytes: Uint8Array, where?: number): Outcome<number> {
  const written = run(later, { syscall: 'write' }, (later) => file.write(bytes, where, later));
  return later ? (written as Promise<void>).then(() => bytes.length) : bytes.length;
}

function arrays(buffers: unknown): Uint8Array[] {
  if (!Array.isArray(buffers) || !buffers.every(ArrayBuffer.isView)) {
    throw wrongType('buffers', 'an ArrayBufferView[]', buffers);
  }
  return (buffers as NodeJS.ArrayBufferView[]).map(view);
}

/** Fills several buffers in one read. */
export function readv(
  file: OpenFile,
  later: boolean,
  buffers: readonly NodeJS.ArrayBufferView[],
  position?: number | null,
): Outcome<number> {
  const parts = arrays(buffers);
  const from = typeof position === 'number' ? at(position) : undefined;
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const whole = Buffer.allocUnsafe(length);
  const scatter = (n: number) => {
    let start = 0;
    for (const part of parts) {
      part.set(whole.subarray(start, Math.min(start + part.length, n)));
      start = Math.min(start + part.length, n);
    }
    return n;
  };
  const n = run(later, { syscall: 'read' }, (later) => file.read(whole, from, later));
  return later ? (n as Promise<number>).then(scatter) : scatter(n as number);
}

/** Writes several buffers in one write. */
export function writev(
  file: OpenFile,
  later: boolean,
  buffers: readonly NodeJS.ArrayBufferView[],
  position?: number | null,
): Outcome<number> {
  return put(file, later, Buffer.concat(arrays(buffers)), to(position));
}

/** Writes all at the position, as `writeFile` of a number does. */
export function writeAll(
  file: OpenFile,
  later: boolean,
  data: unknown,
  encoding?: string | null,
): Outcome<void> {
  const bytes = toBytes(data, encoding as BufferEncoding | null | undefined);
  return run(later, { syscall: 'write' }, (later) => file.write(bytes, undefined, later));
}

/** Reads from the position to the end, as `readFile` of a number does. */
export function readText(
  file: OpenFile,
  later: boolean,
  encoding?: string | null,
  signal?: AbortSignal | null,
) {
  const steps = function* (): Steps<Buffer | string> {
    return decoded(yield* readAll(file, signal), encoding);
  };
  return drive(later, steps());
}

export function fstat(file: OpenFile, later: boolean, options?: { bigint?: boolean } | null) {
  const numbers = run(later, { syscall: 'fstat' }, (later) => file.stat(later));
  return later
    ? (numbers as Promise<number[]>).then((numbers) => stats(numbers, options?.bigint))
    : stats(numbers as number[], options?.bigint);
}

export function ftruncate(file: OpenFile, later: boolean, size?: number | null) {
  const length = toLength(size);
  return run(later, { syscall: 'ftruncate' }, (later) => {
    try {
      const done = file.truncate(length, later);
      return later ? (done as Promise<void>).catch(unwritable) : done;
    } catch (error) {
      return unwritable(error);
    }
  });
}

/** Node has another code for a file that cannot be written. */
function unwritable(error: unknown): never {
  if (isClosed(error)) {
    throw failure('EINVAL', 'BadHandle', { syscall: 'ftruncate' });
  }
  throw error;
}

export function fsync(file: OpenFile, later: boolean) {
  return run(later, { syscall: 'fsync' }, (later) => file.sync(later));
}

export function fdatasync(file: OpenFile, later: boolean) {
  return run(later, { syscall: 'fdatasync' }, (later) => file.sync(later));
}

export function fchmod(file: OpenFile, later: boolean, mode: string | number) {
  const set = { mode: permissions(mode) };
  return run(later, { syscall: 'fchmod' }, (later) => file.setAttributes(set, later));
}

export function fchown(file: OpenFile, later: boolean, uid: number, gid: number) {
  const set = owner(uid, gid);
  return run(later, { syscall: 'fchown' }, (later) => file.setAttributes(set, later));
}

export function futimes(file: OpenFile, later: boolean, atime: TimeLike, mtime: TimeLike) {
  toTime(atime, 'atime');
  const set = { mtime: toTime(mtime, 'mtime') };
  return run(later, { syscall: 'futime' }, (later) => file.setAttributes(set, later));
}
