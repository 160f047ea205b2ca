/** Open files by numbers and as handles, directories, patterns. */

import assert from 'node:assert/strict';
import * as nodefs from 'node:fs';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';

import { type FileHandle, type FileSystem, memory } from 'alknet-fs';

import { type Anything, fresh as both, caught, same, shape } from './both.js';
import { collected } from './gc.js';

function fresh(): FileSystem {
  return memory().bucket().branch().fs;
}

function thrown(operation: () => unknown): unknown {
  try {
    return operation();
  } catch (error) {
    return error;
  }
}

const text = (buffer: Uint8Array, n: number) => Buffer.from(buffer).toString('utf8', 0, n);

describe('descriptors are as those of node:fs', () => {
  same('a time that a later write replaces', (fs, at) => {
    const changes: ((fd: number) => unknown)[] = [
      (fd) => fs.ftruncateSync(fd, 3),
      (fd) => fs.writeSync(fd, 'x'),
      (fd) => fs.fchmodSync(fd, 0o600),
    ];
    return changes.map((change) => {
      const fd = fs.openSync(`${at}/file`, 'r+');
      fs.futimesSync(fd, 1, 2);
      change(fd);
      const seen = fs.fstatSync(fd).mtimeMs > 2000;
      fs.closeSync(fd);
      return [seen, fs.statSync(`${at}/file`).mtimeMs > 2000];
    });
  });
  same('reading', (fs, at) => {
    const fd = fs.openSync(`${at}/file`, 'r');
    const buffer = Buffer.alloc(10);
    const seen: unknown[] = [];
    seen.push(fs.readSync(fd, buffer), text(buffer, 7));
    seen.push(fs.readSync(fd, buffer));
    seen.push(fs.readSync(fd, buffer, 2, 3, 1), text(buffer, 10));
    seen.push(fs.readSync(fd, buffer, { offset: 1, length: 2, position: 0 }), text(buffer, 10));
    seen.push(fs.readSync(fd, new Uint16Array(2), 0, 4, 0n as unknown as number));
    const parts = [Buffer.alloc(2), Buffer.alloc(9)];
    seen.push(fs.readvSync(fd, parts, 1), parts);
    seen.push(fs.readSync(fd, Buffer.alloc(0)));
    fs.closeSync(fd);
    return seen;
  });
  same('writing', (fs, at) => {
    const fd = fs.openSync(`${at}/new`, 'w+', 0o640);
    const seen: unknown[] = [];
    seen.push(fs.writeSync(fd, 'hello world'), fs.writeSync(fd, 'J', 0));
    seen.push(fs.writeSync(fd, 'ff', null, 'hex'));
    seen.push(fs.writeSync(fd, Buffer.from('abcdef'), 2, 3, 4));
    seen.push(fs.writeSync(fd, Buffer.from('xyz'), { offset: 1, position: 0 } as Anything));
    seen.push(fs.writevSync(fd, [Buffer.from('12'), Buffer.from('3')], 20));
    seen.push(fs.writevSync(fd, [Buffer.from('at'), Buffer.from('end')]));
    fs.ftruncateSync(fd, 22);
    fs.fchmodSync(fd, 0o600);
    fs.futimesSync(fd, 1, 2.5);
    fs.fsyncSync(fd);
    fs.fdatasyncSync(fd);
    const { size, mtimeMs, mode } = fs.fstatSync(fd);
    seen.push({ size, mtimeMs, mode }, fs.fstatSync(fd, { bigint: true }).size);
    fs.closeSync(fd);
    return [...seen, fs.readFileSync(`${at}/new`), fs.statSync(`${at}/new`).mtimeMs];
  });
  same('appending', (fs, at) => {
    const fd = fs.openSync(`${at}/file`, 'a+');
    const buffer = Buffer.alloc(20);
    const seen: unknown[] = [fs.writeSync(fd, '1', 0), fs.readSync(fd, buffer, 0, 20, 0)];
    fs.closeSync(fd);
    return [...seen, text(buffer, 20), fs.readFileSync(`${at}/file`, 'utf8')];
  });
  same('whole files', (fs, at) => {
    const fd = fs.openSync(`${at}/file`, 'r+');
    const seen: unknown[] = [fs.readSync(fd, Buffer.alloc(3)), fs.readFileSync(fd, 'utf8')];
    fs.writeFileSync(fd, 'more');
    fs.appendFileSync(fd, 'still');
    fs.closeSync(fd);
    return [...seen, fs.readFileSync(`${at}/file`, 'utf8')];
  });
  same('numbers of flags', (fs, at) => {
    const { O_CREAT, O_EXCL, O_RDWR, O_TRUNC, O_WRONLY, O_APPEND } = fs.constants;
    for (const flags of [O_CREAT | O_EXCL | O_RDWR, O_TRUNC | O_WRONLY, O_APPEND | O_WRONLY]) {
      const fd = fs.openSync(`${at}/new`, flags, 0o644);
      fs.writeSync(fd, 'text');
      fs.closeSync(fd);
    }
    return fs.readFileSync(`${at}/new`, 'utf8');
  });
  same('of directories', async (fs, at) => {
    const fd = fs.openSync(`${at}/dir`, 'r');
    fs.fsyncSync(fd);
    const seen = [
      fs.fstatSync(fd).isDirectory(),
      await caught(() => fs.readSync(fd, Buffer.alloc(3))),
      await caught(() => fs.writeSync(fd, 'x')),
    ];
    fs.closeSync(fd);
    return seen;
  });

  const wrong: [string, (fs: typeof nodefs, at: string, r: number, w: number) => unknown][] = [
    ['no number', (fs) => fs.closeSync('x' as Anything)],
    ['a negative one', (fs) => fs.fstatSync(-1)],
    ['a broken one', (fs) => fs.fsyncSync(1.5)],
    ['nobody’s', (fs) => fs.closeSync(999_999)],
    ['nobody’s to read', (fs) => fs.readSync(999_999, Buffer.alloc(1))],
    ['nobody’s to cut', (fs) => fs.ftruncateSync(999_999, 1)],
    ['nobody’s to stamp', (fs) => fs.futimesSync(999_999, 1, 1)],
    ['a reader to write', (fs, _at, r) => fs.writeSync(r, 'x')],
    ['a reader to cut', (fs, _at, r) => fs.ftruncateSync(r, 1)],
    ['a writer to read', (fs, _at, _r, w) => fs.readSync(w, Buffer.alloc(1))],
    ['an offset beyond', (fs, _at, r) => fs.readSync(r, Buffer.alloc(3), 5, 1, 0)],
    ['a length beyond', (fs, _at, r) => fs.readSync(r, Buffer.alloc(3), 1, 5, 0)],
    [
      'a position that is none',
      (fs, _at, r) => fs.readSync(r, Buffer.alloc(3), 0, 1, 'x' as Anything),
    ],
    ['a position before', (fs, _at, r) => fs.readSync(r, Buffer.alloc(3), 0, 1, -5)],
    ['a broken position', (fs, _at, r) => fs.readSync(r, Buffer.alloc(3), 0, 1, 1.5)],
    ['no buffer', (fs, _at, r) => fs.readSync(r, 'x' as Anything)],
    ['no buffers', (fs, _at, r) => fs.readvSync(r, 'x' as Anything)],
    ['wrong buffers', (fs, _at, _r, w) => fs.writevSync(w, ['x'] as Anything)],
    ['an offset to write beyond', (fs, _at, _r, w) => fs.writeSync(w, Buffer.alloc(3), 5, 1)],
    ['a length to write beyond', (fs, _at, _r, w) => fs.writeSync(w, Buffer.alloc(3), 1, 5)],
    ['no data', (fs, _at, _r, w) => fs.writeSync(w, {} as Anything)],
    ['a wrong length', (fs, _at, _r, w) => fs.ftruncateSync(w, 'x' as Anything)],
    ['a wrong mode', (fs, _at, _r, w) => fs.fchmodSync(w, 'x')],
    ['a wrong owner', (fs, _at, _r, w) => fs.fchownSync(w, 'x' as Anything, 1)],
    ['a wrong time', (fs, _at, _r, w) => fs.futimesSync(w, 1, {} as Anything)],
    ['no callback', (fs, _at, r) => (fs.fstat as Anything)(r)],
    ['a callback of another kind', (fs, _at, r) => (fs.close as Anything)(r, 7)],
  ];
  for (const [name, call] of wrong) {
    same(`with ${name}`, async (fs, at) => {
      const [r, w] = [fs.openSync(`${at}/file`, 'r'), fs.openSync(`${at}/new`, 'w')];
      try {
        return await caught(() => call(fs, at, r, w));
      } finally {
        fs.closeSync(w);
      }
    });
  }

  same('with callbacks', async (fs, at) => {
    const open = promisify(fs.open) as Anything;
    const fd = await open(`${at}/new`, 'w+');
    const seen: unknown[] = [
      await promisify(fs.write)(fd, Buffer.from('hello')),
      await promisify(fs.write)(fd, ' world'),
      await promisify(fs.writev)(fd, [Buffer.from('!')]),
      await promisify(fs.read)(fd, Buffer.alloc(5), 0, 5, 0),
      await (promisify(fs.read) as Anything)(fd, { buffer: Buffer.alloc(3), position: 1 }),
      await promisify(fs.readv)(fd, [Buffer.alloc(2)], 2),
      (await promisify(fs.fstat)(fd)).size,
    ];
    await promisify(fs.ftruncate)(fd, 3);
    await promisify(fs.fsync)(fd);
    await promisify(fs.close)(fd);
    const error = await new Promise((resolve) => (fs.close as Anything)(fd, resolve));
    const exists = [await promisify(fs.exists)(`${at}/new`), await promisify(fs.exists)(at + at)];
    return [...seen, shape(error).error.message, exists, fs.readFileSync(`${at}/new`, 'utf8')];
  });
  same('as a Blob', async (fs, at) => {
    const blob = await fs.openAsBlob(`${at}/file`, { type: 'text/plain' });
    return [blob.size, blob.type, await blob.text()];
  });
});

