/** Arguments as `node:fs` takes them. */

import { constants, type PathLike, type TimeLike } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { types } from 'node:util';

import { aborted, failure, outOfRange, wrongType, wrongValue } from './errors.js';

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function toPath(path: PathLike, name = 'path'): string {
  let text: string;
  if (typeof path === 'string') {
    text = path;
  } else if (types.isUint8Array(path)) {
    try {
      text = utf8.decode(path);
    } catch {
      throw failure('EINVAL', 'InvalidPath', { syscall: 'open', path: path.toString() });
    }
  } else if (isUrl(path)) {
    text = fileURLToPath(path);
  } else {
    throw wrongType(name, 'of type string or an instance of Buffer or URL', path);
  }
  if (text.includes('\0')) {
    throw wrongValue(name, 'must be a string, Uint8Array, or URL without null bytes', path);
  }
  return wellFormed(text, name);
}

/** Tells URLs, also those of another context than this one's, as Node does. */
function isUrl(value: unknown): value is URL {
  const { href, protocol, auth, path } = (value ?? {}) as Record<string, unknown>;
  return Boolean(href && protocol) && auth === undefined && path === undefined;
}

/** Refuses halves of surrogate pairs, which no encoding keeps apart. */
function wellFormed(text: string, name: string): string {
  if (!text.isWellFormed()) {
    throw wrongValue(name, 'must be well-formed Unicode', text);
  }
  return text;
}

/** Takes a name or another text. */
export function toText(value: unknown, name: string): string {
  if (typeof value !== 'string') {
    throw wrongType(name, 'of type string', value);
  }
  return wellFormed(value, name);
}

/** Takes a list of texts. */
export function toTexts<T extends string>(values: T[], name: string): T[] {
  if (!Array.isArray(values)) {
    throw wrongType(name, 'an instance of Array', values);
  }
  return values.map((value) => toText(value, name) as T);
}

export const READ = 1;
export const WRITE = 2;
export const APPEND = 4;
export const CREATE = 8;
export const EXCLUSIVE = 16;
export const TRUNCATE = 32;

const FLAGS: Record<string, number> = {
  __proto__: null as never,
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
    integer(flags, 'flags', -(2 ** 31), 2 ** 31 - 1);
    const on = (flag: number) => (flags & flag) !== 0;
    const write = on(constants.O_WRONLY) || on(constants.O_RDWR);
    let bits = on(constants.O_WRONLY) ? 0 : READ;
    bits |= write ? (on(constants.O_APPEND) ? APPEND : WRITE) : 0;
    bits |= on(constants.O_CREAT) ? CREATE : 0;
    bits |= on(constants.O_EXCL) ? EXCLUSIVE : 0;
    bits |= on(constants.O_TRUNC) ? TRUNCATE : 0;
    return bits;
  }
  const name = flags ?? otherwise;
  const bits = typeof name === 'string' ? FLAGS[name] : undefined;
  if (bits === undefined) {
    throw wrongValue('flags', 'is invalid', flags);
  }
  return bits;
}

/** Tells whether flags of the native module only read. */
export function onlyReads(bits: number): boolean {
  return bits === READ;
}

/** Checks that a number is whole and lies in a range. */
export function integer(
  value: unknown,
  name: string,
  min = Number.MIN_SAFE_INTEGER,
  max = Number.MAX_SAFE_INTEGER,
): number {
  if (typeof value !== 'number') {
    throw wrongType(name, 'of type number', value);
  }
  if (!Number.isInteger(value)) {
    throw outOfRange(name, 'an integer', value);
  }
  if (value < min || value > max) {
    throw outOfRange(name, `>= ${min} && <= ${max}`, value);
  }
  return value;
}

/** Checks the bits that tell how to look or to copy. */
export function toBits(mode: unknown, otherwise: number): number {
  const bits = mode ?? otherwise;
  if (typeof bits !== 'number') {
    throw wrongType('mode', 'of type number', bits);
  }
  if (!Number.isInteger(bits) || bits < 0 || bits > 7) {
    const error = new RangeError('mode is out of range: >= 0 && <= 7');
    throw Object.assign(error, { code: 'ERR_OUT_OF_RANGE' });
  }
  return bits;
}

