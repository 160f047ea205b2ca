/** Whatever is handed over, the answer is a typed error, and the process lives. */

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import {
  type AlkError,
  Batch,
  Branch,
  Bucket,
  FileHandle,
  memory,
  open,
  openSync,
  Reader,
  Session,
  Store,
  View,
  Watcher,
} from 'alknet-fs';

const root = mkdtempSync(join(tmpdir(), 'alknet-hostile-'));
after(() => rmSync(root, { recursive: true }));
// What is lost here is meant to be.
process.removeAllListeners('warning');

function detached(): Uint8Array {
  const bytes = new Uint8Array(8);
  structuredClone(bytes, { transfer: [bytes.buffer] });
  return bytes;
}

const HOSTILE: unknown[] = [
  undefined,
  null,
  true,
  0,
  -1,
  0.5,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  2 ** 31,
  2 ** 32 + 5,
  2 ** 53,
  1e300,
  0n,
  -1n,
  2n ** 64n,
  '',
  '..',
  'a\0b',
  '\ud800',
  'n'.repeat(5000),
  Symbol('symbol'),
  {},
  [],
  ['\ud800', 7],
  { mode: Number.NaN, uid: -1, mtime: 2n ** 70n, signal: 7, glob: 8, under: 5, limit: -1 },
  { mode: '644', owner: 5, create: 'yes', after: -1, before: 'x', snapshot: 7, recursive: 1 },
  { start: Number.NaN, end: -1, grace: -1, keepEvents: 0.5, atMost: -7, to: 9, from: {} },
  () => {},
  new Date(Number.NaN),
  new Uint8Array(0),
  new Uint8Array([0xff, 0xfe]),
  new Uint8Array(new SharedArrayBuffer(8)),
  new DataView(new ArrayBuffer(3)),
  detached(),
  Object.create(null),
  new Proxy(
    {},
    {
      get() {
        throw Object.assign(new Error('a trap'), { code: 'TRAP' });
      },
    },
  ),
];

/** What is done on an object, and with which arguments it works. */
type Calls = [method: string, ...args: unknown[]][];

interface Subject {
  of: abstract new (...args: never[]) => object;
  make: () => object | Promise<object>;
  calls: Calls;
}

const both = (calls: Calls): Calls =>
  calls.flatMap((call) => [call, [`${call[0]}Sync`, ...call.slice(1)]]);

const READING: Calls = [
  ...both([
    ['entry', '/f', { follow: false }],
    ['exists', '/f'],
    ['canonicalize', '/f'],
    ['list', '/'],
    ['walk', '/'],
    ['glob', '*', { cwd: '/' }],
    ['reader', '/f'],
    ['content', 'ab'.repeat(32)],
    ['treeHash'],
  ]),
  ['openFile', '/f', { read: true }],
  ['verify', '/f'],
  ['fetch', '/', {}],
  ['export', join(root, 'out'), { from: '/', overwrite: true }],
];

const tree = () => {
  const branch = memory().bucket().branch();
  branch.fs.writeFileSync('/f', 'content');
  branch.snapshotSync('s');
  return branch;
};

