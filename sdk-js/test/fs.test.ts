import assert from 'node:assert/strict';
import * as nodefs from 'node:fs';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';

import { Dirent, type FileSystem, memory, open, openSync, Stats } from 'alknet-fs';

const root = mkdtempSync(join(tmpdir(), 'alknet-fs-'));
after(() => rmSync(root, { recursive: true }));

function fresh(): FileSystem {
  return memory().bucket().branch().fs;
}

/** What of an error Node's and ours have in common. */
function shape(error: unknown) {
  const { message, code, errno, syscall, path, dest } = error as NodeJS.ErrnoException & {
    dest?: string;
  };
  return { message, code, errno, syscall, path, dest };
}

function thrown(run: () => unknown) {
  try {
    run();
  } catch (error) {
    return shape(error);
  }
  throw new assert.AssertionError({ message: 'nothing was thrown' });
}

describe('errors', () => {
  const calls: [string, (fs: typeof nodefs, at: string) => unknown][] = [
    ['readFile', (fs, at) => fs.readFileSync(`${at}/none`)],
    ['readFile of a directory', (fs, at) => fs.readFileSync(`${at}/dir`)],
    ['readFile below a file', (fs, at) => fs.readFileSync(`${at}/file/x`)],
    ['writeFile', (fs, at) => fs.writeFileSync(`${at}/none/x`, '')],
    ['writeFile of a directory', (fs, at) => fs.writeFileSync(`${at}/dir`, '')],
    ['writeFile with wx', (fs, at) => fs.writeFileSync(`${at}/file`, '', { flag: 'wx' })],
    ['open', (fs, at) => fs.openSync(`${at}/none`, 'r+')],
    ['stat', (fs, at) => fs.statSync(`${at}/none`)],
    ['lstat', (fs, at) => fs.lstatSync(`${at}/none`)],
    ['stat of a loop', (fs, at) => fs.statSync(`${at}/loop`)],
    ['access', (fs, at) => fs.accessSync(`${at}/none`)],
    ['readdir', (fs, at) => fs.readdirSync(`${at}/none`)],
    ['readdir of a file', (fs, at) => fs.readdirSync(`${at}/file`)],
    ['mkdir', (fs, at) => fs.mkdirSync(`${at}/dir`)],
    ['mkdir without a parent', (fs, at) => fs.mkdirSync(`${at}/none/x`)],
    ['mkdir recursive over a file', (fs, at) => fs.mkdirSync(`${at}/file`, { recursive: true })],
    ['rmdir', (fs, at) => fs.rmdirSync(`${at}/dir`)],
    ['rmdir of a file', (fs, at) => fs.rmdirSync(`${at}/file`)],
    ['unlink', (fs, at) => fs.unlinkSync(`${at}/none`)],
    ['rename', (fs, at) => fs.renameSync(`${at}/none`, `${at}/x`)],
    ['rename onto a directory', (fs, at) => fs.renameSync(`${at}/file`, `${at}/dir`)],
    ['copyFile', (fs, at) => fs.copyFileSync(`${at}/none`, `${at}/x`)],
    [
      'copyFile with COPYFILE_EXCL',
      (fs, at) => fs.copyFileSync(`${at}/file`, `${at}/dir/file`, fs.constants.COPYFILE_EXCL),
    ],
    ['symlink', (fs, at) => fs.symlinkSync('text', `${at}/file`)],
    ['readlink', (fs, at) => fs.readlinkSync(`${at}/file`)],
    ['chmod', (fs, at) => fs.chmodSync(`${at}/none`, 0o600)],
    ['utimes', (fs, at) => fs.utimesSync(`${at}/none`, 1, 1)],
    ['truncate', (fs, at) => fs.truncateSync(`${at}/none`)],
  ];
  const fs = fresh();
  const at = join(root, 'errors');
  for (const each of [nodefs, fs as unknown as typeof nodefs]) {
    each.mkdirSync(`${at}/dir`, { recursive: true });
    each.writeFileSync(`${at}/file`, 'x');
    each.writeFileSync(`${at}/dir/file`, 'x');
    each.symlinkSync('loop', `${at}/loop`);
  }
  for (const [name, call] of calls) {
    it(`of ${name} are Node's`, () => {
      const ours = thrown(() => call(fs as unknown as typeof nodefs, at));
      assert.deepEqual(
        ours,
        thrown(() => call(nodefs, at)),
      );
    });
  }

  it('come the same way from promises and callbacks, with the kind', async () => {
    const want = thrown(() => fs.readFileSync('/none'));
    await assert.rejects(fs.promises.readFile('/none'), (error) => {
      assert.deepEqual(shape(error), want);
      assert.equal((error as { kind?: string }).kind, 'NotFound');
      return true;
    });
    const error = await new Promise((resolve) => fs.readFile('/none', resolve));
    assert.deepEqual(shape(error), want);
  });

  it('of arguments are thrown', async () => {
    assert.throws(() => fs.readFileSync('/a\0b'), { code: 'ERR_INVALID_ARG_VALUE' });
    assert.throws(() => fs.statSync(7 as never), { code: 'ERR_INVALID_ARG_TYPE' });
    assert.throws(() => fs.stat('/x', undefined as never), { code: 'ERR_INVALID_ARG_TYPE' });
    await assert.rejects(fs.promises.writeFile('/x', 7 as never), { code: 'ERR_INVALID_ARG_TYPE' });
    assert.throws(() => fs.openSync('/x', 'q'), { code: 'ERR_INVALID_ARG_VALUE' });
  });
});

