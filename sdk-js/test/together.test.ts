/** What several do at once to one file, in one process and in two. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { constants, type FileHandle as NodeHandle } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';

import { type Branch, memory, open, openSync } from 'alknet-fs';

const LINES = 50;

/** Appends lines in every way there is. */
async function append(branch: Branch, name: string) {
  const { fs } = branch;
  const { promises } = fs;
  const line = (way: string, n: number) => `${name} ${way} ${n}\n`;
  const numbers = Array.from({ length: LINES }, (_, n) => n);
  await Promise.all(numbers.map((n) => promises.appendFile('/log', line('promise', n))));
  await Promise.all(
    numbers.slice(0, 10).map(async (n) => {
      const handle = await promises.open('/log', 'a');
      await handle.write(line('handle', n));
      await handle.appendFile(line('handle', n + 100));
      await handle.close();
    }),
  );
  await Promise.all(
    numbers.slice(0, 10).map(async (n) => {
      const stream = fs.createWriteStream('/log', { flags: 'a' });
      stream.end(line('stream', n));
      await once(stream, 'close');
    }),
  );
  for (const n of numbers.slice(0, 10)) {
    fs.appendFileSync('/log', line('sync', n));
  }
}

/** Checks that every line of each who appended is there, once and whole. */
function check(branch: Branch, names: string[]) {
  const lines = branch.fs.readFileSync('/log', 'utf8').split('\n');
  assert.equal(lines.pop(), '');
  assert.equal(new Set(lines).size, lines.length);
  assert.equal(lines.length, names.length * (LINES + 10 * 4));
  for (const line of lines) {
    const [name, way, n] = line.split(' ');
    assert.ok(names.includes(name as string) && way && Number(n) >= 0, line);
  }
}

async function settled(operations: Promise<unknown>[]) {
  const all = await Promise.allSettled(operations);
  const failures = all.flatMap((each) => (each.status === 'rejected' ? [each.reason] : []));
  return { done: all.length - failures.length, codes: new Set(failures.map(({ code }) => code)) };
}

function tests() {
  const root = mkdtempSync(join(tmpdir(), 'alknet-together-'));
  after(() => rmSync(root, { recursive: true }));

  const fresh = async () => (await open(mkdtempSync(join(root, 'store')))).bucket().branch();

  describe('several at once', () => {
    it('lose nothing that they append', async () => {
      for (const branch of [memory().bucket().branch(), await fresh()]) {
        await Promise.all(['one', 'other'].map((name) => append(branch, name)));
        check(branch, ['one', 'other']);
      }
    });

    it('lose nothing that they append, in two processes', async () => {
      const path = join(root, 'shared');
      openSync(path).closeSync();
      const names = ['one', 'other'];
      const exits = names.map(async (name) => {
        const child = spawn(process.execPath, [__filename, 'append', path, name], {
          stdio: 'inherit',
        });
        return once(child, 'exit');
      });
      assert.deepEqual(await Promise.all(exits), [
        [0, null],
        [0, null],
      ]);
      check(openSync(path).bucket().branch(), names);
    });

    it('make a file but once', async () => {
      const { promises } = (await fresh()).fs;
      await promises.writeFile('/source', 'content');
      const exclusive = constants.COPYFILE_EXCL;
      const ways: Record<string, (n: number) => Promise<unknown>> = {
        copyFile: () => promises.copyFile('/source', '/copyFile', exclusive),
        writeFile: (n) => promises.writeFile('/writeFile', `${n}`, { flag: 'wx' }),
        mkdir: () => promises.mkdir('/mkdir'),
      };
      for (const [name, way] of Object.entries(ways)) {
        const { done, codes } = await settled(Array.from({ length: 8 }, (_, n) => way(n)));
        assert.deepEqual([name, done, [...codes]], [name, 1, ['EEXIST']]);
      }
    });

    it('open a new file but once, until it is closed and after', async () => {
      const { fs } = await fresh();
      const { promises } = fs;
      const handles: NodeHandle[] = [];
      const opens = Array.from({ length: 8 }, async () => {
        handles.push((await promises.open('/lock', 'wx')) as unknown as NodeHandle);
      });
      const { done, codes } = await settled(opens);
      assert.deepEqual([done, [...codes]], [1, ['EEXIST']]);
      const refused = { code: 'EEXIST', syscall: 'open', path: '/lock' };
      assert.throws(() => fs.openSync('/lock', 'wx'), refused);
      const [handle] = handles as [NodeHandle];
      await handle.close();
      assert.throws(() => fs.openSync('/lock', 'wx'), refused);
      await promises.unlink('/lock');
      const again = await promises.open('/lock', 'ax');
      await again.abort();
      await (await promises.open('/lock', 'wx')).close();
    });
  });
}

const [mode, path, name] = process.argv.slice(2);
if (mode === 'append') {
  void open(path as string).then(async (store) => {
    await append(store.bucket().branch(), name as string);
    await store.close();
  });
} else {
  tests();
}
