/** Arguments as `node:fs` takes them. */

import { constants, type PathLike, type TimeLike } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { aborted, failure, wrongType, wrongValue } from './errors.js';

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function toPath(path: PathLike, name = 'path'): string {
  let text: string;
  if (typeof path === 'string') {
    text = path;
  } else if (path instanceof Uint8Array) {
    try {
      text = utf8.decode(path);
    } catch {
      throw failure('EINVAL', 'InvalidPath', { syscall: 'open', path: path.toString() });
    }
  } else if (path instanceof URL) {
    text = fileURLToPath(path);
  } else {
    throw wrongType(name, 'of type string or an instance of Buffer or URL', path);
  }
  if (text.includes('\0')) {
    throw wrongValue(name, 'must be a string, Uint8Array, or URL without null bytes');
  }
  return text;
}

const READ = 1;
const WRITE = 2;
const APPEND = 4;
const CREATE = 8;
const EXCLUSIVE = 16;
const TRUNCATE = 32;

const FLAGS: Record<string, number> = {
  r: READ,
  rs: READ,
  sr: READ,
  'r+': READ | WRITE,
  'rs+': READ | WRITE,
  'sr+': READ | WRITE,
  w: WRITE | CREATE | TRUNCATE,
  wx: WRITE | CREATE | TRUNCATE | EXCLUSIVE,
  xw: WRITE | CREATE | TRUNCATE | EXCLUSIVE,
  'w+': READ | WRITE | CREATE | TRUNCATE,
  'wx+': READ | WRITE | CREATE | TRUNCATE | EXCLUSIVE,
  'xw+': READ | WRITE | CREATE | TRUNCATE | EXCLUSIVE,
  a: APPEND | CREATE,
  as: APPEND | CREATE,
  sa: APPEND | CREATE,
  ax: APPEND | CREATE | EXCLUSIVE,
  xa: APPEND | CREATE | EXCLUSIVE,
  'a+': READ | APPEND | CREATE,
  'as+': READ | APPEND | CREATE,
  'sa+': READ | APPEND | CREATE,
  'ax+': READ | APPEND | CREATE | EXCLUSIVE,
  'xa+': READ | APPEND | CREATE | EXCLUSIVE,
};

/** Turns flags of `open` into those of the native module. */
export function toFlags(flags: string | number | null | undefined, otherwise: string): number {
  if (typeof flags === 'number') {
    const on = (flag: number) => (flags & flag) !== 0;
    const write = on(constants.O_WRONLY) || on(constants.O_RDWR);
    let bits = on(constants.O_WRONLY) ? 0 : READ;
    bits |= write ? (on(constants.O_APPEND) ? APPEND : WRITE) : 0;
    bits |= on(constants.O_CREAT) ? CREATE : 0;
    bits |= on(constants.O_EXCL) ? EXCLUSIVE : 0;
    bits |= on(constants.O_TRUNC) ? TRUNCATE : 0;
    return bits;
  }
  const bits = FLAGS[flags ?? otherwise];
  if (bits === undefined) {
    throw wrongValue('flags', `is invalid. Received '${flags}'`);
  }
  return bits;
}

/** Turns a mode, which may be octal digits, into a number. */
export function toMode(mode: string | number | null | undefined): number | undefined {
  if (mode === null || mode === undefined) {
    return undefined;
  }
  const number = typeof mode === 'string' ? Number.parseInt(mode, 8) : mode;
  if (!Number.isInteger(number) || number < 0) {
    throw wrongValue('mode', `must be a 32-bit unsigned integer or an octal string`);
  }
  return number & 0o7777;
}

/** Turns a time into nanoseconds since 1970. */
export function toTime(time: TimeLike | bigint, name: string): bigint {
  if (typeof time === 'bigint') {
    return time;
  }
  const ms = time instanceof Date ? time.getTime() : Number(time) * 1000;
  if (!Number.isFinite(ms)) {
    throw wrongType(name, 'of type number, string or Date', time);
  }
  const seconds = Math.floor(ms / 1000);
  return BigInt(seconds) * 1_000_000_000n + BigInt(Math.round((ms - seconds * 1000) * 1e6));
}

/** Turns what is to be written into bytes. */
export function toBytes(data: unknown, encoding?: BufferEncoding | null): Uint8Array {
  if (typeof data === 'string') {
    return Buffer.from(data, encoding ?? 'utf8');
  }
  if (data instanceof Uint8Array) {
    return data;
  }
  if (ArrayBuffer.isView(data)) {
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
  throw wrongType('data', 'of type string or an instance of Buffer, TypedArray, or DataView', data);
}

/** Options that may be given as the encoding alone. */
export function toOptions<T extends object>(
  options: T | string | null | undefined,
): T & { encoding?: BufferEncoding | 'buffer' | null; signal?: AbortSignal } {
  const object = typeof options === 'string' ? { encoding: options } : (options ?? {});
  const { encoding, signal } = object as { encoding?: string; signal?: AbortSignal };
  if (encoding && encoding !== 'buffer' && !Buffer.isEncoding(encoding)) {
    throw wrongValue('encoding', `is invalid encoding. Received '${encoding}'`);
  }
  if (signal?.aborted) {
    throw aborted(signal);
  }
  return object as T & { encoding?: BufferEncoding; signal?: AbortSignal };
}

/** Gives text in the encoding that was asked for. */
export function encoded(text: string, encoding?: string | null): string | Buffer {
  if (!encoding || encoding === 'utf8' || encoding === 'utf-8') {
    return text;
  }
  const bytes = Buffer.from(text);
  return encoding === 'buffer' ? bytes : bytes.toString(encoding as BufferEncoding);
}
