/** Attributes of entries as the store's own operations take them. */

import { types } from 'node:util';

import { toTime } from './arguments.js';
import { wrongType } from './errors.js';
import type { Attributes as NativeAttributes } from './native.js';

/** Attributes to set; what is absent stays, or gets its default in a new entry. */
export interface Attributes {
  /** The permission bits, at most `0o7777`. */
  mode?: number;
  uid?: number;
  gid?: number;
  /** The time of modification: a Date, or nanoseconds since 1970. */
  mtime?: Date | bigint;
}

/** Takes options, which must be an object or absent. */
export function toObject<T extends object>(options: T | undefined, name = 'options'): Partial<T> {
  if (options === undefined || options === null) {
    return {};
  }
  if (typeof options !== 'object') {
    throw wrongType(name, 'of type object', options);
  }
  return options;
}

/** Takes options as Node does, for which null is none and a list neither. */
export function checkObject<T extends object>(options: T | undefined, name: string): Partial<T> {
  if (options === null || Array.isArray(options) || ArrayBuffer.isView(options)) {
    throw wrongType(name, 'of type object', options);
  }
  return toObject(options, name);
}

/** Takes a signal, which must be one or absent. */
export function toSignal(signal: unknown): AbortSignal | undefined {
  if (signal !== undefined && !isSignal(signal)) {
    throw wrongType('options.signal', 'an instance of AbortSignal', signal);
  }
  return signal;
}

/** Tells signals, also those of another context than this one's. */
function isSignal(value: unknown): value is AbortSignal {
  return (
    typeof value === 'object' &&
    value !== null &&
    'aborted' in value &&
    'addEventListener' in value &&
    typeof value.addEventListener === 'function'
  );
}

/** Checks that something can be called. */
export function toFunction(value: unknown, name: string): void {
  if (typeof value !== 'function') {
    throw wrongType(name, 'of type function', value);
  }
}

export function toAttributes(attributes: Attributes | undefined): NativeAttributes {
  const { mode, uid, gid, mtime } = toObject(attributes, 'attributes');
  if (mtime !== undefined && typeof mtime !== 'bigint' && !types.isDate(mtime)) {
    throw wrongType('mtime', 'of type bigint or an instance of Date', mtime);
  }
  return {
    ...(mode === undefined ? {} : { mode }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
    ...(mtime === undefined ? {} : { mtime: toTime(mtime, 'mtime') }),
  };
}
