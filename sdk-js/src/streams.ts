/**
 * Streams of files. They are Node's own, which read and write through another `fs`; so every option
 * and every event is Node's. What differs: a file is committed when its stream has finished, and
 * one whose stream is destroyed before that changes nothing.
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
  encoding?: BufferEncoding | null;
  autoClose?: boolean;
  emitClose?: boolean;
  /** The first byte to read, and the last. */
  start?: number;
  end?: number;
  highWaterMark?: number;
}

/** The options of a stream that writes. */
export interface WriteStreamOptions extends Abortable {
  encoding?: BufferEncoding | null;
  autoClose?: boolean;
  emitClose?: boolean;
  /** Where to write the first byte. */
  start?: number;
  highWaterMark?: number;
  flush?: boolean;
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

/** What tells how a stream ends. */
interface Ending {
  writable?: boolean;
  writableFinished?: boolean;
}

/** The calls of one stream; `close` commits only what was finished. */
function calls(
  openFile: (path: unknown, flags: unknown, mode: unknown) => Outcome<OpenFile>,
  find: (fd: number, syscall: string) => OpenFile,
  end: (fd: number, file: OpenFile, commit: boolean) => unknown,
  ending: () => Ending,
): Calls {
  return {
    open: (path, flags, mode, done) =>
      deliver(async () => descriptors.register(await openFile(path, flags, mode)), done),
    read: (fd, buffer, offset, n, at, done) =>
      deliver(
        () => descriptors.read(find(fd, 'read'), true, buffer, offset, n, at as number | undefined),
        (error, n) => done(error, n, buffer),
      ),
    write: (fd, buffer, offset, n, at, done) =>
      deliver(
        () =>
          descriptors.write(find(fd, 'write'), true, buffer, offset, n, at as number | undefined),
        (error, n) => done(error, n, buffer),
      ),
    writev: (fd, buffers, at, done) =>
      deliver(
        () => descriptors.writev(find(fd, 'write'), true, buffers, at as number | undefined),
        (error, n) => done(error, n, buffers),
      ),
    fsync: (fd, done) => deliver(() => descriptors.fsync(find(fd, 'fsync'), true), done),
    close: (fd, done) =>
      deliver(() => {
        const { writableFinished } = ending();
        return end(fd, find(fd, 'close'), writableFinished !== false);
      }, done),
  };
}

function endNumber(fd: number, file: OpenFile, commit: boolean) {
  descriptors.forget(fd);
  const call = { syscall: 'close' };
  return run(true, call, () => (commit ? file.close(true) : file.abort(true)));
}

/** Makes the streams of a tree. */
export function streams(tree: Tree): Streams {
  const openFile = (path: unknown, flags: unknown, mode: unknown) =>
    open(tree, true, path as string, flags as string, mode as number);
  // A stream is asked how it ended after it was made, and its calls are needed to make it.
  const bound = (base: unknown): Stream =>
    class extends (base as Stream) {
      constructor(path: unknown, options: Options) {
        const given = typeof options === 'string' ? { encoding: options } : (options ?? {});
        // Found at once, as of Node's own, and not when the file is opened.
        if (given.fd === undefined || given.fd === null) {
          toPath(path as string);
          toFlags(given.flags, 'r');
          toMode(given.mode);
        }
        let self: Ending = {};
        const fs = calls(openFile, descriptors.lookUp, endNumber, () => self);
        super(path, { ...given, fs });
        self = this;
      }
    };
  const Read = named(bound(nodefs.ReadStream), 'ReadStream');
  const Write = named(bound(nodefs.WriteStream), 'WriteStream');
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
  const find = (_fd: number, syscall: string) => {
    if (handle.fd < 0) {
      throw failure('EBADF', 'BadHandle', { syscall });
    }
    return file;
  };
  const end = (_fd: number, _file: OpenFile, commit: boolean) =>
    commit ? handle.close() : handle.abort();
  const never = () => file;
  let self: Ending = {};
  const fs = calls(never, find, end, () => self);
  const made = new (Stream as Stream)(undefined, { ...options, fd: handle.fd, fs });
  self = made;
  handle.once('close', () => made.destroy());
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