describe('handles are as those of node:fs', () => {
  same('reading and writing', async (fs, at) => {
    const handle = await fs.promises.open(`${at}/new`, 'w+');
    const seen: unknown[] = [
      { ...(await handle.write('hello world')) },
      { ...(await handle.write(Buffer.from('xJx'), 1, 1, 0)) },
      { ...(await handle.writev([Buffer.from('a'), Buffer.from('b')])) },
      { ...(await handle.read(Buffer.alloc(4), 0, 4, 1)) },
      (await handle.read({ position: 0 })).bytesRead,
      (await handle.readv([Buffer.alloc(3), Buffer.alloc(2)], 0)).buffers,
    ];
    await handle.truncate(8);
    await handle.appendFile('X');
    await handle.chmod(0o600);
    await handle.utimes(1, 2);
    await handle.datasync();
    await handle.sync();
    const { size, mode } = await handle.stat();
    seen.push(size, mode, (await handle.stat({ bigint: true })).mtimeMs);
    await handle.close();
    await handle.close();
    seen.push(handle.fd, await caught(() => handle.read()), await caught(() => handle.stat()));
    return [...seen, fs.readFileSync(`${at}/new`, 'utf8')];
  });
  same('whole', async (fs, at) => {
    const handle = await fs.promises.open(`${at}/file`, 'r+');
    const seen: unknown[] = [await handle.readFile('utf8'), await handle.readFile()];
    await handle.writeFile('more');
    await fs.promises.writeFile(handle, 'and more');
    await handle.close();
    return [...seen, await fs.promises.readFile(`${at}/file`, 'utf8')];
  });
  same('lines', async (fs, at) => {
    fs.writeFileSync(`${at}/new`, 'one\r\ntwo\nthree');
    const handle = await fs.promises.open(`${at}/new`);
    const lines = [];
    for await (const line of handle.readLines()) {
      lines.push(line);
    }
    return lines;
  });
  same('streams', async (fs, at) => {
    const writer = await fs.promises.open(`${at}/new`, 'w');
    const stream = writer.createWriteStream({ encoding: 'utf8' });
    stream.write('hello ');
    stream.end('world');
    await new Promise<void>((resolve) => stream.on('close', () => resolve()));
    const reader = await fs.promises.open(`${at}/new`);
    const chunks = [];
    for await (const chunk of reader.createReadStream({ start: 2, end: 8, highWaterMark: 4 })) {
      chunks.push(chunk);
    }
    return [chunks, writer.fd, reader.fd];
  });
  same('an error', async (fs, at) => {
    const handle = await fs.promises.open(`${at}/file`, 'r');
    const seen = [
      await caught(() => handle.write('x')),
      await caught(() => handle.truncate(1)),
      await caught(() => handle.writeFile(7 as Anything)),
    ];
    await handle.close();
    return seen;
  });

  it('and give web streams', async () => {
    const fs = fresh();
    fs.writeFileSync('/a', Buffer.alloc(200_000, 'abc'));
    const handle = await fs.promises.open('/a');
    const blocks = [];
    for await (const block of handle.readableWebStream()) {
      blocks.push(block);
    }
    assert.deepEqual(Buffer.concat(blocks), fs.readFileSync('/a'));
    await handle.close();
  });

  it('but change nothing when they are left unclosed', async () => {
    const fs = fresh();
    fs.writeFileSync('/a', 'old');
    const closed: FileHandle[] = [];
    const work = async (name: string, fail: boolean) => {
      const handle = await fs.promises.open(name, 'w');
      try {
        closed.push(handle);
        await handle.write('new');
        if (fail) {
          throw new Error('broken');
        }
        await handle.close();
      } finally {
        // As `await using` does.
        await handle[Symbol.asyncDispose]();
      }
    };
    await assert.rejects(work('/a', true), /broken/);
    assert.equal(fs.readFileSync('/a', 'utf8'), 'old');
    await work('/b', false);
    assert.equal(fs.readFileSync('/b', 'utf8'), 'new');
    assert.deepEqual(
      closed.map((handle) => handle.fd),
      [-1, -1],
    );
  });

  it('and close after the writes that are on their way', async () => {
    const fs = fresh();
    const handle = await fs.promises.open('/a', 'w');
    const writes = Array.from({ length: 20 }, (_, at) => handle.write(`${at % 10}`, at));
    await handle.close();
    await Promise.all(writes);
    assert.equal(fs.readFileSync('/a', 'utf8'), '01234567890123456789');
  });
});

