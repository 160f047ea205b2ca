/** `glob` of `node:fs`. */

import { posix } from 'node:path';

import { toPath } from './arguments.js';
import { checkObject } from './attributes.js';
import { drive, type Steps, step } from './calls.js';
import { wrongType } from './errors.js';
import type { Outcome, Tree } from './native.js';
import { Dirent } from './stats.js';

type Matcher = (path: string) => boolean;
const picomatch: (pattern: string, options: object) => Matcher = require('picomatch');

/** How to look for names. */
export interface GlobOptions {
  /** Where patterns that are not absolute start; otherwise the root. */
  cwd?: string | URL;
  /** What to leave out, with all below it: by a function, or by patterns. */
  exclude?: ((name: string) => boolean) | ((entry: Dirent) => boolean) | readonly string[];
  withFileTypes?: boolean;
}

function matcher(pattern: string): Matcher {
  return picomatch(pattern, { windows: false, nonegate: true });
}

function listed(patterns: string | readonly string[]): readonly string[] {
  const list = typeof patterns === 'string' ? [patterns] : patterns;
  if (!Array.isArray(list) || !list.every((pattern) => typeof pattern === 'string')) {
    throw wrongType('pattern', 'of type string or an instance of Array', patterns);
  }
  return list;
}

/** The directory that everything a pattern matches is below, which is its part without magic. */
function base(pattern: string): string {
  const parts = pattern.split('/').slice(0, -1);
  const magic = parts.findIndex((part) => /[*?[\]{}()!+@\\]/.test(part));
  return (magic < 0 ? parts : parts.slice(0, magic)).join('/') || (pattern[0] === '/' ? '/' : '.');
}

/** Finds what matches, as paths relative to `cwd`, or absolute where the pattern is. */
export function glob(
  tree: Tree,
  later: boolean,
  patterns: string | readonly string[],
  given?: GlobOptions,
): Outcome<string[] | Dirent[]> {
  const options = checkObject(given, 'options');
  const cwd = posix.resolve('/', toPath(options.cwd ?? '/', 'options.cwd'));
  const list = listed(patterns);
  return drive(later, globSteps(tree, cwd, list, options));
}

function* globSteps(
  tree: Tree,
  cwd: string,
  patterns: readonly string[],
  { exclude, withFileTypes }: GlobOptions,
): Steps<string[] | Dirent[]> {
  const unwanted = excluding(exclude, withFileTypes === true);
  const found = new Map<string, Dirent>();
  for (const pattern of patterns) {
    const absolute = pattern.startsWith('/');
    const wanted = matcher(posix.normalize(pattern).replace(/(.)\/$/, '$1'));
    const onlyDirectories = pattern.endsWith('/');
    const start = posix.normalize(base(pattern));
    const from = posix.resolve(cwd, start);
    let entries: Dirent[];
    try {
      const call = { syscall: 'scandir', path: from };
      const { kind } = kinds(yield* step(call, (later) => tree.stat(from, true, later)));
      if (kind !== 1) {
        continue;
      }
      const top = new Dirent(posix.basename(from), posix.dirname(from), kind);
      entries = [top, ...(yield* below(tree, from, depth(pattern)))];
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) {
        continue;
      }
      throw error;
    }
    const left = new Set<string>();
    for (const entry of entries) {
      const path = posix.join(entry.parentPath, entry.name);
      const relative = posix.relative(cwd, path) || '.';
      if (left.has(entry.parentPath) || unwanted(entry, relative)) {
        left.add(path);
        continue;
      }
      // As Node does, what starts with a directory above is told that way.
      const shown = absolute ? path : start.startsWith('..') ? posix.relative(cwd, path) : relative;
      const matches = shown === '.' ? pattern === '**' : wanted(shown);
      if (matches && !(onlyDirectories && !entry.isDirectory())) {
        found.set(shown, entry);
      }
    }
  }
  return withFileTypes ? [...found.values()] : [...found.keys()];
}

/** How many names a pattern has after its part without magic; any number for `**`. */
function depth(pattern: string): number {
  const unknown = /\*\*|[{(]/.test(pattern);
  const names = (path: string) => path.split('/').filter((name) => name !== '' && name !== '.');
  return unknown ? Infinity : names(pattern).length - names(base(pattern)).length;
}

/** Lists what is below a directory, as deep as a pattern reaches. */
function* below(tree: Tree, from: string, depth: number): Steps<Dirent[]> {
  const list = function* (path: string, all: boolean): Steps<Dirent[]> {
    const { names, kinds } = yield* step({ syscall: 'scandir', path }, (later) =>
      all ? tree.listAll(path, later) : tree.list(path, later),
    );
    return names.map((name, at) => entry(path, name, kinds[at] as number));
  };
  if (depth === Infinity) {
    return yield* list(from, true);
  }
  const found: Dirent[] = [];
  let paths = [from];
  for (let level = 0; level < depth; level += 1) {
    const next: string[] = [];
    for (const path of paths) {
      for (const entry of yield* list(path, false)) {
        found.push(entry);
        if (entry.isDirectory()) {
          next.push(posix.join(path, entry.name));
        }
      }
    }
    paths = next;
  }
  return found;
}

function kinds(numbers: number[]) {
  return { kind: numbers[0] as number };
}

function entry(from: string, name: string, kind: number): Dirent {
  const path = posix.join(from, name);
  return new Dirent(posix.basename(path), posix.dirname(path), kind);
}

function excluding(exclude: GlobOptions['exclude'], types: boolean) {
  if (exclude === undefined) {
    return () => false;
  }
  if (typeof exclude === 'function') {
    const call = exclude as (what: unknown) => boolean;
    return (entry: Dirent, path: string) => call(types ? entry : path);
  }
  const matchers = listed(exclude).map(matcher);
  return (_entry: Dirent, path: string) => matchers.some((matches) => matches(path));
}
