/**
 * Every function of `node:fs`, in its three forms, on a real directory and on a branch: results,
 * errors field by field, and what is there afterwards must be the same.
 */

import assert from 'node:assert/strict';
import * as nodefs from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

import { type Anything, fresh, type Node, ours, shape } from './both.js';

type Arguments = (at: string, fs: Node) => unknown[];

/** What every case starts with. */
function populate(fs: Node, at: string) {
  fs.mkdirSync(`${at}/dir/sub`, { recursive: true });
  fs.writeFileSync(`${at}/file`, 'content');
  fs.writeFileSync(`${at}/dir/file`, 'below');
  fs.writeFileSync(`${at}/dir/sub/deep`, '');
  fs.symlinkSync('file', `${at}/link`);
  fs.symlinkSync('dir', `${at}/dirlink`);
  fs.symlinkSync('loop', `${at}/loop`);
  fs.symlinkSync('none', `${at}/dangling`);
  for (const path of ['file', 'dir/file', 'dir/sub/deep', 'link', 'dangling']) {
    fs.lutimesSync(`${at}/${path}`, LONG_AGO, LONG_AGO);
  }
}

const LONG_AGO = 1_000_000;

/** All that is there: names, kinds, contents, modes, and what has changed since. */
function state(fs: Node, at: string) {
  const names = fs.readdirSync(at).sort();
  return names.flatMap((name): string[][] => {
    const path = join(at, name);
    const stat = fs.lstatSync(path);
    const text = stat.isFile() ? fs.readFileSync(path, 'latin1') : '';
    const target = stat.isSymbolicLink() ? fs.readlinkSync(path) : text;
    const changed = !stat.isDirectory() && stat.mtimeMs > LONG_AGO * 1000;
    const seen = [path, stat.mode.toString(8), target, changed ? 'new' : 'old'];
    return [seen, ...(stat.isDirectory() ? state(fs, path) : [])];
  });
}

/** What of a result is the same wherever it was made. */
function plain(value: unknown): unknown {
  if (value instanceof Error) {
    return shape(value);
  }
  if (Array.isArray(value)) {
    const list = value.map(plain);
    return list.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
  }
  if (typeof value !== 'object' || value === null || Buffer.isBuffer(value)) {
    return value;
  }
  const object = value as Anything;
  if ('isFile' in object) {
    const { name, parentPath, mode, uid, gid, nlink } = object;
    const kind = [object.isFile(), object.isDirectory(), object.isSymbolicLink(), object.isFIFO()];
    const size = object.isFile() ? object.size : undefined;
    const links = object.isDirectory() ? undefined : nlink;
    return { kind, name, parentPath, mode, uid, gid, size, links };
  }
  if ('bsize' in object) {
    return Object.entries(object).map(([name, n]) => [name, typeof n]);
  }
  return object;
}

const FORMS: Record<string, (fs: Node, name: string, args: unknown[]) => unknown> = {
  sync: (fs, name, args) => (fs as Anything)[`${name}Sync`](...args),
  callback: (fs, name, args) =>
    new Promise((resolve, reject) => {
      (fs as Anything)[name](...args, (error: unknown, value: unknown) =>
        error ? reject(error) : resolve(value),
      );
    }),
  promises: (fs, name, args) => (fs.promises as Anything)[name](...args),
};

const { constants } = nodefs;
const missing: Arguments = (at) => [`${at}/none`];
const below: Arguments = (at) => [`${at}/file/x`];