describe('directories', () => {
  same('are opened as by node:fs', async (fs, at) => {
    for (const name of ['a', 'b', 'c']) {
      fs.writeFileSync(`${at}/dir/${name}`, '');
    }
    const names = [];
    const dir = await fs.promises.opendir(`${at}/dir`);
    for await (const entry of dir) {
      names.push([entry.name, entry.isFile(), entry.parentPath]);
    }
    const again = fs.opendirSync(`${at}/dir`, { bufferSize: 1 });
    while (again.readSync() !== null) {
      names.push(['one', true, again.path]);
    }
    again.closeSync();
    const third = fs.opendirSync(`${at}/dir`);
    const first = await third.read();
    await third.close();
    const closed = [await caught(() => third.read()), await caught(() => again.closeSync())];
    return [names.sort(), first?.isFile(), closed, await caught(() => dir.read())];
  });
  same('are listed whole', async (fs, at) => {
    fs.mkdirSync(`${at}/dir/sub`);
    fs.writeFileSync(`${at}/dir/sub/a`, '');
    const seen = [];
    for await (const entry of await fs.promises.opendir(`${at}/dir`, { recursive: true })) {
      seen.push(`${entry.parentPath} ${entry.name}`);
    }
    return seen.sort();
  });
});

describe('patterns', () => {
  const fs = fresh();
  const at = both();
  for (const [each, root] of [
    [fs, ''],
    [nodefs, at],
  ] as const) {
    for (const path of ['/src/a.ts', '/src/lib/b.ts', '/src/lib/c.js', '/.git/d.ts', '/e.ts']) {
      each.mkdirSync(root + path.replace(/\/[^/]*$/, '/'), { recursive: true });
      each.writeFileSync(root + path, '');
    }
    each.symlinkSync('lib', `${root}/src/link`);
  }

  const cases: [string | string[], Anything, string[]][] = [
    ['*.ts', {}, ['e.ts']],
    ['**/*.ts', {}, ['e.ts', 'src/a.ts', 'src/lib/b.ts']],
    ['src/**/*.{ts,js}', {}, ['src/a.ts', 'src/lib/b.ts', 'src/lib/c.js']],
    ['src/*', {}, ['src/a.ts', 'src/lib', 'src/link']],
    ['src/*/', {}, ['src/lib']],
    ['src/', {}, ['src']],
    ['.', {}, []],
    ['src/**', {}, ['src', 'src/a.ts', 'src/lib', 'src/lib/b.ts', 'src/lib/c.js', 'src/link']],
    ['src/{a.ts,lib/*.js}', {}, ['src/a.ts', 'src/lib/c.js']],
    ['src/!(a).ts', {}, []],
    ['src/+(a|b).ts', {}, ['src/a.ts']],
    ['**/.*', {}, ['.git']],
    ['src/?.ts', {}, ['src/a.ts']],
    ['src/[b-z].ts', {}, []],
    ['.git/*', {}, ['.git/d.ts']],
    ['/src/*.ts', {}, ['/src/a.ts']],
    ['*.ts', { cwd: '/src' }, ['a.ts']],
    ['*/*.ts', {}, ['src/a.ts']],
    ['./src/*/?.ts', {}, ['src/lib/b.ts']],
    ['../*.ts', { cwd: '/src' }, ['../e.ts']],
    ['none/*', {}, []],
    ['e.ts', {}, ['e.ts']],
    [['*.ts', 'src/*.ts'], {}, ['e.ts', 'src/a.ts']],
    ['**/*.ts', { exclude: (name: string) => name === 'src/lib' }, ['e.ts', 'src/a.ts']],
    ['**/*.ts', { exclude: ['src'] }, ['e.ts']],
  ];
  for (const [pattern, options, want] of cases) {
    it(`${pattern} with ${JSON.stringify(options)}`, async () => {
      assert.deepEqual(fs.globSync(pattern, options), want);
      const found = [];
      for await (const path of fs.promises.glob(pattern, options)) {
        found.push(path);
      }
      assert.deepEqual(found, want);
      const back = await new Promise((resolve, reject) =>
        fs.glob(pattern, options, (error, value) => (error ? reject(error) : resolve(value))),
      );
      assert.deepEqual(back, want);
      // Node has it since version 22.
      if ('globSync' in nodefs && !pattern.includes('/src/*.ts')) {
        const cwd = `${at}${options.cwd ?? ''}`;
        const node = (nodefs as Anything).globSync(pattern, { ...options, cwd }).sort();
        assert.deepEqual(node, want);
      }
    });
  }

  it('give entries too', () => {
    const found = fs.globSync('src/*', { withFileTypes: true });
    assert.deepEqual(
      found.map((entry) => [entry.parentPath, entry.name, entry.isDirectory()]),
      [
        ['/src', 'a.ts', false],
        ['/src', 'lib', true],
        ['/src', 'link', false],
      ],
    );
    assert.throws(() => fs.globSync(7 as Anything), { code: 'ERR_INVALID_ARG_TYPE' });
  });
});

