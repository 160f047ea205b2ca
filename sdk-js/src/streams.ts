/**
 * Streams of files. They are Node's own, which read and write through another `fs`; so every option
 * and every event is Node's. What differs: a file is committed before its stream says that it has
 * finished, and one whose stream is destroyed before that changes nothing.
 */

import type { Abortable } from 'node:events';
import * as nodefs from 'node:fs';

import { toFlags, toMode, toPath } from './arguments.js';
import { run } from './calls.js';
import * as descriptors from './descriptors.js';
import { failure } from './errors.js';
import type { OpenFile, Outcome, Tree } from './native.js';
import { open } from './operations.js';

/** The options of a stream that reads. */
export interface ReadStreamOptions extends Abortable {
  encoding?: BufferEncoding | null | undefined;
  autoClose?: boolean | undefined;
  emitClose?: boolean | undefined;
  /** The first byte to read, and the last. */
  start?: number | undefined;
  end?: number | undefined;
  highWaterMark?: number | undefined;
}

/** The options of a stream that writes. */
export interface WriteStreamOptions extends Abortable {
  encoding?: BufferEncoding | null | undefined;
  autoClose?: boolean | undefined;
  emitClose?: boolean | undefined;
  /** Where to write the first byte. */
  start?: number | undefined;
  highWaterMark?: number | undefined;
  flush?: boolean | undefined;
}

type Done = (error: unknown, ...values: unknown[]) => void;
type Streams = Pick<typeof nodefs, 'createReadStream' | 'createWriteStream'> & {
  ReadStream: typeof nodefs.ReadStream;
  WriteStream: typeof nodefs.WriteStream;
};

// biome-ignore lint/suspicious/noExplicitAny: options are checked by Node's own streams.
type Options = any;
type Stream = new (path: unknown, options: Options) => nodefs.ReadStream & nodefs.WriteStream;

/** What Node's streams call of an `fs`, for files by their numbers. */
interface Calls {
  open(path: unknown, flags: unknown, mode: unknown, done: Done): void;
  read(fd: number, buffer: Uint8Array, offset: number, n: number, at: unknown, done: Done): void;
  write(fd: number, buffer: Uint8Array, offset: number, n: number, at: unknown, done: Done): void;
  writev(fd: number, buffers: Uint8Array[], at: unknown, done: Done): void;
  fsync(fd: number, done: Done): void;
  close(fd: number, done: Done): void;
}

function deliver(work: () => unknown, done: Done) {
  let promise: Promise<unknown>;
  try {
    promise = Promise.resolve(work());
  } catch (error) {
    promise = Promise.reject(error);
  }
  promise.then(
    (value) => process.nextTick(done, null, value),
    (error) => process.nextTick(done, error),
  );
}

/** What of a stream tells how it ends. */
interface Ending {
  fd?: number | null;
  flush?: boolean;
  writable?: boolean;
  writableFinished?: boolean;
}

/** How the file of a stream ends. */
interface End {
  find(fd: number, syscall: string): OpenFile;
  commit(fd: number): Promise<void>;
  abort(fd: number): Promise<void>;
}

/** What one stream does with its file, which is committed before the stream says `finish`. */
class Strand {
  stream: Ending = {};
  readonly #open: (path: unknown, flags: unknown, mode: unknown) => Outcome<OpenFile>;
  readonly #end: End;
  /** The commit, from when it began; nothing again where it failed. */
  #committed?: Promise<void>;

  constructor(open: (path: unknown, flags: unknown, mode: unknown) => Outcome<OpenFile>, end: End) {
    this.#open = open;
    this.#end = end;
  }

  /** Whether the file is being committed, or was. */
  get ended(): boolean {
    return this.#committed !== undefined;
  }

