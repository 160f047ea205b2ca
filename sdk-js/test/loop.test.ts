/** Long work, and work that waits for another process, never blocks the event loop or libuv's pool. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, promises as nodefs, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';

import { type Branch, open, openSync, type Store } from 'alknet-fs';

import { collected } from './gc.js';

const root = mkdtempSync(join(tmpdir(), 'alknet-loop-'));
after(() => rmSync(root, { recursive: true }));

let count = 0;

async function fresh(): Promise<[Store, Branch, string]> {
  const path = join(root, `store${count++}`);
  const store = await open(path);
  return [store, store.bucket().branch(), path];
}

/** Waits for something, and tells how long it took and the longest that the loop stood still. */
async function watched<T>(
  work: () => Promise<T>,
): Promise<{ took: number; gap: number; value: T }> {
  let [gap, last] = [0, performance.now()];
  const tick = () => {
    const now = performance.now();
    gap = Math.max(gap, now - last);
    last = now;
  };
  const ticks = setInterval(tick, 1);
  const start = performance.now();
  try {
    const value = await work();
    tick();
    return { took: performance.now() - start, gap, value };
  } finally {
    clearInterval(ticks);
  }
}

const HOLD = `
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('BEGIN IMMEDIATE')
print('held', flush=True)
sys.stdin.read()
`;

/** Keeps a store's write lock, as another process that writes, until it is told to let it go. */
async function hold(path: string): Promise<() => Promise<void>> {
  const python = process.env.PYTHON ?? 'python3';
  const child: ChildProcess = spawn(python, ['-c', HOLD, join(path, 'store.db')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const exit = once(child, 'exit');
  await Promise.race([
    once(child.stdout as NodeJS.ReadableStream, 'data'),
    exit.then(([code]) => assert.fail(`nothing holds the lock: ${code}`)),
  ]);
  return async () => {
    child.stdin?.end();
    await exit;
  };
}

/** How long the lock is kept, in milliseconds. */
const KEPT = 800;

/** As `watched`, while another process has the write lock. */
async function contended<T>(path: string, work: () => Promise<T>) {
  const release = await hold(path);
  const released = wait(KEPT).then(release);
  try {
    return await watched(work);
  } finally {
    await released;
  }
}

describe('the event loop goes on', () => {
  const large = Buffer.alloc(64 << 20, 'some content ');

  /**
   * What is copied between JavaScript and the store is copied on the loop's thread; and a busy
   * machine may keep that from running, but not always.
   */
  async function free<T>(work: () => Promise<T>): Promise<T> {
    const seen: string[] = [];
    for (let attempt = 0; attempt < 5; attempt += 1) {
      const { took, gap, value } = await watched(work);
      if (gap < Math.max(took / 2, 100)) {
        return value;
      }
      seen.push(`${gap} ms of ${took} ms`);
    }
    return assert.fail(`it stood still for ${seen.join(', ')}`);
  }

  it('while large files are written, read and collected', async () => {
    const [store, branch] = await fresh();
    const { promises } = branch.fs;
    await free(() => promises.writeFile('/f', large));
    assert.ok((await free(() => promises.readFile('/f'))).equals(large));
    await free(() => branch.verify('/f'));
    await free(async () => {
      const handle = await promises.open('/g', 'w');
      await handle.writeFile(large);
      await handle.close();
    });
    await promises.rm('/f');
    await free(() => store.gc({ grace: 0 }));
    await store.close();
  });

  it('while writes wait for another process', async () => {
    const [store, branch, path] = await fresh();
    const { promises } = branch.fs;
    await promises.writeFile('/f', 'content');
    const handle = await promises.open('/g', 'w');
    const session = await branch.openSession('/h');
    const batch = branch.batch();
    await session.write('content', 0);
    await handle.write('content');
    await batch.write('/i', 'content');
    const order: string[] = [];
    const { took, gap } = await contended(path, async () => {
      const writes = [
        promises.writeFile('/f', 'changed'),
        promises.mkdir('/dir'),
        promises.open('/new', 'w').then((made) => made.close()),
        branch.snapshot('s'),
        session.close(),
        handle.close(),
        batch.commit(),
        branch.fork('other'),
      ].map((write) => write.then(() => order.push('write')));
      // Nobody waits to hear of what is known.
      assert.equal(handle.position, 7);
      assert.equal(session.size, 7);
      assert.equal(session.path, '/h');
      await wait(20);
      // Others have libuv's pool meanwhile, and so have those who read.
      await nodefs.stat(root);
      assert.equal(await promises.readFile('/f', 'utf8'), 'content');
      assert.deepEqual(await promises.readdir('/'), ['f']);
      assert.equal((await branch.sessions()).length, 2);
      const reading = await promises.open('/f');
      assert.equal(await reading.readFile('utf8'), 'content');
      await reading.close();
      order.push('read');
      await Promise.all(writes);
    });
    assert.equal(order[0], 'read');
    assert.ok(took > KEPT / 2, `nobody waited: ${took} ms`);
    assert.ok(gap < took / 2, `it stood still for ${gap} ms of ${took} ms`);
    assert.deepEqual(await promises.readdir('/'), ['dir', 'f', 'g', 'h', 'i', 'new']);
    await store.close();
  });

  it('while garbage is collected that still has something open', async () => {
    const [store, branch, path] = await fresh();
    const leave = async (n: number) => {
      const handle = await branch.fs.promises.open(`/handle${n}`, 'w');
      await handle.write('never closed');
      await (await branch.openSession(`/session${n}`)).write('never closed', 0);
      await branch.batch().write('/batch', 'never committed');
    };
    for (let n = 0; n < 10; n += 1) {
      await leave(n);
    }
    assert.equal(branch.sessionsSync().length, 20);
    const { took, gap } = await contended(path, async () => {
      assert.ok(await collected(() => branch.sessionsSync().length === 0));
    });
    assert.ok(took > KEPT / 2, `nothing was collected while the lock was held: ${took} ms`);
    assert.ok(gap < took / 2, `it stood still for ${gap} ms of ${took} ms`);
    await store.close();
  });
});

describe('a process', () => {
  it('ends with garbage that still has something open', async () => {
    const path = join(root, 'ends');
    openSync(path).closeSync();
    const program = `
      const { openSync } = require('alknet-fs');
      const branch = openSync(process.argv[1]).bucket().branch();
      branch.openSessionSync('/f').writeSync('never closed', 0);
      branch.fs.openSync('/g', 'w');
      branch.fs.promises.writeFile('/h', 'awaited by nobody');`;
    const child = spawn(process.execPath, ['-e', program, path], {
      cwd: join(__dirname, '..', '..'),
      stdio: 'inherit',
    });
    assert.deepEqual(await once(child, 'exit'), [0, null]);
    const branch = openSync(path).bucket().branch();
    assert.deepEqual(branch.fs.readdirSync('/'), ['h']);
    assert.deepEqual(branch.sessionsSync(), []);
  });
});
