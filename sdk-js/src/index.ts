/**
 * A content-addressed, branch-aware filesystem that programs embed, in the shape of `node:fs`.
 *
 * @packageDocumentation
 */

export type { AlkError } from './errors.js';
export type { FileSystem, FileSystemPromises } from './fs.js';
export { FileHandle } from './handle.js';
export type { BranchInfo, Entry } from './native.js';
export { BigIntStats, Dirent, Stats } from './stats.js';
export {
  Branch,
  Bucket,
  memory,
  type OpenOptions,
  open,
  openSync,
  Store,
  View,
} from './store.js';
