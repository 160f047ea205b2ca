/** Many changes, one commit. */

import type { PathLike } from 'node:fs';

import { toBytes, toPath, toText } from './arguments.js';
import { type Attributes, toAttributes, toObject } from './attributes.js';
import { later, now } from './calls.js';
import type { BatchHandle, Outcome } from './native.js';
import { type Unsaved, unsaved } from './unsaved.js';

/** How to put a file. */
export interface PutOptions extends Attributes {
  /** Whether the file may be new; otherwise `true`. */
  create?: boolean;
  /** Whether the file may exist; otherwise `true`. */
  replace?: boolean;
}

/** What is written: text, as UTF-8, or bytes. */
export type Data = string | NodeJS.ArrayBufferView;

/** Contents up to this size are staged on the calling thread: that takes less than to wait. */
const SMALL = 64 * 1024;

/**
 * Changes of a branch that are committed together: all of them become visible at once, or none
 * does. A batch that is let go, or left by an exception, changes nothing.
 *
 * Changes are collected in the order of the calls. Only what is wrong with a path or with staging
 * the bytes shows at once; all else comes with the {@link commit}.
 */
export class Batch {
  readonly #native: BatchHandle;
  readonly #unsaved: Unsaved;
  /** The call before, if it is still at work. */
  #before: Promise<unknown> | undefined;

  /** @internal */
  constructor(handle: BatchHandle) {
    this.#native = handle;
    this.#unsaved = unsaved(this, 'A batch');
  }

  /** The number of changes collected so far. */
  get length(): number {
    return now(() => this.#native.len());
  }

  /** The number of content bytes collected so far. */
  get contentBytes(): number {
    return now(() => this.#native.contentBytes());
  }

  /** Writes a whole file, creating or replacing it. */
  write(path: PathLike, data: Data): Promise<void> {
    return this.put(path, data);
  }

  /** As {@link write}, on the calling thread. */
  writeSync(path: PathLike, data: Data): void {
    this.putSync(path, data);
  }

  /** Writes a whole file with attributes. */
  async put(path: PathLike, data: Data, options?: PutOptions): Promise<void> {
    const given = toBytes(data);
    // What waits for its turn must not change meanwhile.
    const bytes = this.#before === undefined ? given : given.slice();
    await this.#collect(this.#putting(path, bytes, options), bytes.length > SMALL);
  }

  /** As {@link put}, on the calling thread. */
  putSync(path: PathLike, data: Data, options?: PutOptions): void {
    this.#collectNow(this.#putting(path, toBytes(data), options));
  }

  #putting(path: PathLike, bytes: Uint8Array, options?: PutOptions) {
    const name = toPath(path);
    const { create = true, replace = true } = toObject(options);
    const set = toAttributes(options);
    return (later: boolean) => this.#native.put(name, bytes, set, create, replace, later);
  }

  /** Makes a directory; with `recursive`, those above it that are missing too. */
  async mkdir(path: PathLike, options?: Attributes & { recursive?: boolean }): Promise<void> {
    await this.#collect(this.#making(path, options));
  }

  /** As {@link mkdir}, on the calling thread. */
  mkdirSync(path: PathLike, options?: Attributes & { recursive?: boolean }): void {
    this.#collectNow(this.#making(path, options));
  }

  #making(path: PathLike, options?: Attributes & { recursive?: boolean }) {
    const name = toPath(path);
    const set = toAttributes(options);
    const recursive = toObject(options).recursive;
    return (later: boolean) =>
      recursive ? this.#native.mkdirAll(name, set, later) : this.#native.mkdir(name, set, later);
  }

  /** Makes a symbolic link at a path. */
  async symlink(target: string, path: PathLike, attributes?: Attributes): Promise<void> {
    await this.#collect(this.#linking(target, path, attributes));
  }

  /** As {@link symlink}, on the calling thread. */
  symlinkSync(target: string, path: PathLike, attributes?: Attributes): void {
    this.#collectNow(this.#linking(target, path, attributes));
  }