describe('hard links', () => {
  it('are not there', () => {
    const fs = fresh();
    fs.writeFileSync('/a', '');
    assert.throws(() => fs.linkSync('/a', '/b'), {
      code: 'EPERM',
      syscall: 'link',
      path: '/a',
      dest: '/b',
      message: "EPERM: operation not permitted, link '/a' -> '/b'",
    });
  });
});

describe('handles', () => {
  it('are collected with their number', async () => {
    const branch = memory().bucket().branch();
    const numbers: number[] = [];
    const leave = async (path: string) => {
      const handle = await branch.fs.promises.open(path, 'w');
      await handle.write('data');
      numbers.push(handle.fd);
    };
    for (let i = 0; i < 10; i += 1) {
      await leave(`/f${i}`);
    }
    assert.equal(branch.sessionsSync().length, 10);
    assert.ok(
      await collected(() => branch.sessionsSync().length === 0),
      `${branch.sessionsSync().length}`,
    );
    for (const fd of numbers) {
      assert.throws(() => branch.fs.fstatSync(fd), { code: 'EBADF' });
    }
  });

  it('can be aborted while they wait for more to write', { timeout: 10_000 }, async () => {
    const fs = fresh();
    for (const how of ['abort', 'signal'] as const) {
      const handle = await fs.promises.open('/f', 'w');
      let returned = false;
      let asked = () => {};
      const waits = new Promise<void>((resolve) => {
        asked = resolve;
      });
      const chunks = {
        [Symbol.asyncIterator]: () => chunks,
        next: () => {
          asked();
          return new Promise<IteratorResult<string>>(() => {});
        },
        return: async () => {
          returned = true;
          return { done: true as const, value: undefined };
        },
      };
      const controller = new AbortController();
      const written = handle.writeFile(chunks, { signal: controller.signal });
      const refused = assert.rejects(written, { name: 'AbortError' });
      await waits;
      if (how === 'signal') {
        controller.abort();
        await refused;
      }
      await handle.abort();
      await refused;
      assert.ok(returned);
      assert.equal(fs.existsSync('/f'), false);
    }
  });

  it('stop reading when a signal says so', async () => {
    const fs = fresh();
    const size = 40 << 20;
    fs.writeFileSync('/f', Buffer.alloc(size));
    const handle = await fs.promises.open('/f');
    const controller = new AbortController();
    const refused = assert.rejects(handle.readFile({ signal: controller.signal }), {
      name: 'AbortError',
    });
    setImmediate(() => controller.abort());
    await refused;
    assert.ok(handle.position < size, `${handle.position} bytes were read`);
    await handle.close();
  });

  it('are for promises only', async () => {
    const fs = fresh();
    fs.writeFileSync('/f', 'content');
    const handle = (await fs.promises.open('/f', 'r+')) as unknown as string;
    const refused = { code: 'ERR_INVALID_ARG_TYPE' };
    assert.throws(() => fs.readFileSync(handle), refused);
    assert.throws(() => fs.writeFileSync(handle, ''), refused);
    assert.throws(() => fs.appendFileSync(handle, ''), refused);
    assert.throws(() => fs.readFile(handle, () => {}), refused);
    assert.throws(() => fs.writeFile(handle, '', () => {}), refused);
    assert.equal(await fs.promises.readFile(handle, 'utf8'), 'content');
    await fs.promises.appendFile(handle, ' and more');
    await (handle as unknown as FileHandle).close();
    assert.equal(fs.readFileSync('/f', 'utf8'), 'content and more');
  });
});

