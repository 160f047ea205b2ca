/** `Dir`, as of `node:fs`: a directory that is listed entry by entry. */

import type { PathLike } from 'node:fs';

import { integer, toOptions, toPath } from './arguments.js';
import { drive, type Steps, step } from './calls.js';
import type { Tree } from './native.js';
import { dirents } from './operations.js';
import type { Dirent } from './stats.js';

interface Options {
  encoding?: BufferEncoding | 'buffer' | null;
  /** Node's buffer; the entries of a directory come together. */
  bufferSize?: number;
  recursive?: boolean;
}

type Found = Dirent<string>;

/** An open directory, which shows what was there when it was opened. */
export class Dir implements AsyncDisposable {
  readonly path: string;
  readonly #entries: Found[];
  #next = 0;
  #closed = false;

  /** @internal */
  constructor(path: string, entries: Found[]) {
    this.path = path;
    this.#entries = entries;
  }

  /** The next entry; nothing after the last. */
  readSync(): Found | null {
    this.#check();
    const entry = this.#entries[this.#next];
    this.#next += 1;
    return entry ?? null;
  }

  /** As {@link readSync}, as a promise or with a callback. */
  read(): Promise<Found | null>;
  read(cb: (error: NodeJS.ErrnoException | null, entry: Found | null) => void): void;
  read(cb?: (error: NodeJS.ErrnoException | null, entry: Found | null) => void) {
    if (cb === undefined) {
      return new Promise((resolve) => resolve(this.readSync()));
    }
    const entry = this.readSync();
    process.nextTick(cb, null, entry);
    return undefined;
  }

  closeSync(): void {
    this.#check();
    this.#closed = true;
  }

  close(): Promise<void>;
  close(cb: (error?: NodeJS.ErrnoException | null) => void): void;
  close(cb?: (error?: NodeJS.ErrnoException | null) => void) {
    if (cb === undefined) {
      return new Promise<void>((resolve) => resolve(this.closeSync()));
    }
    this.closeSync();
    process.nextTick(cb, null);
    return undefined;
  }

  /** Goes through what is left, and closes the directory. */
  async *entries(): AsyncGenerator<Found, undefined> {
    try {
      for (let entry = this.readSync(); entry !== null; entry = this.readSync()) {
        yield entry;
      }
    } finally {
      this.#closed = true;
    }
  }

  [Symbol.asyncIterator](): AsyncGenerator<Found, undefined> {
    return this.entries();
  }

  [Symbol.dispose](): void {
    this.#closed = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
  }

  #check() {
    if (this.#closed) {
      const error = new Error('Directory handle was closed');
      throw Object.assign(error, { code: 'ERR_DIR_CLOSED' });
    }
  }
}

export function opendir(
  tree: Tree,
  later: boolean,
  path: PathLike,
  options?: Options | string | null,
) {
  const { encoding, recursive, bufferSize = 32 } = toOptions(options);
  integer(bufferSize, 'options.bufferSize', 1, 2 ** 32 - 1);
  const name = toPath(path);
  const steps = function* (): Steps<Dir> {
    const listing = yield* step({ syscall: 'opendir', path: name }, (later) =>
      recursive ? tree.listAll(name, later) : tree.list(name, later),
    );
    return new Dir(name, dirents(name, listing, encoding) as Found[]);
  };
  return drive(later, steps());
}
