/** Streams of files, of Node and of the web. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { describe, it } from 'node:test';

import { memory, openSync } from 'alknet-fs';

import { type Anything, caught, same, shape } from './both.js';

const fresh = () => memory().bucket().branch();

/** Tells every event of a stream until it closes. */
async function events(stream: Anything, names: string[]) {
  const seen: unknown[] = [];
  for (const name of names) {
    stream.on(name, (value: unknown) => {
      const shown = value instanceof Error ? shape(value) : typeof value === 'number' ? 'n' : value;
      seen.push(shown === undefined ? name : [name, shown]);
    });
  }
  await new Promise<void>((resolve) => stream.on('close', () => resolve()));
  return seen;
}

const READ = ['open', 'ready', 'data', 'end', 'error', 'close'];
const WRITE = ['open', 'ready', 'finish', 'error', 'close'];

describe('streams are as those of node:fs', () => {
  same('that read', async (fs, at) => {
    const seen = [];
    for (const options of [
      undefined,
      'utf8',
      { start: 2 },
      { start: 1, end: 4, encoding: 'hex' },
      { highWaterMark: 3 },
      { end: 0 },
      { flags: 'r+' },
    ]) {
      const stream = fs.createReadStream(`${at}/file`, options as Anything);
      seen.push(await events(stream, READ), stream.bytesRead, stream.path, (stream as Anything).fd);
    }
    return seen;
  });
  same('that read from a number', async (fs, at) => {
    const fd = fs.openSync(`${at}/file`, 'r');
    const stream = fs.createReadStream('', { fd, autoClose: false, start: 3 });
    const chunks = [];
    for await (const chunk of stream) {
      chunks.push(chunk);
    }
    const size = fs.fstatSync(fd).size;
    fs.closeSync(fd);
    return [chunks, size];
  });
  same('that find nothing', async (fs, at) => [
    await events(fs.createReadStream(`${at}/none`), READ),
    await events(fs.createReadStream(`${at}/dir`), READ),
    await events(fs.createWriteStream(`${at}/none/x`), WRITE),
    await events(fs.createWriteStream(`${at}/dir`), WRITE),
    await events(fs.createWriteStream(`${at}/file`, { flags: 'wx' }), WRITE),
  ]);
  same('that are made of wrong arguments', async (fs, at) => [
    await caught(() => fs.createReadStream(7 as Anything)),
    await caught(() => fs.createReadStream('/a\0b')),
    await caught(() => fs.createReadStream(`${at}/file`, { start: 'x' } as Anything)),
    await caught(() => fs.createReadStream(`${at}/file`, { start: 3, end: 1 })),
    await caught(() => fs.createReadStream(`${at}/file`, { encoding: 'utf99' } as Anything)),
  ]);
  same('that write', async (fs, at) => {
    const seen = [];
    for (const options of [
      undefined,
      { encoding: 'hex' },
      { start: 3, flags: 'r+' },
      { flags: 'a' },
      { mode: 0o600, flush: true },
    ]) {
      const stream = fs.createWriteStream(`${at}/new`, options as Anything);
      const closed = events(stream, WRITE);
      stream.write('6162');
      stream.write(Buffer.from('63'));
      stream.end('64');
      seen.push(await closed, stream.bytesWritten, fs.readFileSync(`${at}/new`, 'utf8'));
    }
    return seen;
  });
  same('that are closed', async (fs, at) => {
    const stream = fs.createWriteStream(`${at}/new`);
    stream.write('text');
    await new Promise<void>((resolve) => stream.close(() => resolve()));
    return [fs.readFileSync(`${at}/new`, 'utf8'), stream.closed];
  });
  same('that a signal stops', async (fs, at) => {
    const controller = new AbortController();
    const { signal } = controller;
    const stream = fs.createReadStream(`${at}/file`, { signal });
    const closed = events(stream, ['error', 'data', 'close']);
    controller.abort();
    return closed;
  });
  same('that are made by constructors', async (fs, at) => {
    const stream = new (fs.WriteStream as Anything)(`${at}/new`);
    stream.end('text');
    await finished(stream);
    const reader = new (fs.ReadStream as Anything)(`${at}/new`, { encoding: 'utf8' });
    const text = await reader.toArray();
    return [
      text,
      reader instanceof fs.ReadStream,
      reader instanceof Readable,
      stream instanceof Writable,
    ];
  });
  same('in a pipeline', async (fs, at) => {
    fs.writeFileSync(`${at}/large`, Buffer.alloc(1 << 20, 'abcdefg'));
    await pipeline(fs.createReadStream(`${at}/large`), fs.createWriteStream(`${at}/copy`));
    return fs.readFileSync(`${at}/copy`).equals(fs.readFileSync(`${at}/large`));
  });
});

describe('streams without new', () => {
  same('read and write', async (fs, at) => {
    const { ReadStream, WriteStream } = fs as Anything;
    const source = ReadStream(`${at}/file`);
    const target = WriteStream(`${at}/copy`);
    await pipeline(source, target);
    return [
      fs.readFileSync(`${at}/copy`, 'utf8'),
      source instanceof ReadStream,
      target instanceof WriteStream,
      ReadStream.name,
    ];
  });
});