describe('files', () => {
  it('are written and read', async () => {
    const fs = fresh();
    await fs.promises.writeFile('/a', 'grüße');
    assert.equal(await fs.promises.readFile('/a', 'utf8'), 'grüße');
    assert.deepEqual(fs.readFileSync('/a'), Buffer.from('grüße'));
    assert.equal(fs.readFileSync('/a', { encoding: 'hex' }), Buffer.from('grüße').toString('hex'));
    fs.appendFileSync('/a', '!');
    await fs.promises.appendFile('/new', new Uint16Array([0x4142]) as never);
    assert.equal(fs.readFileSync('/a', 'utf8'), 'grüße!');
    assert.equal(fs.readFileSync('/new', 'latin1'), 'BA');
    const large = Buffer.alloc(300_000, 'abcdefg');
    fs.writeFileSync('/large', large);
    assert.deepEqual(fs.readFileSync('/large'), large);
    assert.deepEqual(await fs.promises.readFile('/large'), large);
  });

  it('are written from iterables, or not at all', async () => {
    const fs = fresh();
    await fs.promises.writeFile('/a', ['one ', 'two']);
    assert.equal(fs.readFileSync('/a', 'utf8'), 'one two');
    const failing = (async function* () {
      yield 'half';
      throw new Error('broken');
    })();
    await assert.rejects(fs.promises.writeFile('/a', failing), /broken/);
    assert.equal(fs.readFileSync('/a', 'utf8'), 'one two');
  });

  it('keep a mode that is given at their creation', () => {
    const fs = fresh();
    fs.writeFileSync('/a', '', { mode: 0o700 });
    fs.writeFileSync('/a', 'again', { mode: 0o600 });
    assert.equal(fs.statSync('/a').mode, nodefs.constants.S_IFREG | 0o700);
  });

  it('are not touched when the signal says so', async () => {
    const fs = fresh();
    const signal = AbortSignal.abort();
    await assert.rejects(fs.promises.writeFile('/a', 'x', { signal }), { name: 'AbortError' });
    assert.equal(fs.existsSync('/a'), false);
  });

  it('are waited for until the signal says so', async () => {
    const fs = fresh();
    fs.writeFileSync('/a', 'old');
    const controller = new AbortController();
    const { signal } = controller;
    const read = fs.promises.readFile('/a', { signal });
    const large = Buffer.alloc(4 << 20, 'new');
    const written = fs.promises.writeFile('/a', large, { signal });
    controller.abort();
    await assert.rejects(read, { name: 'AbortError', code: 'ABORT_ERR' });
    await assert.rejects(written, { name: 'AbortError', code: 'ABORT_ERR' });
    assert.equal(fs.readFileSync('/a', 'utf8'), 'old');
  });

  it('are asked about on other threads when the disk is slow', async (t: TestContext) => {
    const { promises } = fresh();
    await promises.writeFile('/a', 'abc', { mode: 0o600 });
    let now = 0;
    t.mock.method(performance, 'now', () => {
      now += 1000;
      return now;
    });
    // The first takes a second; those after it are not measured.
    for (const _ of [1, 2, 3]) {
      assert.equal((await promises.stat('/a')).size, 3);
      assert.equal((await promises.lstat('/a', { bigint: true })).size, 3n);
      await promises.access('/a');
      await assert.rejects(promises.access('/a', nodefs.constants.X_OK), { code: 'EACCES' });
      await assert.rejects(promises.stat('/none'), {
        message: "ENOENT: no such file or directory, stat '/none'",
      });
    }
    assert.equal(now, 2000);
  });

  it('open, read, write and close by number', async () => {
    const fs = fresh();
    const fd = fs.openSync('/a', 'w+');
    assert.equal(fs.writeSync(fd, 'hello world'), 11);
    assert.equal(fs.writeSync(fd, Buffer.from('J'), 0, 1, 0), 1);
    const buffer = Buffer.alloc(5);
    assert.equal(fs.readSync(fd, buffer, 0, 5, 0), 5);
    assert.equal(buffer.toString(), 'Jello');
    fs.ftruncateSync(fd, 5);
    assert.equal(fs.fstatSync(fd).size, 5);
    assert.equal(fs.existsSync('/a'), false);
    fs.closeSync(fd);
    assert.equal(fs.readFileSync('/a', 'utf8'), 'Jello');
    assert.throws(() => fs.closeSync(fd), { code: 'EBADF', syscall: 'close' });

    const opened = await promisify(fs.open)('/a', 'r');
    const [n, same] = await new Promise<[number, Buffer]>((resolve, reject) =>
      fs.read(opened, buffer, 0, 5, 1, (error, n, same) =>
        error ? reject(error) : resolve([n, same as Buffer]),
      ),
    );
    assert.equal(n, 4);
    assert.equal(same, buffer);
    await promisify(fs.close)(opened);
  });

  it('open as handles, which commit when they close and not when they abort', async () => {
    const fs = fresh();
    const handle = await fs.promises.open('/a', 'w');
    await handle.write('one');
    await handle.write(Buffer.from('xtwox'), 1, 3, null);
    await handle.sync();
    assert.equal((await handle.stat()).size, 6);
    assert.equal(fs.existsSync('/a'), false);
    await handle.close();
    assert.equal(fs.readFileSync('/a', 'utf8'), 'onetwo');

    const edit = await fs.promises.open('/a', 'r+');
    await edit.write('X', 0);
    assert.equal(await edit.readFile('utf8'), 'Xnetwo');
    await edit.abort();
    assert.equal(fs.readFileSync('/a', 'utf8'), 'onetwo');

    const reader = await fs.promises.open('/a');
    const { bytesRead, buffer } = await reader.read({ position: 3 });
    assert.equal(buffer.toString('utf8', 0, bytesRead), 'two');
    await assert.rejects(reader.write('x'), { code: 'EBADF' });
    await reader.close();
    await assert.rejects(reader.read(), { code: 'EBADF' });
  });
});

