/** A directory that is open for reading, of which a descriptor can be had. */

import { failure } from './errors.js';
import type { Attributes, OpenFile, Outcome, Tree } from './native.js';

const directory = () => failure('EISDIR', 'IsADirectory', { syscall: 'read' });
const unwritable = (syscall: string) => failure('EBADF', 'BadHandle', { syscall });

/** What `open` gives for a directory, as it does in Linux: it has a state, and nothing to read. */
export class DirectoryFile implements OpenFile {
  readonly #tree: Tree;
  readonly #path: string;

  constructor(tree: Tree, path: string) {
    this.#tree = tree;
    this.#path = path;
  }

  path() {
    return this.#path;
  }

  stat(later: boolean) {
    return this.#tree.stat(this.#path, true, later);
  }

  read(_buffer: Uint8Array, _offset: number | undefined, later: boolean): Outcome<number> {
    return refused(later, directory());
  }

  write(_data: Uint8Array, _offset: number | undefined, later: boolean): Outcome<void> {
    return refused(later, unwritable('write'));
  }

  truncate(_size: number, later: boolean): Outcome<void> {
    return refused(later, failure('EINVAL', 'InvalidInput', { syscall: 'ftruncate' }));
  }

  setAttributes(attributes: Attributes, later: boolean) {
    return this.#tree.setAttributes(this.#path, attributes, true, later);
  }

  sync(later: boolean) {
    return nothing(later);
  }

  position() {
    return 0;
  }

  seek() {}

  entry(later: boolean) {
    return this.#tree.entry(this.#path, true, later);
  }

  close(later: boolean) {
    return nothing(later);
  }

  commit(later: boolean): Outcome<null> {
    return later ? Promise.resolve(null) : null;
  }

  abort(later: boolean) {
    return nothing(later);
  }
}

function refused<T>(later: boolean, error: Error): Outcome<T> {
  if (later) {
    return Promise.reject(error);
  }
  throw error;
}

function nothing(later: boolean): Outcome<void> {
  return later ? Promise.resolve() : undefined;
}