const SUBJECTS: Subject[] = [
  {
    of: Store,
    make: () => tree().bucket && memory(),
    calls: [
      ['bucket', 'default'],
      ...both([['buckets'], ['createBucket', 'b'], ['sessions'], ['resumeSession', 1], ['close']]),
      ['renameBucket', 'default', 'c'],
      ['deleteBucket', 'c'],
      ['watch', { after: 0 }],
      ['abortSession', 1, { force: true }],
      ['stats'],
      ['fsck', { fast: true }],
      ['gc', { grace: 0 }],
      ['scheduleGc', '@every 6h', { grace: 0 }],
      ['unscheduleGc'],
      ['gcSchedule'],
      ['gcIfDue', {}],
      ['compact'],
      ['startNode', { loopback: true }],
      ['share', 'default', { readOnly: true }],
      ['join', 'alkfs', { name: 'b', timeout: 0 }],
      ['unsent', 'alkfs'],
      ['leave', 'default'],
      ['grants'],
      ['peers'],
      ['namePeer', 'a', 'b'],
      ['forgetPeer', 'a'],
      ['revokePeer', 'a'],
      ['revoke', 'a'],
      ['revokeGrant', '0'.repeat(32)],
      ['syncStatus'],
      ['untilSynced', { timeout: 0 }],
      ['cacheLimit'],
      ['setCacheLimit', 5],
      ['cachedBytes'],
      ['evict', { toBytes: 0 }],
    ],
  },
  {
    of: Bucket,
    make: () => tree().bucket,
    calls: [
      ['branch', 'main'],
      ...both([['branches'], ['fork', 'main', 'a'], ['diff', 'main', 'main@s', { under: '/' }]]),
      ['view', 'main@s'],
      ['deleteBranch', 'a'],
      ['log', { limit: 1 }],
      ['history', {}],
      ['watch', { glob: ['*'] }],
      ['pruneEvents', { atMost: 1 }],
      ['sharing', ['main'], {}],
      ['contentSettings'],
      ['setContentPolicy', 'eager'],
      ['setContentTimeout', 5],
      ['pin', '/f'],
      ['hasMatch', '/f'],
      ['unpin', '/f'],
      ['fetch', {}],
      ['conflicts'],
      ['nameConflicts'],
    ],
  },
  {
    of: Branch,
    make: tree,
    calls: [
      ...READING,
      ...both([
        ['info'],
        ['fork', 'a', { snapshot: 's' }],
        ['snapshot', 't'],
        ['snapshots'],
        ['restore', 's'],
        ['diff', 'main@s', { under: '/' }],
        ['sessions'],
        ['openSession', '/g', { owner: 'me' }],
        ['put', '/h', 'data', { mode: 0o600 }],
        ['mkdir', '/d', { recursive: true }],
        ['move', '/f', '/m', { replace: false }],
        ['copy', '/m', '/c'],
        ['removeAll', '/c'],
        ['setAttributes', '/m', { uid: 1 }, { follow: false }],
      ]),
      ['view', 's'],
      ['renameSnapshot', 's', 'u'],
      ['deleteSnapshot', 'u'],
      ['log', { limit: 1 }],
      ['history', {}],
      ['watch', { under: '/' }],
      ['batch', () => 1],
      ['batchSync', () => 1],
      ['link', '/m', '/l'],
      ['import', root, { to: '/in', exclude: ['*'] }],
      ['rename', 'other'],
      ['fetching', { timeout: 0 }],
      ['conflicts'],
      ['resolve', '/f', 'both'],
    ],
  },
  { of: View, make: () => tree().view(), calls: [...READING, ['close']] },
  {
    of: Batch,
    make: () => tree().batch(),
    calls: [
      ...both([
        ['write', '/a', 'data'],
        ['put', '/a', 'data', { mode: 0o600 }],
        ['mkdir', '/d', { recursive: true }],
        ['symlink', 'a', '/l', { uid: 1 }],
        ['unlink', '/f'],
        ['rmdir', '/d'],
        ['removeAll', '/d'],
        ['rename', '/a', '/b'],
        ['copy', '/a', '/b'],
        ['setAttributes', '/a', { gid: 1 }, { follow: false }],
        ['commit'],
        ['abort'],
      ]),
    ],
  },
  {
    of: Session,
    make: () => tree().openSession('/f'),
    calls: [
      ...both([
        ['read', 0, 5],
        ['readInto', new Uint8Array(5), 0],
        ['write', 'data', 3],
        ['append', 'data'],
        ['truncate', 3],
        ['sync'],
        ['close', { mode: 0o600 }],
        ['abort'],
        ['detach'],
      ]),
      ['writable'],
    ],
  },
  {
    of: Reader,
    make: () => tree().reader('/f'),
    calls: [
      ...both([
        ['read', 0, 5],
        ['readInto', new Uint8Array(5), 0],
      ]),
      ['stream', {}],
      ['close'],
    ],
  },
  {
    of: Watcher,
    make: () => tree().watch({ after: 0 }),
    calls: [['next'], ['poll'], ['ref'], ['unref'], ['return'], ['close']],
  },
  {
    of: FileHandle,
    make: () => tree().openFile('/f', { read: true, write: true }),
    calls: [
      ['read', new Uint8Array(5), 0, 5, 0],
      ['readv', [new Uint8Array(5)], 0],
      ['readFile', 'utf8'],
      ['readLines', {}],
      ['readableWebStream'],
      ['createReadStream', {}],
      ['createWriteStream', {}],
      ['write', 'data', 0, 'utf8'],
      ['writev', [new Uint8Array(5)], 0],
      ['writeFile', 'data', 'utf8'],
      ['appendFile', 'data', 'utf8'],
      ['stat', {}],
      ['truncate', 3],
      ['sync'],
      ['datasync'],
      ['chmod', 0o600],
      ['chown', 1, 1],
      ['utimes', 1, 1],
      ['entry'],
      ['setAttributes', { mode: 0o600 }],
      ['commit'],
      ['close'],
      ['abort'],
    ],
  },
];

