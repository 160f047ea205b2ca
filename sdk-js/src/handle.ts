/** `FileHandle`, as of `node:fs/promises`. */

import { EventEmitter } from 'node:events';
import type { ReadStream, TimeLike, WriteStream } from 'node:fs';
import { createInterface, type Interface } from 'node:readline';
import { ReadableStream } from 'node:stream/web';

import { check, toOptions } from './arguments.js';
import { type Attributes, toAttributes } from './attributes.js';
import { later, now, run } from './calls.js';
import * as descriptors from './descriptors.js';
import { forget, type Part, type Position, registerWeakly } from './descriptors.js';
import type { Closed, Entry, OpenFile } from './native.js';
import type { BigIntStats, Stats } from './stats.js';
import {
  type ReadStreamOptions,
  readHandle,
  type WriteStreamOptions,
  writeHandle,
} from './streams.js';
import { type Unsaved, unsaved } from './unsaved.js';

type Text =
  | { encoding?: BufferEncoding | null | undefined; signal?: AbortSignal | undefined }
  | BufferEncoding
  | null;

/** What changes a file when it is closed. */
const CHANGING = new Set(['write', 'ftruncate']);

/**
 * An open file, as `FileHandle` of `node:fs/promises`.
 *
 * What is written shows in the branch after {@link close}. One that is let go without it, or
 * {@link abort | aborted}, or left by `await using`, changes nothing.
 */
export class FileHandle extends EventEmitter implements AsyncDisposable {
  readonly #file: OpenFile;
  readonly #unsaved: Unsaved;
  #fd?: number;
  #closing?: Promise<void>;
  /** Operations that are on their way; the file closes after them. */
  readonly #busy = new Set<Promise<unknown>>();
  /** Ends those that would wait for more to write. */
  readonly #abandoned = new AbortController();

  /** @internal */
  constructor(file: OpenFile) {
    super();
    this.#file = file;
    this.#unsaved = unsaved(this, 'A FileHandle');
  }

  /** A number for the file, for the functions that take one; -1 when it is closed. */
  get fd(): number {
    if (this.#closing) {
      return -1;
    }
    this.#fd ??= registerWeakly(this.#file);
    return this.#fd;
  }