/** The functions that take one path and maybe more, with paths of all kinds. */
const EVERYWHERE: [name: string, ...rest: unknown[]][] = [
  ['access'],
  ['chmod', 0o600],
  ['chown', 1, 2],
  ['lchown', 1, 2],
  ['lstat'],
  ['lutimes', 1, 2],
  ['mkdir'],
  ['mkdir', { recursive: true }],
  ['mkdir', 0o700],
  ['readFile'],
  ['readFile', 'utf8'],
  ['readFile', { encoding: 'hex', flag: 'r+' }],
  ['readdir'],
  ['readdir', { withFileTypes: true }],
  ['readdir', { recursive: true }],
  ['readdir', { recursive: true, withFileTypes: true }],
  ['readdir', 'buffer'],
  ['readlink'],
  ['readlink', 'buffer'],
  ['realpath'],
  ['realpath', 'hex'],
  ['rm'],
  ['rm', { force: true }],
  ['rm', { recursive: true }],
  ['rm', { recursive: true, force: true }],
  ['rmdir'],
  ['stat'],
  ['stat', { bigint: true }],
  ['statfs'],
  ['truncate'],
  ['truncate', 3],
  ['unlink'],
  ['utimes', 1, 2],
  ['writeFile', 'new'],
  ['writeFile', 'new', { flag: 'wx' }],
  ['writeFile', 'new', { flag: 'a', mode: 0o640 }],
  ['writeFile', '6e6577', 'hex'],
  ['appendFile', 'more'],
  ['appendFile', Buffer.from('more'), { mode: 0o600 }],
];

const PLACES: [string, (at: string) => string][] = [
  ['a file', (at) => `${at}/file`],
  ['a directory', (at) => `${at}/dir`],
  ['an empty name at the end', (at) => `${at}/dir/sub/`],
  ['a link to a file', (at) => `${at}/link`],
  ['a link to a directory', (at) => `${at}/dirlink`],
  ['below a link', (at) => `${at}/dirlink/file`],
  ['a loop', (at) => `${at}/loop`],
  ['a link to nothing', (at) => `${at}/dangling`],
  ['nothing', (at) => `${at}/none`],
  ['nothing below nothing', (at) => `${at}/none/x`],
  ['something below a file', (at) => `${at}/file/x`],
  ['an empty path', () => ''],
];

/** What has two paths. */
const TWO: [name: string, ...rest: unknown[]][] = [
  ['rename'],
  ['copyFile'],
  ['copyFile', constants.COPYFILE_EXCL],
  ['cp'],
  ['cp', { recursive: true }],
  ['cp', { recursive: true, force: false, errorOnExist: true }],
  ['cp', { recursive: true, preserveTimestamps: true }],
];

const PAIRS: [string, string][] = [
  ['file', 'new'],
  ['file', 'dir/file'],
  ['file', 'dir'],
  ['file', 'none/x'],
  ['file', 'file'],
  ['file', 'dir/file/x'],
  ['dir', 'new'],
  ['dir', 'file'],
  ['dir', 'dir/sub/x'],
  ['none', 'new'],
  ['link', 'new'],
];

const EMPTY: [string, Arguments][] = [
  ['an empty path to another', (at) => ['', `${at}/new`]],
  ['a file to an empty path', (at) => [`${at}/file`, '']],
];