const SETTLES_IN_MS = 10_000;

/** Lets go what a call gave, and waits for a promise as long as one that settles takes. */
async function settle(result: unknown): Promise<void> {
  if (result instanceof EventEmitter) {
    const closed = new Promise((resolve) => {
      result.once('close', resolve).on('error', resolve);
      setTimeout(resolve, 50).unref();
    });
    (result as unknown as { destroy?(): void; close?(): void }).destroy?.();
    await closed;
  } else if (result instanceof Watcher) {
    result.close();
  } else if (result instanceof Promise) {
    const { promise, resolve } = late();
    await Promise.race([result, promise]).finally(resolve);
  } else if (typeof (result as AsyncGenerator)?.next === 'function') {
    await (result as AsyncGenerator).next();
  }
}

function late() {
  let timer: NodeJS.Timeout | undefined;
  const promise = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new assert.AssertionError({ message: 'it hangs' })),
      SETTLES_IN_MS,
    );
  });
  return { promise, resolve: () => clearTimeout(timer) };
}

/** Calls a method; what it throws must be an error with a code. */
async function outcome(object: object, method: string, args: unknown[]): Promise<AlkError | null> {
  try {
    const call = (object as Record<string, (...args: unknown[]) => unknown>)[method];
    await settle(call?.apply(object, args));
    return null;
  } catch (error) {
    if (error instanceof assert.AssertionError) {
      throw error;
    }
    assert.ok(error instanceof Error, `${method} throws ${String(error)}`);
    const { code } = error as AlkError;
    assert.equal(typeof code, 'string', `${method}: ${error.stack}`);
    assert.doesNotMatch(error.message, /panicked/);
    return error as AlkError;
  }
}

/** What classes of the package offer each other. */
const INTERNAL = new Set(['watching']);

/** The methods of a class and of those below it. */
function methods({ prototype }: Subject['of']): string[] {
  const found = new Set<string>();
  for (let at = prototype; at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    if (at === EventEmitter.prototype) {
      break;
    }
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(at))) {
      if (typeof value === 'function' && name !== 'constructor' && !INTERNAL.has(name)) {
        found.add(name);
      }
    }
  }
  return [...found].sort();
}

describe('hostile arguments', () => {
  for (const { of, make, calls } of SUBJECTS) {
    it(`of ${of.name} are refused or taken`, async () => {
      const known = new Set(calls.map(([method]) => method));
      assert.deepEqual(
        methods(of).filter((name) => !known.has(name)),
        [],
      );
      for (const [method, ...args] of calls) {
        for (let at = 0; at < args.length; at += 1) {
          for (const value of HOSTILE) {
            // An empty path of the operating system is the folder that the tests run in.
            const folder = ['export', 'import'].includes(method) && at === 0;
            if (folder && (typeof value === 'string' || ArrayBuffer.isView(value))) {
              continue;
            }
            // What a function is to do, and whom it is to call, is the caller's.
            if (method.startsWith('batch') && value === undefined) {
              continue;
            }
            const object = await make();
            await outcome(object, method, args.with(at, value));
          }
        }
      }
    });
  }

  it('of node:fs are refused or taken', async () => {
    const { fs } = tree();
    const names = Object.keys(fs).filter((name) => name.endsWith('Sync'));
    assert.ok(names.length > 30);
    for (const name of names) {
      for (const value of HOSTILE) {
        const fresh = tree();
        for (const args of [[value], ['/f', value], ['/f', '/g', value]]) {
          // A store in memory keeps as many bytes as it has room for, and that takes its time.
          if (name === 'truncateSync' && typeof args[1] === 'number' && args[1] >= 2 ** 31) {
            continue;
          }
          await outcome(fresh.fs, name, args);
        }
        const { promises } = fresh.fs as unknown as { promises: Record<string, unknown> };
        const later = name.slice(0, -4);
        if (typeof promises[later] === 'function') {
          await outcome(promises, later, [value, value]);
        }
      }
    }
  });

  it('of opening are refused', async () => {
    for (const value of [undefined, null, 7, 7n, {}, [], Symbol('x'), 'a\0b', '\ud800']) {
      assert.ok(await outcome({ open }, 'open', [value]));
      assert.ok(await outcome({ openSync }, 'openSync', [value]));
    }
    for (const options of [7, 'x', { author: 7 }, { busyTimeout: -1 }, { busyTimeout: 'x' }]) {
      assert.ok(await outcome({ memory }, 'memory', [options]));
    }
  });
});