/** Turns a mode, which may be octal digits, into a number. */
export function toMode(mode: string | number | null | undefined): number | undefined {
  if (mode === null || mode === undefined) {
    return undefined;
  }
  return permissions(mode);
}

/** As {@link toMode}, of a mode that must be given. */
export function permissions(mode: unknown): number {
  if (typeof mode === 'string') {
    if (!/^[0-7]+$/.test(mode)) {
      throw wrongValue('mode', 'must be a 32-bit unsigned integer or an octal string', mode);
    }
    return Number.parseInt(mode, 8) & 0o7777;
  }
  return integer(mode, 'mode', 0, 2 ** 32 - 1) & 0o7777;
}

/** Turns a time into nanoseconds since 1970. */
export function toTime(time: TimeLike | bigint, name = 'time'): bigint {
  if (typeof time === 'bigint') {
    return time;
  }
  const text = typeof time === 'string' && time.trim() !== '';
  const number = typeof time === 'number' || text ? Number(time) : Number.NaN;
  const seconds = types.isDate(time) ? time.getTime() / 1000 : number;
  if (!Number.isFinite(seconds)) {
    throw wrongType(name, 'an instance of Date or an Time in seconds', time);
  }
  const whole = Math.floor(seconds);
  // To the microsecond, which is what a double of today's seconds holds.
  return BigInt(whole) * 1_000_000_000n + BigInt(Math.round((seconds - whole) * 1e6)) * 1000n;
}

/** Turns the length of a file into a number that is not negative. */
export function toLength(length: number | null | undefined): number {
  return Math.max(integer(length ?? 0, 'len'), 0);
}

/** Takes the bytes of a buffer, which must not have been handed to somebody else. */
export function toUint8Array(view: NodeJS.ArrayBufferView, name: string): Uint8Array {
  try {
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  } catch {
    throw wrongValue(name, 'must not be detached', view);
  }
}

/** Turns what is to be written into bytes. */
export function toBytes(
  data: unknown,
  encoding?: BufferEncoding | null,
  name = 'data',
): Uint8Array {
  if (typeof data === 'string') {
    return Buffer.from(data, encoding ?? 'utf8');
  }
  if (types.isUint8Array(data)) {
    return data;
  }
  if (ArrayBuffer.isView(data)) {
    return toUint8Array(data as NodeJS.ArrayBufferView, 'data');
  }
  throw wrongType(name, 'of type string or an instance of Buffer, TypedArray, or DataView', data);
}

interface Common {
  encoding?: BufferEncoding | 'buffer' | null;
  signal?: AbortSignal;
}

const NONE: Common = {};

/** Options that may be given as the encoding alone. */
export function toOptions<T extends object>(options: T | string | null | undefined): T & Common {
  if (options === null || options === undefined) {
    return NONE as T & Common;
  }
  if (typeof options !== 'object' && typeof options !== 'string') {
    throw wrongType('options', 'one of type string or object', options);
  }
  const object = typeof options === 'string' ? { encoding: options } : options;
  const { encoding, signal } = object as { encoding?: string; signal?: AbortSignal };
  if (encoding && encoding !== 'buffer' && !Buffer.isEncoding(encoding)) {
    throw wrongValue('encoding', 'is invalid encoding', encoding);
  }
  if (signal !== undefined && !(typeof signal === 'object' && 'aborted' in signal)) {
    throw wrongType('options.signal', 'an instance of AbortSignal', signal);
  }
  return object as T & Common;
}

/** Stops what is to be stopped. */
export function check(signal: AbortSignal | null | undefined): void {
  if (signal?.aborted) {
    throw aborted(signal);
  }
}

/** Makes of bytes what a caller asked for. */
export function decoded(bytes: Buffer, encoding?: string | null): Buffer | string {
  return encoding && encoding !== 'buffer' ? bytes.toString(encoding as BufferEncoding) : bytes;
}

/** Gives text in the encoding that was asked for. */
export function encoded(text: string, encoding?: string | null): string | Buffer {
  if (!encoding || encoding === 'utf8' || encoding === 'utf-8') {
    return text;
  }
  return decoded(Buffer.from(text), encoding);
}