describe('trees', () => {
  it('are listed as Node lists them', async () => {
    const fs = fresh();
    assert.equal(fs.mkdirSync('/a/b/c', { recursive: true }), '/a');
    assert.equal(fs.mkdirSync('/a/b/c', { recursive: true }), undefined);
    fs.writeFileSync('/a/f', '');
    fs.symlinkSync('f', '/a/l');
    assert.deepEqual(fs.readdirSync('/a'), ['b', 'f', 'l']);
    assert.deepEqual(fs.readdirSync('/', { recursive: true }), ['a', 'a/b', 'a/b/c', 'a/f', 'a/l']);
    const found = await fs.promises.readdir('/a', { withFileTypes: true, recursive: true });
    assert.ok(found.every((entry) => (entry as unknown) instanceof Dirent));
    const shown = found.map((e) => [e.parentPath, e.name, e.isDirectory(), e.isSymbolicLink()]);
    assert.deepEqual(shown, [
      ['/a', 'b', true, false],
      ['/a/b', 'c', true, false],
      ['/a', 'f', false, false],
      ['/a', 'l', false, true],
    ]);
    assert.equal(fs.readlinkSync('/a/l'), 'f');
    assert.equal(fs.realpathSync('/a/./l'), '/a/f');
  });

  it('are changed as Node changes them', async () => {
    const fs = fresh();
    const p = fs.promises;
    await p.mkdir('/d');
    await p.writeFile('/d/f', 'x');
    await p.copyFile('/d/f', '/g');
    await p.cp('/d', '/e/d', { recursive: true });
    assert.equal(fs.readFileSync('/e/d/f', 'utf8'), 'x');
    await p.writeFile('/d/f', 'y');
    await p.cp('/d', '/e/d', { recursive: true, filter: async (from) => !from.endsWith('/g') });
    assert.equal(fs.readFileSync('/e/d/f', 'utf8'), 'y');
    await assert.rejects(p.cp('/d', '/x'), { code: 'ERR_FS_EISDIR' });
    await assert.rejects(p.cp('/d', '/d/x', { recursive: true }), { code: 'ERR_FS_CP_EINVAL' });
    await p.rename('/e', '/h');
    await assert.rejects(p.rm('/h'), { code: 'ERR_FS_EISDIR' });
    await p.rm('/h', { recursive: true });
    await p.rm('/h', { force: true });
    await assert.rejects(p.rm('/h'), { code: 'ENOENT' });
    await p.unlink('/g');
    await p.unlink('/d/f');
    await p.rmdir('/d');
    assert.deepEqual(fs.readdirSync('/'), []);
  });

  it('keep what is set', async () => {
    const fs = fresh();
    fs.writeFileSync('/f', 'abcdef');
    await fs.promises.chmod('/f', 0o640);
    await fs.promises.chown('/f', 12, -1);
    await fs.promises.utimes('/f', 0, new Date(1_234_567));
    await fs.promises.truncate('/f', 3);
    fs.utimesSync('/f', 0, 1_234.567);
    const stat = fs.statSync('/f');
    assert.ok((stat as unknown) instanceof Stats);
    assert.equal(stat.mode & 0o7777, 0o640);
    assert.equal(stat.uid, 12);
    assert.equal(stat.size, 3);
    assert.equal(stat.mtimeMs, 1_234_567);
    assert.equal(stat.mtime.getTime(), 1_234_567);
    assert.equal(fs.statSync('/f', { bigint: true }).mtimeNs, 1_234_567_000_000n);
    assert.equal(fs.statSync('/none', { throwIfNoEntry: false }), undefined);
    fs.accessSync('/f', nodefs.constants.W_OK);
    assert.throws(() => fs.accessSync('/f', nodefs.constants.X_OK), { code: 'EACCES' });
  });
});