describe('streams', () => {
  it('that are destroyed leave nothing', async () => {
    const { fs } = fresh();
    fs.writeFileSync('/a', 'old');
    for (const error of [undefined, new Error('broken')]) {
      const stream = fs.createWriteStream('/a');
      stream.on('error', () => {});
      await new Promise<void>((resolve) => stream.write('half', () => resolve()));
      stream.destroy(error);
      await new Promise<void>((resolve) => stream.on('close', () => resolve()));
      assert.equal(fs.readFileSync('/a', 'utf8'), 'old');
    }
    const source = Readable.from(
      (function* () {
        yield 'half';
        throw new Error('broken');
      })(),
    );
    await assert.rejects(pipeline(source, fs.createWriteStream('/b')), /broken/);
    assert.equal(fs.existsSync('/b'), false);

    const handle = await fs.promises.open('/a', 'w');
    const stream = handle.createWriteStream();
    await new Promise<void>((resolve) => stream.write('half', () => resolve()));
    stream.destroy();
    await new Promise<void>((resolve) => stream.on('close', () => resolve()));
    assert.equal(fs.readFileSync('/a', 'utf8'), 'old');
    assert.equal(handle.fd, -1);
  });

  it('show a file when they have finished', async () => {
    const { fs } = fresh();
    const stream = fs.createWriteStream('/a');
    await new Promise<void>((resolve) => stream.write('text', () => resolve()));
    assert.equal(fs.existsSync('/a'), false);
    stream.end();
    await new Promise<void>((resolve) => stream.on('close', () => resolve()));
    assert.equal(fs.readFileSync('/a', 'utf8'), 'text');
  });

  it('say that they have finished when the file is there', async () => {
    const { fs } = fresh();
    const seen: string[] = [];
    const look = (path: string) => () => seen.push(fs.readFileSync(path, 'utf8'));
    const stream = fs.createWriteStream('/a', { flush: true });
    stream.on('finish', look('/a'));
    stream.end('one', look('/a'));
    await finished(stream);
    look('/a')();
    assert.deepEqual(seen, ['one', 'one', 'one']);

    const handle = await fs.promises.open('/b', 'w');
    const other = handle.createWriteStream();
    other.on('finish', look('/b'));
    await pipeline(['two'], other);
    assert.deepEqual(seen.slice(3), ['two']);
    assert.equal(handle.fd, -1);

    const kept = await fs.promises.open('/c', 'w');
    const first = kept.createWriteStream({ autoClose: false });
    await new Promise<void>((resolve) => first.end('three', resolve));
    assert.equal(fs.existsSync('/c'), false);
    await kept.write(', four');
    await kept.close();
    assert.equal(fs.readFileSync('/c', 'utf8'), 'three, four');
  });

  it('have committed before a process ends for that', async () => {
    const root = mkdtempSync(join(tmpdir(), 'alknet-streams-'));
    try {
      const program = `
        const { fs } = require('alknet-fs').openSync(${JSON.stringify(root)}).bucket().branch();
        const stream = fs.createWriteStream('/a');
        stream.on('finish', () => process.exit(7));
        stream.end('text');
      `;
      const { status } = spawnSync(process.execPath, ['-e', program], { stdio: 'inherit' });
      assert.equal(status, 7);
      using store = openSync(root);
      assert.equal(store.bucket().branch().fs.readFileSync('/a', 'utf8'), 'text');
    } finally {
      rmSync(root, { recursive: true });
    }
  });

  it('whose commit fails do not finish, and tell it once', async () => {
    const { fs } = fresh();
    const failing = async (make: (path: string) => Promise<Anything>) => {
      fs.mkdirSync('/gone');
      const stream = await make('/gone/a');
      await new Promise<void>((resolve) => stream.write('half', () => resolve()));
      fs.rmSync('/gone', { recursive: true });
      return stream;
    };
    const plain = async (path: string) => fs.createWriteStream(path);
    const handles: Anything[] = [];
    const ofHandle = async (path: string) => {
      handles.push(await fs.promises.open(path, 'w'));
      return handles.at(-1).createWriteStream();
    };
    for (const make of [plain, ofHandle]) {
      const stream = await failing(make);
      const seen = events(stream, ['finish', 'error', 'close']);
      const told = new Promise((resolve) => stream.end(resolve));
      const [[error, shown], ...rest] = (await seen) as [[string, Anything], unknown];
      assert.equal(error, 'error');
      assert.equal(shown.error.code, 'ENOENT');
      assert.deepEqual(rest, ['close']);
      assert.equal(((await told) as Anything).code, 'ENOENT');
      await assert.rejects(pipeline(['rest'], await failing(make)), { code: 'ENOENT' });
    }
    assert.deepEqual(
      handles.map(({ fd }) => fd),
      [-1, -1],
    );
    assert.deepEqual(fs.readdirSync('/'), []);
  });
});