describe('flags are as those of node:fs', () => {
  const { O_DIRECTORY, O_NOFOLLOW, O_CREAT, O_WRONLY } = nodefs.constants;
  const flags: unknown[] = [Number.NaN, 1.5, 2 ** 31, Infinity, 'constructor', '__proto__', {}];
  for (const flag of flags) {
    same(`that are none: ${String(flag)}`, (fs, at) => fs.openSync(`${at}/file`, flag as string));
  }
  const numbers = [O_DIRECTORY, O_NOFOLLOW, O_DIRECTORY | O_NOFOLLOW];
  for (const flag of [...numbers, O_NOFOLLOW | O_WRONLY | O_CREAT]) {
    for (const path of ['file', 'dir', 'link', 'dirlink', 'none']) {
      for (const later of [false, true]) {
        same(`that look first: ${flag.toString(8)} ${path} ${later}`, async (fs, at) => {
          fs.symlinkSync('file', `${at}/link`);
          fs.symlinkSync('dir', `${at}/dirlink`);
          const file = `${at}/${path}`;
          if (later) {
            await (await fs.promises.open(file, flag)).close();
          } else {
            fs.closeSync(fs.openSync(file, flag));
          }
          return fs.existsSync(file);
        });
      }
    }
  }
  same('that look first, of whole files', (fs, at) => {
    fs.symlinkSync('file', `${at}/link`);
    const options = { flag: O_NOFOLLOW | O_WRONLY } as Anything;
    return [
      shape(thrown(() => fs.readFileSync(`${at}/link`, { flag: O_NOFOLLOW } as Anything))),
      shape(thrown(() => fs.writeFileSync(`${at}/link`, 'x', options))),
    ];
  });
  for (const flag of ['r', 'rs']) {
    same(`that do not write: ${flag}`, (fs, at) => fs.writeFileSync(`${at}/file`, 'x', { flag }));
    same(`that do not write, later: ${flag}`, (fs, at) =>
      fs.promises.appendFile(`${at}/file`, 'x', { flag }),
    );
    same(`that do not write, nowhere: ${flag}`, (fs, at) =>
      fs.writeFileSync(`${at}/none`, 'x', { flag }),
    );
  }
  same('that do not read', (fs, at) => fs.readFileSync(`${at}/file`, { flag: 'a' }));
});