describe('files that are larger than memory', () => {
  it('are refused by what reads them whole', async () => {
    await using store = await open(join(root, 'sparse'));
    const branch = store.bucket().branch();
    const { fs } = branch;
    const refused = { code: 'ERR_FS_FILE_TOO_LARGE', name: 'RangeError' };
    for (const size of [2 ** 31, 2 ** 32 + 7]) {
      fs.writeFileSync('/f', '');
      fs.truncateSync('/f', size);
      assert.equal(fs.statSync('/f').size, size);
      const message = `File size (${size}) is greater than 2 GiB`;
      assert.throws(() => fs.readFileSync('/f'), { ...refused, message });
      assert.throws(() => fs.readFileSync('/f', { flag: 'r+' }), { ...refused, message });
      await assert.rejects(fs.promises.readFile('/f', 'utf8'), { ...refused, message });
      await assert.rejects(promisify(fs.readFile)('/f'), { ...refused, message });
      await assert.rejects(promisify(fs.readFile)('/f', { flag: 'r+' }), { ...refused, message });
      await assert.rejects(fs.openAsBlob('/f'), { ...refused, message });
      const handle = await fs.promises.open('/f', 'r+');
      await assert.rejects(handle.readFile(), { ...refused, message });
      await assert.rejects(fs.promises.readFile(handle), { ...refused, message });
      await assert.rejects(promisify(fs.readFile)(handle.fd), { ...refused, message });
      assert.throws(() => fs.readFileSync(handle.fd), { ...refused, message });
      const read = await handle.read(Buffer.alloc(8), 0, 8, size - 2);
      assert.equal(read.bytesRead, 2);
      await handle.truncate(2 ** 40);
      await assert.rejects(handle.readFile(), refused);
      await handle.abort();
      const reader = branch.readerSync('/f');
      for (const length of [size, Number.MAX_SAFE_INTEGER]) {
        assert.throws(() => reader.readSync(0, length), refused);
        await assert.rejects(reader.read(0, length), refused);
      }
      assert.deepEqual(reader.readSync(0, 2), Buffer.alloc(2));
      assert.equal(reader.readSync(size - 2, size).length, 2);
      const session = branch.openSessionSync('/f');
      assert.throws(() => session.readSync(0, size), refused);
      await assert.rejects(session.read(0, 2 ** 53), refused);
      session.abortSync();
    }
    const session = branch.openSessionSync('/g');
    session.truncateSync(2 ** 40);
    assert.throws(() => session.readSync(0, 2 ** 46), refused);
    for (const size of [2 ** 46, Number.MAX_SAFE_INTEGER]) {
      assert.throws(() => session.truncateSync(size), { code: 'EFBIG' });
      assert.throws(() => fs.truncateSync('/f', size), { code: 'EFBIG' });
    }
    await session.abort();
  });

  it('are refused by stores in memory', () => {
    const { fs } = tree();
    for (const size of [2 ** 40, 2 ** 46]) {
      assert.throws(() => fs.truncateSync('/f', size));
      assert.equal(fs.readFileSync('/f', 'utf8'), 'content');
    }
  });
});

