/** Write sessions. */

import { WritableStream } from 'node:stream/web';
import { inspect } from 'node:util';

import { toBytes, toText } from './arguments.js';
import { type Attributes, toAttributes, toObject } from './attributes.js';
import type { Data } from './batch.js';
import { later, now } from './calls.js';
import type { Closed, SessionOptions as NativeOptions, SessionHandle } from './native.js';
import { type Unsaved, unsaved } from './unsaved.js';

/** How to open a write session. */
export interface SessionOptions {
  /** Whether the file may be new; otherwise `true`. */
  create?: boolean;
  /** Whether the file must be new, when it is opened and when it is closed. */
  createNew?: boolean;
  /** Whether to start from an empty file. */
  truncate?: boolean;
  /**
   * Whether to take the path's lock: whoever else wants it meanwhile gets an error of kind `Locked`
   * that names the owner. Without it, the last close wins.
   */
  exclusive?: boolean;
  /** Who is named as the owner; otherwise the store's author. */
  owner?: string;
  /** The permission bits of a file that is new; otherwise `0o644`. */
  mode?: number;
}

/** @internal */
export function toSessionOptions(options: SessionOptions | undefined): NativeOptions {
  const { create, createNew, truncate, exclusive, owner, mode } = toObject(options);
  return {
    ...(create === undefined ? {} : { create }),
    ...(createNew === undefined ? {} : { createNew }),
    ...(truncate === undefined ? {} : { truncate }),
    ...(exclusive === undefined ? {} : { exclusive }),
    ...(owner === undefined ? {} : { owner: toText(owner, 'owner') }),
    ...(mode === undefined ? {} : { mode }),
  };
}

/**
 * A file open for writing, anywhere and in any order.
 *
 * Readers of the branch see the old version until {@link close} has committed the new one. A
 * session that is let go without it, or left by an exception, is aborted; one whose process dies
 * stays in the store, and can be resumed.
 */
export class Session {
  readonly #native: SessionHandle;
  /** The number by which the session is found after a crash. */
  readonly id: number;
  /** The path that will be written, links resolved. */
  readonly path: string;
  readonly #unsaved: Unsaved;
  #open = true;

  /** @internal */
  constructor(handle: SessionHandle) {
    this.#native = handle;
    this.id = now(() => handle.id());
    this.path = now(() => handle.path());
    this.#unsaved = unsaved(this, `A write session of ${inspect(this.path)}`);
  }

  /** The size that the file has in this session, in bytes. */
  get size(): number {
    return now(() => this.#native.size());
  }

  /** Reads up to `length` bytes from an offset, what this session wrote included. */
  async read(offset: number, length: number): Promise<Buffer> {
    return later((later) => this.#native.read(offset, length, later));
  }

  /** As {@link read}, on the calling thread. */
  readSync(offset: number, length: number): Buffer {
    return now((later) => this.#native.read(offset, length, later));
  }

  /** Fills a buffer from an offset; returns how many bytes that were. */
  async readInto(buffer: Uint8Array, offset: number): Promise<number> {
    return later((later) => this.#native.readInto(buffer, offset, later));
  }

  /** As {@link readInto}, on the calling thread. */
  readIntoSync(buffer: Uint8Array, offset: number): number {
    return now((later) => this.#native.readInto(buffer, offset, later));
  }

  /**
   * Writes at an offset. A gap before it reads as zeros; where writes overlap, the later one wins.
   * What was written survives a crash of the process.
   */
  async write(data: Data, offset: number): Promise<void> {
    const bytes = toBytes(data);
    this.#unsaved.written = true;
    await later((later) => this.#native.write(bytes, offset, later));
  }

  /** As {@link write}, on the calling thread. */
  writeSync(data: Data, offset: number): void {
    const bytes = toBytes(data);
    this.#unsaved.written = true;
    now((later) => this.#native.write(bytes, offset, later));
  }

  /** Writes at the end; returns where that was. */
  async append(data: Data): Promise<number> {
    const bytes = toBytes(data);
    this.#unsaved.written = true;
    return later((later) => this.#native.append(bytes, later));
  }

  /** As {@link append}, on the calling thread. */
  appendSync(data: Data): number {
    const bytes = toBytes(data);
    this.#unsaved.written = true;
    return now((later) => this.#native.append(bytes, later));
  }

  /** Cuts the file, or extends it with zeros. */
  async truncate(size: number): Promise<void> {
    await later((later) => this.#native.truncate(size, later));
  }

  /** As {@link truncate}, on the calling thread. */
  truncateSync(size: number): void {
    now((later) => this.#native.truncate(size, later));
  }

  /** Makes what was written so far survive a power cut too, without committing it. */
  async sync(): Promise<void> {
    await later((later) => this.#native.sync(later));
  }

  /** As {@link sync}, on the calling thread. */
  syncSync(): void {
    now((later) => this.#native.sync(later));
  }

  /**
   * Commits what was written, in one commit with attributes. Where that fails, the session stays
   * open with all that was written.
   */
  async close(attributes?: Attributes): Promise<Closed> {
    const set = toAttributes(attributes);
    const closed = await later((later) => this.#native.close(set, later));
    this.#ended();
    return closed;
  }

  /** As {@link close}, on the calling thread. */
  closeSync(attributes?: Attributes): Closed {
    const set = toAttributes(attributes);
    const closed = now((later) => this.#native.close(set, later));
    this.#ended();
    return closed;
  }

  /** Throws away what was written. */
  async abort(): Promise<void> {
    await later((later) => this.#native.abort(later));
    this.#ended();
  }

  /** As {@link abort}, on the calling thread. */
  abortSync(): void {
    now((later) => this.#native.abort(later));
    this.#ended();
  }

  /**
   * Leaves the session open in the store, for this or another process to resume by the number that
   * it returns.
   */
  async detach(): Promise<number> {
    const id = await later((later) => this.#native.detach(later));
    this.#ended();
    return id;
  }

  /** As {@link detach}, on the calling thread. */
  detachSync(): number {
    const id = now((later) => this.#native.detach(later));
    this.#ended();
    return id;
  }

  #ended() {
    this.#open = false;
    this.#unsaved.written = false;
  }

  /** A stream that appends to the file. Closing it commits, aborting it throws away. */
  writable(): WritableStream<Data> {
    return new WritableStream({
      write: async (chunk) => {
        try {
          await this.append(chunk);
        } catch (error) {
          // The stream does not call `abort` for what it was told itself.
          await this.abort().catch(() => {});
          throw error;
        }
      },
      close: async () => {
        await this.close();
      },
      abort: () => this.abort(),
    });
  }

  /** Aborts a session that was neither closed nor detached. */
  [Symbol.dispose](): void {
    if (this.#open) {
      this.abortSync();
    }
  }

  /** Aborts a session that was neither closed nor detached. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#open) {
      await this.abort();
    }
  }
}
