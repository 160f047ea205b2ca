/** Attributes of entries as the store's own operations take them. */

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

export function toAttributes(attributes: Attributes | undefined): NativeAttributes {
  const { mode, uid, gid, mtime } = toObject(attributes, 'attributes');
  if (mtime !== undefined && typeof mtime !== 'bigint' && !(mtime instanceof Date)) {
    throw wrongType('mtime', 'of type bigint or an instance of Date', mtime);
  }
  return {
    ...(mode === undefined ? {} : { mode }),
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
    ...(mtime === undefined ? {} : { mtime: toTime(mtime, 'mtime') }),
  };
}