describe('a buffer that is taken away while it is used', () => {
  const SIZE = 4 << 20;

  interface Resizable extends ArrayBuffer {
    resize(size: number): void;
  }
  const Resizable = ArrayBuffer as unknown as new (
    size: number,
    options: { maxByteLength: number },
  ) => Resizable;

  type Taken = (fill: number) => [bytes: Uint8Array, take: () => void];
  const WAYS: Record<string, Taken> = {
    'by another thread': (fill) => {
      const bytes = new Uint8Array(SIZE).fill(fill);
      return [bytes, () => void structuredClone(bytes.buffer, { transfer: [bytes.buffer] })];
    },
    'by cutting it': (fill) => {
      const memory = new Resizable(SIZE, { maxByteLength: SIZE });
      return [new Uint8Array(memory).fill(fill), () => memory.resize(0)];
    },
  };

  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;

  const each = (name: string, check: (taken: Taken) => Promise<void>) => {
    for (const [way, taken] of Object.entries(WAYS)) {
      it(`${name}, ${way}`, () => check(taken));
    }
  };

  each('is written as it was', async (taken) => {
    const branch = tree();
    const session = branch.openSessionSync('/session');
    const handle = await branch.openFile('/handle', { write: true, create: true });
    const batch = branch.batch();
    const writes = [
      (bytes: Uint8Array) => branch.fs.promises.writeFile('/file', bytes),
      (bytes: Uint8Array) => branch.put('/put', bytes),
      (bytes: Uint8Array) => session.write(bytes, 0),
      (bytes: Uint8Array) => handle.write(bytes, 0, SIZE, 0),
      (bytes: Uint8Array) => batch.write('/batch', bytes),
    ];
    await Promise.all(
      writes.map(async (write) => {
        const [bytes, take] = taken(7);
        const written = write(bytes);
        take();
        gc();
        await written;
      }),
    );
    await Promise.all([session.close(), handle.close(), batch.commit()]);
    for (const path of ['/file', '/put', '/session', '/handle', '/batch']) {
      assert.ok(branch.fs.readFileSync(path).equals(Buffer.alloc(SIZE, 7)), path);
    }
  });

  each('is not read into', async (taken) => {
    const branch = tree();
    branch.fs.writeFileSync('/f', Buffer.alloc(SIZE, 7));
    const reader = branch.readerSync('/f');
    const session = branch.openSessionSync('/f');
    const handle = await branch.openFile('/f');
    const reads = [
      (bytes: Uint8Array) => reader.readInto(bytes, 0),
      (bytes: Uint8Array) => session.readInto(bytes, 0),
      (bytes: Uint8Array) => handle.read(bytes, 0, SIZE, 0),
    ];
    for (const read of reads) {
      const [bytes, take] = taken(0);
      const refused = assert.rejects(read(bytes), { code: 'ERR_INVALID_ARG_TYPE' });
      take();
      gc();
      await refused;
      const [kept] = taken(0);
      await read(kept);
      assert.ok(Buffer.from(kept.buffer).equals(Buffer.alloc(SIZE, 7)));
    }
  });
});

describe('closed handles', () => {
  const idle = new Set(['close', 'closeSync', 'abort', 'abortSync', 'ref', 'unref', 'return']);
  const streams = new Set([
    'createReadStream',
    'createWriteStream',
    'readLines',
    'readableWebStream',
    'writable',
    'stream',
  ]);
  for (const { of, make, calls } of SUBJECTS) {
    it(`of ${of.name} say so`, async () => {
      for (const [method, ...args] of calls) {
        const object = await make();
        const own = object as { close?(): unknown; abortSync?(): unknown };
        await (own.abortSync ?? own.close)?.call(object);
        const closes = own.abortSync !== undefined || own.close !== undefined;
        if (!closes || streams.has(method)) {
          continue;
        }
        const error = await outcome(object, method, args);
        if (idle.has(method) || of === Watcher || method === 'commit') {
          continue;
        }
        const expected = of === Session ? ['EBADF', 'EINVAL'] : ['EBADF'];
        assert.ok(expected.includes(error?.code ?? ''), `${method}: ${error}`);
      }
    });
  }
});

describe('a panic', () => {
  /** What only builds for tests have. */
  const { native } = require('../../dist/native.js') as {
    native(): { panic(place: string, later: boolean): Promise<void> | undefined };
  };

  it('becomes an exception', async () => {
    // What the panics say is expected here.
    process.env.RUST_BACKTRACE = '0';
    const said = /^Error: alknet-fs panicked: as the test wants$/;
    for (const place of ['pool', 'lane', 'pool value', 'lane value']) {
      assert.throws(() => native().panic(place, false), said);
      await assert.rejects(async () => native().panic(place, true), said);
    }
    const branch = tree();
    assert.equal(branch.fs.readFileSync('/f', 'utf8'), 'content');
  });
});