  async #use<T>(syscall: string, operation: (file: OpenFile) => T | Promise<T>): Promise<T> {
    if (this.#closing) {
      throw Object.assign(new Error('file closed'), { code: 'EBADF', syscall });
    }
    if (CHANGING.has(syscall)) {
      this.#unsaved.written = true;
    }
    const busy = Promise.resolve(operation(this.#file));
    this.#busy.add(busy);
    try {
      return await busy;
    } finally {
      this.#busy.delete(busy);
    }
  }

  /** Reads into a buffer, or into one that it makes. */
  read<T extends NodeJS.ArrayBufferView>(
    buffer: T,
    offset?: number | null | Part,
    length?: number | null,
    position?: Position,
  ): Promise<{ bytesRead: number; buffer: T }>;
  read<T extends NodeJS.ArrayBufferView>(
    options: Part & { buffer: T },
  ): Promise<{ bytesRead: number; buffer: T }>;
  read(options?: Part | null): Promise<{ bytesRead: number; buffer: Buffer }>;
  async read(
    first?: NodeJS.ArrayBufferView | (Part & { buffer?: NodeJS.ArrayBufferView }) | null,
    offset?: number | null | Part,
    length?: number | null,
    position?: Position,
  ): Promise<{ bytesRead: number; buffer: NodeJS.ArrayBufferView }> {
    return this.#use('read', async (file) => {
      if (ArrayBuffer.isView(first)) {
        const bytesRead = await descriptors.read(file, true, first, offset, length, position);
        return { bytesRead, buffer: first };
      }
      const buffer = first?.buffer ?? Buffer.alloc(16384);
      const bytesRead = await descriptors.read(file, true, buffer, first ?? {});
      return { bytesRead, buffer };
    });
  }

  /** Fills several buffers in one read. Node's types say that their list can be changed. */
  async readv<T extends readonly NodeJS.ArrayBufferView[]>(
    buffers: T,
    position?: number | null,
  ): Promise<{ bytesRead: number; buffers: T & NodeJS.ArrayBufferView[] }> {
    return this.#use('read', async (file) => {
      const bytesRead = await descriptors.readv(file, true, buffers, position);
      return { bytesRead, buffers: buffers as T & NodeJS.ArrayBufferView[] };
    });
  }

  /** Reads from the position to the end. */
  readFile(
    options?: { encoding?: null | undefined; signal?: AbortSignal | undefined } | null,
  ): Promise<Buffer<ArrayBuffer>>;
  readFile(
    options: { encoding: BufferEncoding; signal?: AbortSignal | undefined } | BufferEncoding,
  ): Promise<string>;
  async readFile(options?: Text): Promise<string | Buffer> {
    const { encoding, signal } = toOptions(options);
    return this.#use('read', async (file) => {
      check(signal);
      const read = await descriptors.readText(file, true, encoding, signal);
      check(signal);
      return read;
    });
  }

  /** Reads line by line. */
  readLines(options?: ReadStreamOptions): Interface {
    return createInterface({ input: this.createReadStream(options), crlfDelay: Infinity });
  }

  /** A stream of the bytes from the position on. It leaves the file open. */
  readableWebStream(): ReadableStream<Uint8Array> {
    const read = (buffer: Uint8Array) =>
      this.#use('read', (file) => descriptors.read(file, true, buffer));
    return new ReadableStream({
      type: 'bytes',
      autoAllocateChunkSize: 64 * 1024,
      async pull(controller) {
        const request = controller.byobRequest as unknown as {
          view: Uint8Array;
          respond(n: number): void;
        };
        const n = await read(request.view);
        if (n === 0) {
          controller.close();
        }
        request.respond(n);
      },
    });
  }

  /** A stream that reads; it closes the file unless `autoClose` is false. */
  createReadStream(options?: ReadStreamOptions): ReadStream {
    return readHandle(this, this.#file, options);
  }

  /** A stream that writes; its end closes the file, and an error leaves nothing of it. */
  createWriteStream(options?: WriteStreamOptions): WriteStream {
    this.#unsaved.written = true;
    return writeHandle(this, this.#file, options);
  }

  async write<T extends NodeJS.ArrayBufferView | string>(
    data: T,
    offset?: number | null | Part,
    length?: number | string | null,
    position?: Position,
  ): Promise<{ bytesWritten: number; buffer: T }> {
    return this.#use('write', async (file) => {
      const bytesWritten = await descriptors.write(file, true, data, offset, length, position);
      return { bytesWritten, buffer: data };
    });
  }

  /** Writes several buffers in one write. */
  async writev<T extends readonly NodeJS.ArrayBufferView[]>(
    buffers: T,
    position?: number | null,
  ): Promise<{ bytesWritten: number; buffers: T & NodeJS.ArrayBufferView[] }> {
    return this.#use('write', async (file) => {
      const bytesWritten = await descriptors.writev(file, true, buffers, position);
      return { bytesWritten, buffers: buffers as T & NodeJS.ArrayBufferView[] };
    });
  }

  /** Writes at the position: bytes, text, or what an iterable or a stream gives. */
  async writeFile(data: unknown, options?: Text): Promise<void> {
    const { encoding, signal } = toOptions(options);
    await this.#use('write', async (file) => {
      if (!isIterable(data)) {
        check(signal);
        await descriptors.writeAll(file, true, data, encoding);
        return;
      }
      const ends = [signal, this.#abandoned.signal].filter((end) => end != null);
      for await (const chunk of untilAborted(data, ends)) {
        await descriptors.writeAll(file, true, chunk, encoding);
      }
    });
  }

  /** Writes at the position, which of a file opened for appending is its end. */
  async appendFile(data: unknown, options?: Text): Promise<void> {
    await this.writeFile(data, options);
  }

  stat(options?: { bigint?: false | undefined } | null): Promise<Stats>;
  stat(options: { bigint: true }): Promise<BigIntStats>;
  async stat(options?: { bigint?: boolean | undefined } | null): Promise<Stats | BigIntStats> {
    return this.#use('fstat', (file) => descriptors.fstat(file, true, options));
  }

  async truncate(size?: number | null): Promise<void> {
    await this.#use('ftruncate', (file) => descriptors.ftruncate(file, true, size));
  }

  /** Makes what was written survive a power cut, without committing it. */
  async sync(): Promise<void> {
    await this.#use('fsync', (file) => descriptors.fsync(file, true));
  }

  /** As {@link sync}. */
  async datasync(): Promise<void> {
    await this.#use('fdatasync', (file) => descriptors.fdatasync(file, true));
  }

  async chmod(mode: string | number): Promise<void> {
    await this.#use('fchmod', (file) => descriptors.fchmod(file, true, mode));
  }

  async chown(uid: number, gid: number): Promise<void> {
    await this.#use('fchown', (file) => descriptors.fchown(file, true, uid, gid));
  }

  async utimes(atime: TimeLike, mtime: TimeLike): Promise<void> {
    await this.#use('futime', (file) => descriptors.futimes(file, true, atime, mtime));
  }

  /** Where the next read or write without a position goes on; Node's own handles do not tell. */
  get position(): number {
    return now(() => this.#file.position());
  }

  set position(position: number) {
    now(() => this.#file.seek(position));
  }

  /** All that the store knows of the file; with what was written and set since it was opened. */
  async entry(): Promise<Entry> {
    return this.#use('fstat', (file) => later((later) => file.entry(later)));
  }

  /** Changes attributes: with the close of a file that is being written, otherwise at once. */
  async setAttributes(attributes: Attributes): Promise<void> {
    const set = toAttributes(attributes);
    await this.#use('fchmod', (file) => later((later) => file.setAttributes(set, later)));
  }

  /** As {@link close}, and tells what that committed: nothing where the file was only read. */
  async commit(): Promise<Closed | undefined> {
    let closed: Closed | null = null;
    this.#closing ??= this.#end(async (file) => {
      closed = await file.commit(true);
    });
    await this.#closing;
    return closed ?? undefined;
  }

  /**
   * Commits what was written, after the operations that are on their way. Where that fails, the
   * file stays open with all that was written, and can be closed again or aborted.
   */
  close(): Promise<void> {
    this.#closing ??= this.#end((file) => file.close(true));
    return this.#closing;
  }

  /**
   * Closes the file and throws away what was written. A {@link writeFile} that waits for more to
   * write fails with an `AbortError`.
   */
  abort(): Promise<void> {
    if (!this.#closing) {
      this.#abandoned.abort();
    }
    this.#closing ??= this.#end((file) => file.abort(true));
    return this.#closing;
  }

  async #end(end: (file: OpenFile) => void | Promise<void>): Promise<void> {
    await Promise.allSettled(this.#busy);
    try {
      await run(true, { syscall: 'close' }, () => end(this.#file));
    } catch (error) {
      // The file is still open, with all that was written: it can be closed again.
      this.#closing = undefined;
      throw error;
    }
    this.#unsaved.written = false;
    if (this.#fd !== undefined) {
      forget(this.#fd);
    }
    this.emit('close');
  }

  /** Leaving a block closes the file, and throws away what was written and not closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }
}

/** Gives what an iterable gives, and ends it when one of the signals says so. */
async function* untilAborted<T>(
  data: AsyncIterable<T> | Iterable<T>,
  signals: AbortSignal[],
): AsyncGenerator<T, void> {
  const iterator =
    Symbol.asyncIterator in data ? data[Symbol.asyncIterator]() : data[Symbol.iterator]();
  let end = () => {};
  const ended = new Promise<undefined>((resolve) => {
    end = () => resolve(undefined);
  });
  for (const signal of signals) {
    signal.addEventListener('abort', end, { once: true });
  }
  let finished = false;
  try {
    for (;;) {
      signals.forEach(check);
      const next = await Promise.race([iterator.next(), ended]);
      signals.forEach(check);
      if (next === undefined || next.done) {
        finished = true;
        return;
      }
      yield next.value;
    }
  } finally {
    for (const signal of signals) {
      signal.removeEventListener('abort', end);
    }
    if (!finished) {
      // One that waits for its own next chunk would end after it only: nobody waits for that.
      Promise.resolve(iterator.return?.()).catch(() => {});
    }
  }
}

/** Tells whether something is written piece by piece. */
export function isIterable(data: unknown): data is AsyncIterable<unknown> | Iterable<unknown> {
  return (
    typeof data === 'object' &&
    data !== null &&
    !ArrayBuffer.isView(data) &&
    (Symbol.asyncIterator in data || Symbol.iterator in data)
  );
}
