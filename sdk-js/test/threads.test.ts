/** Several threads on one store. Each opens it for itself: handles do not cross threads. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

import { open, openSync, type Store } from 'alknet-fs';

interface Job {
  path: string;
  name: string;
  what: 'share' | 'busy';
}

const FILES = 40;
const WORKERS = 4;

/** Writes to a branch of its own and to one that all share, and sees what everybody commits. */
async function share(store: Store, name: string) {
  const bucket = store.bucket();
  const main = bucket.branch();
  const seen: number[] = [];
  const watcher = bucket.watch({ glob: ['*.txt'] });
  parentPort?.postMessage('ready');
  await new Promise((go) => parentPort?.once('message', go));
  const watched = (async () => {
    for await (const event of watcher) {
      seen.push(event.cursor);
      if (seen.length === FILES * WORKERS * 2) {
        break;
      }
    }
  })();
  const own = await main.fork(name);
  for (let n = 0; n < FILES; n += 1) {
    main.fs.writeFileSync(`/${name}-${n}.txt`, `${name} ${n}`);
    await own.fs.promises.writeFile(`/${name}-own-${n}.txt`, `${n}`);
    assert.equal(own.fs.readFileSync(`/${name}-${n}.txt`, 'utf8'), `${name} ${n}`);
  }
  await watched;
  parentPort?.postMessage(seen);
  await store.close();
}

/** Reads, writes and watches for ever, in the pool and on the thread. */
async function busy(store: Store, name: string) {
  const branch = store.bucket().branch();
  void branch.watch().next();
  branch.openSessionSync(`/${name}-open`).writeSync('never closed', 0);
  parentPort?.postMessage('ready');
  for (let n = 0; ; n += 1) {
    const large = Buffer.alloc(100_000, n);
    await Promise.all([
      branch.fs.promises.writeFile(`/${name}-${n % 5}`, large),
      branch.fs.promises.readdir('/'),
      branch.walk('/'),
    ]);
  }
}

async function work({ path, name, what }: Job) {
  const store = await open(path, { durability: 'relaxed' });
  await (what === 'share' ? share : busy)(store, name);
}

const message = (worker: Worker) =>
  new Promise<unknown>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });

function tests() {
  const root = mkdtempSync(join(tmpdir(), 'alknet-threads-'));
  after(() => rmSync(root, { recursive: true }));

  describe('worker threads', () => {
    it('read, write and watch one store at once', async () => {
      const path = join(root, 'shared');
      openSync(path).closeSync();
      const workers = Array.from({ length: WORKERS }, (_, n) => {
        const workerData: Job = { path, name: `worker-${n}`, what: 'share' };
        return new Worker(__filename, { workerData });
      });
      const exits = workers.map((worker) => new Promise((exit) => worker.once('exit', exit)));
      await Promise.all(workers.map(message));
      for (const worker of workers) {
        worker.postMessage('go');
      }
      const seen = (await Promise.all(workers.map(message))) as number[][];
      const [first] = seen;
      assert.equal(new Set(first).size, FILES * WORKERS * 2);
      assert.deepEqual(
        first,
        [...(first as number[])].sort((a, b) => a - b),
      );
      for (const other of seen) {
        assert.deepEqual(other, first);
      }
      assert.deepEqual(
        await Promise.all(exits),
        workers.map(() => 0),
      );
      const store = openSync(path);
      assert.equal(store.bucket().branch().listSync('/').length, FILES * WORKERS);
      assert.deepEqual((await store.fsck()).problems, []);
      store.closeSync();
    });

    it('end at any moment', async () => {
      const path = join(root, 'ended');
      openSync(path).closeSync();
      for (let round = 0; round < 8; round += 1) {
        const workers = [0, 1].map((n) => {
          const workerData: Job = { path, name: `${round}-${n}`, what: 'busy' };
          return new Worker(__filename, { workerData });
        });
        await Promise.all(workers.map(message));
        await wait(round * 7);
        await Promise.all(workers.map((worker) => worker.terminate()));
      }
      const store = openSync(path);
      assert.deepEqual((await store.fsck()).problems, []);
      assert.deepEqual(
        store.sessionsSync().filter(({ alive }) => alive),
        [],
      );
      store.closeSync();
    });

    it('load and unload the module where the main thread never does', () => {
      const program = `
        const { Worker } = require('node:worker_threads');
        const inside = \`
          const { memory } = require('alknet-fs');
          const branch = memory().bucket().branch();
          branch.fs.writeFileSync('/f', Buffer.alloc(100000));
          branch.watch().unref().next();
          branch.fs.promises.readFile('/f').then(() => {});
        \`;
        (async () => {
          for (let round = 0; round < 10; round += 1) {
            const exits = [0, 1, 2].map(() => {
              const worker = new Worker(inside, { eval: true });
              return new Promise((exit) => worker.on('exit', exit));
            });
            for (const code of await Promise.all(exits)) {
              if (code !== 0) process.exit(10 + code);
            }
          }
        })();`;
      const { status, signal } = spawnSync(process.execPath, ['-e', program], {
        cwd: join(__dirname, '..', '..'),
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      assert.deepEqual({ status, signal }, { status: 0, signal: null });
    });
  });
}

if (isMainThread) {
  tests();
} else {
  void work(workerData as Job);
}
