/**
 * A content-addressed, branch-aware filesystem that programs embed, in the shape of `node:fs`.
 *
 * @packageDocumentation
 */

export type { Attributes } from './attributes.js';
export { Batch, type Data, type PutOptions } from './batch.js';
export type { Part, Position } from './descriptors.js';
export { Dir } from './dir.js';
export type { AlkError } from './errors.js';
export type { FileSystem, FileSystemPromises } from './fs.js';
export type {
  FileChange,
  FileWatchOptions,
  FSWatcher,
  StatListener,
  StatWatcher,
  StatWatchOptions,
  WatchListener,
} from './fswatch.js';
export type { GlobOptions } from './glob.js';
export { FileHandle } from './handle.js';
export type {
  Access,
  Behind,
  BranchInfo,
  Closed,
  Conflict,
  ConflictSide,
  ContentSettings,
  Difference,
  Entry,
  EventFilter,
  EventPeer,
  EvictReport,
  ExportReport,
  FetchReport,
  FsckReport,
  GcReport,
  GcSchedule,
  GrantInfo,
  ImportReport,
  JoinInfo,
  MemberInfo,
  NameConflict,
  NamedEntry,
  PathEntry,
  PeerInfo,
  PeerStatus,
  Problem,
  Progress,
  SessionInfo,
  Sharing,
  SnapshotInfo,
  StoreEvent,
  StoreStats,
  SyncStatus,
  TreeSharing,
  Unsent,
} from './native.js';
export {
  type JoinOptions,
  Node,
  type NodeOptions,
  type ShareOptions,
  type WaitOptions,
} from './node.js';
export { Reader } from './reader.js';
export { Session, type SessionOptions } from './session.js';
export { BigIntStats, Dirent, Stats } from './stats.js';
export {
  Branch,
  Bucket,
  type ExportOptions,
  type FileOptions,
  type GcOptions,
  type ImportOptions,
  type LogOptions,
  memory,
  type OpenOptions,
  open,
  openSync,
  ReadableTree,
  Store,
  type TreeName,
  View,
} from './store.js';
export type { ReadStreamOptions, WriteStreamOptions } from './streams.js';
export type { TaskOptions } from './task.js';
export { Watcher, type WatchOptions } from './watch.js';