describe('branches', () => {
  it('fork, snapshot and restore', async () => {
    const main = memory().bucket().branch();
    await main.fs.promises.writeFile('/f', 'one');
    await main.snapshot('v1');
    const fork = await main.fork('agent');
    await fork.fs.promises.writeFile('/f', 'two');
    assert.equal(main.fs.readFileSync('/f', 'utf8'), 'one');
    const pinned = await main.fork('pinned', { snapshot: 'v1' });
    await main.fs.promises.writeFile('/f', 'three');
    const view = main.view();
    assert.equal(pinned.fs.readFileSync('/f', 'utf8'), 'one');
    assert.equal(main.view('v1').fs.readFileSync('/f', 'utf8'), 'one');
    await main.restore('v1');
    assert.equal(main.fs.readFileSync('/f', 'utf8'), 'one');
    assert.equal(view.fs.readFileSync('/f', 'utf8'), 'three');
    assert.throws(() => view.fs.writeFileSync('/f', ''), { code: 'EROFS' });
    assert.deepEqual(
      (await main.snapshots()).map(({ name }) => name),
      ['v1'],
    );
    assert.equal((await main.entry('/f')).hash?.length, 64);
  });

  it('are there again when the store is opened again', async (t: TestContext) => {
    const path = join(root, t.name);
    await assert.rejects(open(path, { create: false }), { code: 'EMEDIUMTYPE' });
    const store = await open(path);
    assert.equal(store.path, path);
    await store.bucket().branch().fs.promises.writeFile('/f', 'kept');
    await store.createBucket('other');
    const again = openSync(path);
    assert.deepEqual(await again.buckets(), ['default', 'other']);
    assert.equal(again.bucket().branch().fs.readFileSync('/f', 'utf8'), 'kept');
    assert.throws(() => again.bucket('none'), { code: 'ENOENT', kind: 'NotFound' });
  });
});