  #linking(target: string, path: PathLike, attributes?: Attributes) {
    const text = toText(target, 'target');
    const name = toPath(path);
    const set = toAttributes(attributes);
    return (later: boolean) => this.#native.symlink(text, name, set, later);
  }

  /** Removes a file or a link. */
  async unlink(path: PathLike): Promise<void> {
    const name = toPath(path);
    await this.#collect((later) => this.#native.remove(name, later));
  }

  /** As {@link unlink}, on the calling thread. */
  unlinkSync(path: PathLike): void {
    const name = toPath(path);
    this.#collectNow((later) => this.#native.remove(name, later));
  }

  /** Removes an empty directory. */
  async rmdir(path: PathLike): Promise<void> {
    const name = toPath(path);
    await this.#collect((later) => this.#native.removeDir(name, later));
  }

  /** As {@link rmdir}, on the calling thread. */
  rmdirSync(path: PathLike): void {
    const name = toPath(path);
    this.#collectNow((later) => this.#native.removeDir(name, later));
  }

  /** Removes whatever is at a path, a directory with all below it. */
  async removeAll(path: PathLike): Promise<void> {
    const name = toPath(path);
    await this.#collect((later) => this.#native.removeAll(name, later));
  }

  /** As {@link removeAll}, on the calling thread. */
  removeAllSync(path: PathLike): void {
    const name = toPath(path);
    this.#collectNow((later) => this.#native.removeAll(name, later));
  }

  /** Renames a file, link or directory, replacing what was there. */
  async rename(from: PathLike, to: PathLike): Promise<void> {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    await this.#collect((later) => this.#native.rename(source, target, later));
  }

  /** As {@link rename}, on the calling thread. */
  renameSync(from: PathLike, to: PathLike): void {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    this.#collectNow((later) => this.#native.rename(source, target, later));
  }

  /** Copies a file, link or directory with all below it, replacing an existing file. */
  async copy(from: PathLike, to: PathLike): Promise<void> {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    await this.#collect((later) => this.#native.copy(source, target, later));
  }

  /** As {@link copy}, on the calling thread. */
  copySync(from: PathLike, to: PathLike): void {
    const [source, target] = [toPath(from, 'from'), toPath(to, 'to')];
    this.#collectNow((later) => this.#native.copy(source, target, later));
  }

  /** Changes attributes; links at the end of the path are followed unless said otherwise. */
  async setAttributes(
    path: PathLike,
    attributes: Attributes,
    options?: { follow?: boolean },
  ): Promise<void> {
    await this.#collect(this.#setting(path, attributes, options));
  }

  /** As {@link setAttributes}, on the calling thread. */
  setAttributesSync(path: PathLike, attributes: Attributes, options?: { follow?: boolean }): void {
    this.#collectNow(this.#setting(path, attributes, options));
  }

  #setting(path: PathLike, attributes: Attributes, options?: { follow?: boolean }) {
    const name = toPath(path);
    const set = toAttributes(attributes);
    const follow = toObject(options).follow !== false;
    return (later: boolean) => this.#native.setAttributes(name, set, follow, later);
  }

  /**
   * Commits all changes in the order of the calls. Where one fails, nothing is changed. The batch
   * is over then, either way.
   */
  async commit(): Promise<void> {
    await this.#settled();
    this.#unsaved.written = false;
    await later((later) => this.#native.commit(later));
  }

  /** As {@link commit}, on the calling thread. */
  commitSync(): void {
    this.#checkIdle();
    this.#unsaved.written = false;
    now((later) => this.#native.commit(later));
  }

  /** Drops all changes. Does nothing to a batch that is over. */
  async abort(): Promise<void> {
    await this.#settled();
    this.abortSync();
  }

  /** As {@link abort}, at once. */
  abortSync(): void {
    this.#unsaved.written = false;
    now(() => this.#native.abort());
  }

  /** Drops the changes of a batch that was not committed. */
  [Symbol.dispose](): void {
    this.abortSync();
  }

  /** Drops the changes of a batch that was not committed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  /** Collects a change after those that were called for before. */
  async #collect(change: (later: boolean) => Outcome<void>, long = false): Promise<void> {
    this.#unsaved.written = true;
    if (this.#before === undefined && !long) {
      now(change);
      return;
    }
    const begin = async () => (long ? later(change) : now(change));
    const work = this.#before === undefined ? begin() : this.#before.then(begin, begin);
    this.#before = work;
    try {
      await work;
    } finally {
      if (this.#before === work) {
        this.#before = undefined;
      }
    }
  }

  #checkIdle() {
    if (this.#before !== undefined) {
      throw Object.assign(new Error('The batch is still collecting: await the calls before'), {
        code: 'ERR_INVALID_STATE',
      });
    }
  }

  #collectNow(change: (later: boolean) => Outcome<void>): void {
    this.#checkIdle();
    this.#unsaved.written = true;
    now(change);
  }

  async #settled(): Promise<void> {
    while (this.#before !== undefined) {
      await this.#before.catch(() => {});
    }
  }
}