  /** What Node's stream calls. */
  calls(): Calls {
    const find = (fd: number, syscall: string) => this.#end.find(fd, syscall);
    const { read, write, writev, fsync } = descriptors;
    const place = (at: unknown) => at as number | undefined;
    return {
      open: (path, flags, mode, done) =>
        deliver(async () => descriptors.register(await this.#open(path, flags, mode)), done),
      read: (fd, buffer, offset, n, at, done) =>
        deliver(
          () => read(find(fd, 'read'), true, buffer, offset, n, place(at)),
          (error, n) => done(error, n, buffer),
        ),
      write: (fd, buffer, offset, n, at, done) =>
        deliver(
          () => write(find(fd, 'write'), true, buffer, offset, n, place(at)),
          (error, n) => done(error, n, buffer),
        ),
      writev: (fd, buffers, at, done) =>
        deliver(
          () => writev(find(fd, 'write'), true, buffers, place(at)),
          (error, n) => done(error, n, buffers),
        ),
      fsync: (fd, done) => deliver(() => this.#committed ?? fsync(find(fd, 'fsync'), true), done),
      close: (fd, done) => deliver(() => this.#close(fd), done),
    };
  }

  /** Commits what was written. */
  async commit(): Promise<void> {
    const { fd, flush } = this.stream;
    if (typeof fd !== 'number') {
      return;
    }
    const committing = async () => {
      if (flush) {
        await descriptors.fsync(this.#end.find(fd, 'fsync'), true);
      }
      await this.#end.commit(fd);
    };
    this.#committed = committing();
    try {
      await this.#committed;
    } catch (error) {
      this.#committed = undefined;
      throw error;
    }
  }

  async #close(fd: number): Promise<void> {
    if (this.#committed !== undefined) {
      const committed = await this.#committed.then(
        () => true,
        () => false,
      );
      if (committed) {
        return;
      }
    }
    if (this.stream.writableFinished === false) {
      await this.#end.abort(fd);
      return;
    }
    try {
      await this.#end.commit(fd);
    } catch (error) {
      await this.#end.abort(fd);
      throw error;
    }
  }
}

/** The end of a file that has a number. */
const ofNumber: End = {
  find: descriptors.lookUp,
  async commit(fd) {
    const file = descriptors.lookUp(fd, 'close');
    await run(true, { syscall: 'close' }, () => file.close(true));
    descriptors.forget(fd);
  },
  async abort(fd) {
    const file = descriptors.lookUp(fd, 'close');
    descriptors.forget(fd);
    await run(true, { syscall: 'close' }, () => file.abort(true));
  },
};

/**
 * Commits when all is written. One that is not to be closed is its owner's, and nothing of a stream
 * that reads.
 */
function committing(strand: Strand, options: Options) {
  if (options?.autoClose === false) {
    return {};
  }
  return {
    final: (done: Done) => deliver(() => strand.commit(), done),
  };
}

/** Makes the streams of a tree. */
export function streams(tree: Tree): Streams {
  const openFile = (path: unknown, flags: unknown, mode: unknown) =>
    open(tree, true, path as string, flags as string, mode as number);
  // A stream is asked how it ended after it was made, and its calls are needed to make it.
  const bound = (base: unknown, writes: boolean): Stream =>
    class extends (base as Stream) {
      constructor(path: unknown, options: Options) {
        const given = typeof options === 'string' ? { encoding: options } : (options ?? {});
        // Found at once, as of Node's own, and not when the file is opened.
        if (given.fd === undefined || given.fd === null) {
          toPath(path as string);
          toFlags(given.flags, 'r');
          toMode(given.mode);
        }
        const strand = new Strand(openFile, ofNumber);
        const ends = writes ? committing(strand, given) : {};
        super(path, { ...ends, ...given, fs: strand.calls() });
        strand.stream = this;
      }
    };
  const Read = named(bound(nodefs.ReadStream, false), 'ReadStream');
  const Write = named(bound(nodefs.WriteStream, true), 'WriteStream');
  return {
    ReadStream: Read,
    WriteStream: Write,
    createReadStream: (path: nodefs.PathLike, options?: Options) => create(Read, path, options),
    createWriteStream: (path: nodefs.PathLike, options?: Options) => create(Write, path, options),
  } as unknown as Streams;
}

/** `fd` may be a handle, whose stream is its own. */
function create(Stream: Stream, path: unknown, options: Options) {
  const handle = options?.fd;
  if (typeof handle === 'object' && handle !== null && 'createReadStream' in handle) {
    const { fd, ...rest } = options;
    const reads = Stream.name === 'ReadStream';
    return reads ? fd.createReadStream(rest) : fd.createWriteStream(rest);
  }
  return new Stream(path, options);
}

function named(stream: Stream, name: string): Stream {
  Object.defineProperty(stream, 'name', { value: name });
  // Node's own are made without `new` too.
  return new Proxy(stream, { apply: (Made, _this, [path, options]) => new Made(path, options) });
}

interface Handle {
  readonly fd: number;
  close(): Promise<void>;
  abort(): Promise<void>;
  once(event: 'close', listener: () => void): unknown;
}

function ofHandle(handle: Handle, file: OpenFile, Stream: unknown, options: Options = {}) {
  const strand = new Strand(() => file, {
    find(_fd, syscall) {
      if (handle.fd < 0) {
        throw failure('EBADF', 'BadHandle', { syscall });
      }
      return file;
    },
    commit: () => handle.close(),
    abort: () => handle.abort(),
  });
  const ends = Stream === nodefs.WriteStream ? committing(strand, options) : {};
  const given = { ...ends, ...options, fd: handle.fd, fs: strand.calls() };
  const made = new (Stream as Stream)(undefined, given);
  strand.stream = made;
  handle.once('close', () => {
    // Its own commit closes the handle too, and is not over yet.
    if (!strand.ended) {
      made.destroy();
    }
  });
  return made;
}

/** A stream that reads a handle. */
export function readHandle(handle: Handle, file: OpenFile, options?: ReadStreamOptions) {
  return ofHandle(handle, file, nodefs.ReadStream, options) as nodefs.ReadStream;
}

/** A stream that writes to a handle. */
export function writeHandle(handle: Handle, file: OpenFile, options?: WriteStreamOptions) {
  return ofHandle(handle, file, nodefs.WriteStream, options) as nodefs.WriteStream;
}
