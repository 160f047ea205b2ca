/** A process that is killed while it writes loses nothing that it was told is written. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';

import { open, openSync } from 'alknet-fs';

const SLOTS = 8;

/** What version `n` of a file holds: some contents are kept in the database, some as files. */
const content = (slot: number, n: number) => Buffer.alloc(slot % 2 ? 100 : 90_000, `${slot}.${n},`);

/** Tells the parent, before anything else is done. */
const tell = (line: string) => writeSync(1, `${line}\n`);

/** Writes for ever, in every way there is, and tells of each write when it is done. */
async function write(path: string, from: number) {
  const store = await open(path);
  const branch = store.bucket().branch();
  tell('ready');
  for (let n = from; ; n += 1) {
    branch.fs.writeFileSync('/0', content(0, n));
    tell(`0 ${n}`);
    await branch.fs.promises.writeFile('/1', content(1, n));
    tell(`1 ${n}`);
    const session = await branch.openSession('/2', { truncate: true });
    await session.write(content(2, n), 0);
    await session.close();
    tell(`2 ${n}`);
    const file = branch.fs.openSync('/3', 'w');
    branch.fs.writeSync(file, content(3, n));
    branch.fs.closeSync(file);
    tell(`3 ${n}`);
    await branch.batch(async (batch) => {
      await batch.write('/4', content(4, n));
      await batch.write('/5', content(5, n));
    });
    tell(`4 ${n}`);
    tell(`5 ${n}`);
    const handle = await branch.fs.promises.open('/6', 'w');
    await handle.write(content(6, n));
    await handle.close();
    tell(`6 ${n}`);
    const stream = branch.fs.createWriteStream('/7');
    stream.end(content(7, n));
    await once(stream, 'close');
    tell(`7 ${n}`);
    await branch.fs.promises.appendFile('/log', `${n}\n`);
    tell(`log ${n}`);
  }
}

/** Runs the writer and kills it a while after it has begun. Returns what it told of. */
async function killed(path: string, from: number, delay: number): Promise<string[]> {
  const child = spawn(process.execPath, [__filename, 'write', path, `${from}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let told = '';
  const ended = new Promise<NodeJS.Signals | null>((resolve) => {
    child.on('close', (_code, signal) => resolve(signal));
  });
  child.stdout.on('data', (data) => {
    if (told === '') {
      setTimeout(() => child.kill('SIGKILL'), delay);
    }
    told += data;
  });
  assert.equal(await ended, 'SIGKILL');
  // A line that was cut off was not told.
  return told.split('\n').slice(1, -1);
}

function tests() {
  const root = mkdtempSync(join(tmpdir(), 'alknet-crash-'));
  after(() => rmSync(root, { recursive: true }));

  describe('a process that is killed while it writes', () => {
    it('loses nothing that was acknowledged', async () => {
      const path = join(root, 'store');
      openSync(path).closeSync();
      const last = new Array<number>(SLOTS).fill(-1);
      const appended = new Set<string>();
      let [from, acknowledged, unfinished] = [0, 0, 0];
      for (let round = 0; round < 12; round += 1) {
        const told = await killed(path, from, Math.random() * 120);
        acknowledged += told.length;
        for (const line of told) {
          const [slot, n] = line.split(' ') as [string, string];
          if (slot === 'log') {
            appended.add(n);
          } else {
            last[Number(slot)] = Number(n);
          }
        }
        await using store = await open(path, { create: false });
        const branch = store.bucket().branch();
        const found: number[] = [];
        for (const [slot, n] of last.entries()) {
          const bytes = branch.existsSync(`/${slot}`)
            ? branch.fs.readFileSync(`/${slot}`)
            : undefined;
          const versions = [n, Math.max(n + 1, from)];
          const version = versions.find((each) =>
            each < 0 ? bytes === undefined : bytes?.equals(content(slot, each)),
          );
          assert.ok(version !== undefined, `/${slot} is neither of ${versions}`);
          found.push(version);
          last[slot] = version;
        }
        const lines = branch.existsSync('/log') ? branch.fs.readFileSync('/log', 'utf8') : '';
        const log = lines.split('\n').slice(0, -1);
        assert.deepEqual(new Set(log), new Set([...appended, ...log.slice(-1)]));
        assert.equal(new Set(log).size, log.length);
        for (const n of log) {
          appended.add(n);
        }
        // A batch is committed as a whole.
        assert.equal(found[4], found[5]);
        assert.deepEqual((await store.fsck()).problems, []);
        for (const { id, alive } of await store.sessions()) {
          assert.equal(alive, false);
          unfinished += 1;
          await store.abortSession(id);
        }
        from = Math.max(...last) + 1;
      }
      assert.ok(
        acknowledged > 12,
        `${acknowledged} writes and ${unfinished} sessions left open prove nothing`,
      );
    });
  });
}

const [mode, path, from] = process.argv.slice(2);
if (mode === 'write') {
  void write(path as string, Number(from));
} else {
  tests();
}
