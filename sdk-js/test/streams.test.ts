/** Streams of files, of Node and of the web. */

import assert from 'node:assert/strict';
import { Readable, Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { describe, it } from 'node:test';

import { memory } from 'alknet-fs';

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
});