/** Wrong arguments, and what does not fit above. */
const MORE: [string, string, Arguments][] = [
  ['a number', 'stat', () => [7]],
  ['below a file without an error', 'stat', (at) => [`${at}/file/x`, { throwIfNoEntry: false }]],
  ['below a file without an error', 'lstat', (at) => [`${at}/file/x`, { throwIfNoEntry: false }]],
  ['nothing without an error', 'stat', (at) => [`${at}/none`, { throwIfNoEntry: false }]],
  ['nothing without an error', 'lstat', (at) => [`${at}/none`, { throwIfNoEntry: false }]],
  ['a number that nobody has', 'readFile', () => [2 ** 30]],
  ['a number that nobody has', 'writeFile', () => [2 ** 30, 'x']],
  ['a number that nobody has', 'appendFile', () => [2 ** 30, 'x']],
  ['null', 'readFile', () => [null]],
  ['an object', 'mkdir', () => [{}]],
  ['a NUL', 'unlink', () => ['/a\0b']],
  ['a NUL in the second', 'rename', (at) => [`${at}/file`, 'a\0b']],
  ['a URL', 'readFile', (at) => [new URL(`file://${at}/file`), 'utf8']],
  ['a Buffer', 'readFile', (at) => [Buffer.from(`${at}/file`), 'utf8']],
  ['an unknown encoding', 'readFile', (at) => [`${at}/file`, 'utf99']],
  ['wrong options', 'readFile', (at) => [`${at}/file`, 7]],
  ['wrong data', 'writeFile', (at) => [`${at}/file`, 7]],
  ['no data', 'writeFile', (at) => [`${at}/file`]],
  ['an unknown flag', 'readFile', (at) => [`${at}/file`, { flag: 'q' }]],
  ['a wrong mode', 'chmod', (at) => [`${at}/file`, '9z']],
  ['no mode', 'chmod', (at) => [`${at}/file`]],
  ['a negative mode', 'chmod', (at) => [`${at}/file`, -1]],
  ['an octal mode', 'chmod', (at) => [`${at}/file`, '640']],
  ['a wrong owner', 'chown', (at) => [`${at}/file`, 'a', 1]],
  ['no owner', 'chown', (at) => [`${at}/file`, -1, 7]],
  ['a wrong time', 'utimes', (at) => [`${at}/file`, 'x', 1]],
  ['dates', 'utimes', (at) => [`${at}/file`, new Date(1e12), '1234.5']],
  ['a wrong length', 'truncate', (at) => [`${at}/file`, 'x']],
  ['a broken length', 'truncate', (at) => [`${at}/file`, 1.5]],
  ['a negative length', 'truncate', (at) => [`${at}/file`, -3]],
  ['a larger length', 'truncate', (at) => [`${at}/file`, 10]],
  ['a wrong look', 'access', (at) => [`${at}/file`, 99]],
  ['leave to run', 'access', (at) => [`${at}/file`, constants.X_OK]],
  ['leave to enter', 'access', (at) => [`${at}/dir`, constants.X_OK | constants.R_OK]],
  ['a wrong mode', 'copyFile', (at) => [`${at}/file`, `${at}/new`, 99]],
  ['a wrong option', 'mkdir', (at) => [`${at}/new`, { recursive: 'yes' }]],
  ['several', 'mkdir', (at) => [`${at}/x/y/z`, { recursive: true, mode: 0o700 }]],
  ['recursive', 'rmdir', (at) => [`${at}/dir`, { recursive: true }]],
  ['an empty path', 'opendir', () => ['']],
  ['an empty path', 'open', () => ['']],
  ['an empty path', 'open', () => ['', 'w']],
  ['an empty target', 'symlink', (at) => ['', `${at}/new`]],
  ['an empty path', 'symlink', () => ['file', '']],
  ['an empty path', 'link', (at) => ['', `${at}/new`]],
  ['nothing', 'opendir', missing],
  ['a file', 'opendir', (at) => [`${at}/file`]],
  ['a new link', 'symlink', (at) => ['text', `${at}/new`]],
  ['something there', 'symlink', (at) => ['text', `${at}/file`]],
  ['nothing above', 'symlink', (at) => ['text', `${at}/none/x`]],
  ['nothing', 'link', (at) => [`${at}/none`, `${at}/new`]],
  ['a prefix', 'mkdtemp', (at) => [`${at}/dirlink/tmp-`]],
  ['a missing parent', 'mkdtemp', (at) => [`${at}/none/tmp-`]],
  ['a file above', 'mkdtemp', (at) => [`${at}/file/tmp-`]],
  ['a prefix in hexadecimal digits', 'mkdtemp', () => ['tmp-', 'utf99']],
  ['links', 'cp', (at) => [at, `${at}-2`, { recursive: true }]],
  [
    'links word by word',
    'cp',
    (at) => [at, `${at}-3`, { recursive: true, verbatimSymlinks: true }],
  ],
  [
    'what links mean',
    'cp',
    (at) => [`${at}/dirlink`, `${at}/new`, { recursive: true, dereference: true }],
  ],
  [
    'what passes',
    'cp',
    (at) => [
      `${at}/dir`,
      `${at}/new`,
      { recursive: true, filter: (path: string) => !path.endsWith('file') },
    ],
  ],
  ['nothing', 'open', missing],
  ['below a file', 'open', below],
  ['wx', 'open', (at) => [`${at}/file`, 'wx']],
  ['a directory to write', 'open', (at) => [`${at}/dir`, 'r+']],
  ['an unknown flag', 'open', (at) => [`${at}/file`, 'q']],
  ['a signal', 'readFile', (at) => [`${at}/file`, { signal: AbortSignal.abort() }]],
];

