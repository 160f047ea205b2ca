/** `watch` and `watchFile` in the shape of `node:fs`. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { describe, it } from 'node:test';

import { type FileChange, memory, type Stats } from 'alknet-fs';

const fresh = () => memory().bucket().branch();

/** Takes as many changes as are wanted. */
async function take(changes: AsyncIterable<FileChange>, count: number) {
  const seen = [];
  for await (const { eventType, filename } of changes) {
    seen.push(`${eventType} ${filename}`);
    if (seen.length === count) {
      break;
    }
  }
  return seen;
}

describe('watching', () => {
  it('tells what happens in a directory, as an iterable', async () => {
    const { fs } = fresh();
    fs.mkdirSync('/d/sub', { recursive: true });
    fs.mkdirSync('/other');
    const changes = fs.promises.watch('/d');
    fs.writeFileSync('/other/x', '');
    fs.writeFileSync('/d/sub/deep', '');
    fs.writeFileSync('/d/a', '1');
    fs.writeFileSync('/d/a', '2');
    fs.chmodSync('/d/a', 0o600);
    fs.renameSync('/d/a', '/d/b');
    fs.renameSync('/d/b', '/other/b');
    fs.renameSync('/other/b', '/d/c');
    fs.unlinkSync('/d/c');
    assert.deepEqual(await take(changes, 8), [
      'rename a',
      'change a',
      'change a',
      'rename a',
      'rename b',
      'rename b',
      'rename c',
      'rename c',
    ]);
  });

  it('reaches deeper, through links, and to a single file', async () => {
    const { fs } = fresh();
    fs.mkdirSync('/d/sub', { recursive: true });
    fs.symlinkSync('d', '/link');
    fs.writeFileSync('/d/sub/f', '');
    const deep = fs.promises.watch('/link', { recursive: true });
    const flat = fs.promises.watch('/d', { encoding: 'buffer' });
    const file = fs.promises.watch('/d/sub/f');
    fs.writeFileSync('/d/sub/f', 'x');
    fs.rmSync('/d', { recursive: true });
    assert.deepEqual(await take(deep, 2), ['change sub/f', 'rename sub/f']);
    assert.deepEqual(await take(file, 2), ['change f', 'rename f']);
    const first = await flat.next();
    assert.ok(Buffer.isBuffer(first.value?.filename));
    await flat.return(undefined);
  });

  it('tells of a restore without a name', async () => {
    const branch = fresh();
    branch.fs.mkdirSync('/d');
    branch.snapshotSync('s');
    const changes = branch.fs.promises.watch('/d');
    branch.fs.writeFileSync('/d/a', '');
    branch.restoreSync('s');
    assert.deepEqual(await take(changes, 2), ['rename a', 'rename null']);
  });

  it('ends with its signal, and fails where there is nothing', async () => {
    const branch = fresh();
    const { fs } = branch;
    const controller = new AbortController();
    const next = fs.promises.watch('/', { signal: controller.signal }).next();
    controller.abort();
    await assert.rejects(next, { name: 'AbortError', code: 'ABORT_ERR' });
    await assert.rejects(fs.promises.watch('/none').next(), {
      code: 'ENOENT',
      syscall: 'watch',
      path: '/none',
      message: "ENOENT: no such file or directory, watch '/none'",
    });
    assert.throws(() => fs.watch('/none'), { code: 'ENOENT', syscall: 'watch' });
    assert.throws(() => branch.view().fs.watch('/'), { code: 'ENOSYS' });
  });

  it('calls a listener', async () => {
    const { fs } = fresh();
    const seen: string[] = [];
    const watcher = fs.watch('/', (eventType, filename) => seen.push(`${eventType} ${filename}`));
    fs.writeFileSync('/a', '');
    fs.writeFileSync('/a', '1');
    while (seen.length < 2) {
      await once(watcher, 'change');
    }
    assert.deepEqual(seen, ['rename a', 'change a']);
    const closed = once(watcher, 'close');
    watcher.close();
    await closed;
    const controller = new AbortController();
    const other = fs.watch('/', { signal: controller.signal, persistent: false });
    const ended = once(other, 'close');
    controller.abort();
    await ended;
  });

  it('ends with its store, without an error', async () => {
    const store = memory();
    const { fs } = store.bucket().branch();
    fs.writeFileSync('/a', '');
    const watcher = fs.watch('/');
    fs.watchFile('/a', () => {});
    const looping = take(fs.promises.watch('/'), 5);
    const errors: unknown[] = [];
    const note = (error: unknown) => errors.push(error);
    watcher.on('error', note);
    process.on('unhandledRejection', note);
    const closed = once(watcher, 'close');
    // Everybody waits for events by then.
    await new Promise((resolve) => setImmediate(resolve));
    await store.close();
    await closed;
    assert.deepEqual(await looping, []);
    await new Promise((resolve) => setImmediate(resolve));
    process.off('unhandledRejection', note);
    assert.deepEqual(errors, []);
  });

  it('looks at a file when what is there, or where its path leads, may have changed', async () => {
    const { fs } = fresh();
    const changes: Record<string, [() => void, string][]> = {
      '/dir/a': [
        [() => fs.mkdirSync('/dir'), ''],
        [() => fs.writeFileSync('/dir/a', 'one'), 'one'],
        [() => fs.renameSync('/dir', '/other'), ''],
        [() => fs.renameSync('/other', '/dir'), 'one'],
        [() => fs.appendFileSync('/dir/a', ' more'), 'one more'],
      ],
      '/link': [
        [() => fs.symlinkSync('/target', '/link'), ''],
        [() => fs.writeFileSync('/target', 'two'), 'two'],
        [() => fs.appendFileSync('/target', ' more'), 'two more'],
        [() => fs.unlinkSync('/target'), ''],
      ],
    };
    for (const [path, steps] of Object.entries(changes)) {
      const sizes: number[] = [];
      let tell = () => {};
      fs.watchFile(path, ({ size }) => {
        sizes.push(size);
        tell();
      });
      let before = '';
      for (const [change, after] of steps) {
        change();
        while (after !== before && sizes.at(-1) !== after.length) {
          await new Promise<void>((resolve) => {
            tell = resolve;
          });
        }
        before = after;
      }
      fs.unwatchFile(path);
    }
  });

  it('watches many files with one thread', async () => {
    const { fs } = fresh();
    const threads = () => readdirSync('/proc/self/task').length;
    const listed = existsSync('/proc/self/task');
    const before = listed ? threads() : 0;
    const files = Array.from({ length: 100 }, (_, n) => `/${n}`);
    const seen = new Set<string>();
    for (const file of files) {
      fs.writeFileSync(file, '');
      fs.watchFile(file, ({ size }) => size > 0 && seen.add(file));
    }
    if (listed) {
      assert.ok(threads() - before < 20, `${threads() - before} threads more`);
    }
    for (const file of files) {
      fs.writeFileSync(file, 'changed');
    }
    while (seen.size < files.length) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    for (const file of files) {
      fs.unwatchFile(file);
    }
    // Whoever begins anew is told anew.
    const again = new Promise((resolve) => fs.watchFile('/1', resolve));
    fs.writeFileSync('/1', 'changed again');
    await again;
    fs.unwatchFile('/1');
  });

  it('compares the attributes of a file', async () => {
    const { fs } = fresh();
    const seen: [number, number][] = [];
    let told = () => {};
    const listener = (found: Stats, before: Stats) => {
      seen.push([found.size, before.size]);
      told();
    };
    const until = async (count: number) => {
      while (seen.length < count) {
        await new Promise<void>((resolve) => {
          told = resolve;
        });
      }
    };
    fs.watchFile('/a', listener);
    await until(1);
    fs.writeFileSync('/other', '');
    fs.writeFileSync('/a', 'abc');
    await until(2);
    fs.unlinkSync('/a');
    await until(3);
    assert.deepEqual(seen, [
      [0, 0],
      [3, 0],
      [0, 3],
    ]);
    fs.unwatchFile('/a', listener as never);
  });
});
