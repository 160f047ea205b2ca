/** Reading one version of a file. */

import { ReadableStream } from 'node:stream/web';

import { toObject } from './attributes.js';
import { later, now } from './calls.js';
import type { ReaderHandle } from './native.js';

/** How much a stream reads at a time. */
const BLOCK = 1 << 20;

/**
 * One version of a file. Later writes, deletions and garbage collection do not affect it.
 *
 * Bytes come as they are stored; to have them checked against the hash, use `verify` of the tree.
 */
export class Reader {
  readonly #native: ReaderHandle;
  /** In bytes. */
  readonly size: number;
  /** The BLAKE3 hash of the content, in 64 hexadecimal digits. */
  readonly hash: string;
  /** How the store keeps the content: in the database, as a file, or as a delta over another. */
  readonly form: 'inline' | 'file' | 'delta';

  /** @internal */
  constructor(handle: ReaderHandle) {
    this.#native = handle;
    this.size = now(() => handle.size());
    this.hash = now(() => handle.hash());
    this.form = now(() => handle.form());
  }

  /** Reads up to `length` bytes from an offset; fewer only at the end of the file. */
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

  /** A stream of a range of bytes, otherwise of the whole file. `end` is the byte after the last. */
  stream(range?: { start?: number; end?: number }): ReadableStream<Uint8Array> {
    const { start = 0, end = this.size } = toObject(range);
    let at = start;
    return new ReadableStream(
      {
        pull: async (controller) => {
          const block = await this.read(at, Math.min(BLOCK, Math.max(end - at, 0)));
          at += block.length;
          if (block.length > 0) {
            controller.enqueue(block);
          }
          if (block.length === 0 || at >= end) {
            controller.close();
          }
        },
      },
      { highWaterMark: 0 },
    );
  }

  /** Lets the version go. */
  close(): void {
    now(() => this.#native.close());
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