/** Where Node does what is not worth to be done again. */
const OTHERWISE: (readonly [form: string, name: string, label: RegExp])[] = [
  // It has emptied the file by the time it finds the directory.
  ['', 'copyFile', /^dir to file$/],
  // Linux tells of the slash before it tells of the directory.
  ['', 'writeFile', /^an empty name at the end.*wx/],
  // The same in the other forms is as here.
  ['sync', 'rm', /^something below a file.*recursive.*force/],
  ['sync', 'cp', /^dir to new$/],
  ['sync', 'opendir', /^(nothing|a file|an empty path)$/],
  // It stumbles over its own error.
  ['callback', 'readFile', /^a number that nobody has$/],
  // It is the current directory there, and the root here.
  ['sync', 'realpath', /^an empty path/],
  ['callback', 'realpath', /^an empty path/],
  // Since Node 22 it has other words for what it refuses, and ends the process for some of it.
  ...(Number.parseInt(process.versions.node, 10) < 22 ? [] : [['sync', 'cp', /./] as const]),
  // It takes the callback for the argument that is missing.
  ['callback', 'chmod', /^no mode$/],
  ['callback', 'writeFile', /^no data$/],
];

const CASES: [string, string, Arguments][] = [
  ...EVERYWHERE.flatMap(([name, ...rest]) =>
    PLACES.map(([place, path]): [string, string, Arguments] => [
      `${place}${rest.length ? ` with ${JSON.stringify(rest)}` : ''}`,
      name,
      (at) => [path(at), ...rest],
    ]),
  ),
  ...TWO.flatMap(([name, ...rest]) =>
    PAIRS.map(([from, to]): [string, string, Arguments] => [
      `${from} to ${to}${rest.length ? ` with ${JSON.stringify(rest)}` : ''}`,
      name,
      (at) => [`${at}/${from}`, `${at}/${to}`, ...rest],
    ]),
  ),
  ...TWO.flatMap(([name, ...rest]) =>
    EMPTY.map(([label, paths]): [string, string, Arguments] => [
      label,
      name,
      (at, fs) => [...paths(at, fs), ...rest],
    ]),
  ),
  ...MORE,
];

async function outcome(fs: Node, at: string, form: string, name: string, args: Arguments) {
  let result: unknown;
  try {
    result = await FORMS[form]?.(fs, name, args(at, fs));
  } catch (error) {
    result = error;
  }
  // Six letters that nobody knows.
  const seen = JSON.stringify({ result: plain(result), state: state(fs, at) }, (_key, value) =>
    typeof value === 'bigint' ? `${value}n` : value,
  );
  return JSON.parse(seen.replace(/tmp-[A-Za-z0-9]{6}/g, 'tmp-??????'));
}

for (const form of Object.keys(FORMS)) {
  describe(`as node:fs, ${form}`, () => {
    for (const name of new Set(CASES.map(([, name]) => name))) {
      const cases = CASES.filter((each) => each[1] === name);
      it(name, async () => {
        for (const [label, , args] of cases) {
          const other = OTHERWISE.some(
            ([where, of, which]) =>
              (where === '' || where === form) && of === name && which.test(label),
          );
          if (other) {
            continue;
          }
          const at = fresh();
          const seen = [];
          for (const fs of [ours, nodefs]) {
            populate(fs, at);
            seen.push(await outcome(fs, at, form, name, args));
          }
          assert.deepEqual(seen[0], seen[1], `${name} of ${label}`);
        }
      });
    }
  });
}
