/** What the package offers beyond `node:fs`. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { setImmediate as turn, setTimeout as wait } from 'node:timers/promises';
import { inspect, promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import {
  type AlkError,
  type Batch,
  type Branch,
  memory,
  open,
  openSync,
  type Progress,
  type Store,
  type StoreEvent,
  type Watcher,
} from 'alknet-fs';

const root = mkdtempSync(join(tmpdir(), 'alknet-store-'));
after(() => rmSync(root, { recursive: true }));

let stores = 0;

async function onDisk(): Promise<Store> {
  stores += 1;
  return open(join(root, `${stores}`), { durability: 'relaxed', author: 'tester' });
}

const fresh = (): Branch => memory({ author: 'tester' }).bucket().branch();
const read = (branch: Branch, path: string) => branch.fs.readFileSync(path, 'utf8');

/** Waits until something holds, or fails. */
async function until(holds: () => boolean, what: string) {
  for (const end = Date.now() + 20_000; !holds(); await wait(10)) {
    assert.ok(Date.now() < end, `in vain: ${what}`);
  }
}

/** Collects garbage until something holds. */
async function collected(holds: () => boolean, what: string) {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  await until(() => {
    gc();
    return holds();
  }, what);
}

describe('what is done at once', () => {
  it('takes no function that is done later', async () => {
    const main = fresh();
    const refused = { code: 'ERR_INVALID_RETURN_VALUE', name: 'TypeError' };
    const half = (async (batch: Batch) => {
      batch.writeSync('/half', '');
      await turn();
      batch.writeSync('/rest', '');
    }) as (batch: Batch) => void;
    assert.throws(() => main.batchSync(half), refused);
    main.fs.writeFileSync('/source', '');
    const filter = async () => false;
    const options = { filter: filter as unknown as () => boolean };
    assert.throws(() => main.fs.cpSync('/source', '/target', options), refused);
    assert.deepEqual(main.fs.readdirSync('/'), ['source']);
    await main.fs.promises.cp('/source', '/target', { filter });
    assert.deepEqual(main.fs.readdirSync('/'), ['source']);
  });
});

describe('batches', () => {
  it('commit everything at once, in the order of the calls', async () => {
    const main = fresh();
    const batch = main.batch();
    const large = Buffer.alloc(300_000, 7);
    // Large contents are staged elsewhere; what is called for later still comes later.
    const calls = [
      batch.mkdir('/d/e', { recursive: true }),
      batch.put('/d/large', large, { mode: 0o600, mtime: 5n }),
      batch.rename('/d/large', '/d/moved'),
      batch.write('/d/text', 'text'),
      batch.symlink('text', '/d/link'),
      batch.copy('/d/text', '/d/copy'),
      batch.unlink('/d/text'),
      batch.setAttributes('/d/copy', { mode: 0o640 }),
      batch.rmdir('/d/e'),
    ];
    assert.throws(() => batch.mkdirSync('/x'), { code: 'ERR_INVALID_STATE' });
    await Promise.all(calls);
    assert.equal(batch.length, calls.length);
    assert.equal(batch.contentBytes, large.length + 4);
    assert.equal(main.existsSync('/d'), false);
    await batch.commit();
    assert.deepEqual(
      main.walkSync().map(({ path, mode }) => `${path} ${mode.toString(8)}`),
      ['/d 755', '/d/copy 640', '/d/link 777', '/d/moved 600'],
    );
    assert.deepEqual(main.fs.readFileSync('/d/moved'), large);
    assert.equal(main.entrySync('/d/moved').mtime, 5n);
    assert.throws(() => batch.length, { code: 'EBADF', kind: 'BadHandle' });
    await assert.rejects(batch.commit(), { code: 'EBADF', kind: 'BadHandle' });
  });

  it('change nothing where one change fails, or they are dropped', async () => {
    const main = fresh();
    const failing = main.batch();
    failing.writeSync('/a', 'x');
    failing.unlinkSync('/none');
    await assert.rejects(failing.commit(), { code: 'ENOENT', path: '/none' });
    {
      using batch = main.batch();
      batch.writeSync('/a', 'x');
    }
    {
      await using batch = main.batch();
      await batch.write('/a', Buffer.alloc(200_000));
    }
    const dropped = main.batch();
    await dropped.write('/a', 'x');
    await dropped.abort();
    await dropped.abort();
    assert.deepEqual(main.walkSync(), []);
  });

  it('belong to a function', async () => {
    const main = fresh();
    const made = await main.batch(async (batch) => {
      await batch.write('/a', 'one');
      // Not awaited, and committed all the same.
      void batch.write('/b', Buffer.alloc(200_000));
      return 'made';
    });
    assert.equal(made, 'made');
    assert.equal(main.fs.statSync('/b').size, 200_000);
    const boom = new Error('boom');
    const fails = main.batch(async (batch) => {
      await batch.write('/a', 'two');
      throw boom;
    });
    await assert.rejects(fails, boom);
    assert.throws(
      () =>
        main.batchSync((batch) => {
          batch.writeSync('/a', 'two');
          throw boom;
        }),
      boom,
    );
    assert.equal(read(main, '/a'), 'one');
    main.batchSync((batch) => batch.removeAllSync('/a'));
    assert.equal(main.existsSync('/a'), false);
  });
});

describe('sessions', () => {
  it('write anywhere and commit on close', async () => {
    const main = fresh();
    main.fs.writeFileSync('/f', '0123456789');
    const session = await main.openSession('/f', { owner: 'me' });
    await session.write('ab', 2);
    await session.write(Buffer.from('XYZ'), 3);
    assert.equal(await session.append('!'), 10);
    assert.equal((await session.read(0, 100)).toString(), '01aXYZ6789!');
    const into = new Uint8Array(3);
    assert.equal(await session.readInto(into, 9), 2);
    await session.truncate(8);
    assert.equal(session.size, 8);
    await session.sync();
    assert.equal(read(main, '/f'), '0123456789');
    const [listed, ...others] = await main.sessions();
    assert.deepEqual(others, []);
    assert.equal(listed?.id, session.id);
    assert.equal(listed?.owner, 'me');
    assert.equal(listed?.base, 10);
    assert.ok((listed?.staged ?? 0) > 0);
    assert.deepEqual(
      await main.bucket
        .branch()
        .fork('other')
        .then((b) => b.sessions()),
      [],
    );
    const closed = await session.close({ mode: 0o600 });
    assert.deepEqual([closed.path, closed.size], ['/f', 8]);
    assert.equal(closed.hash, main.entrySync('/f').hash);
    assert.equal(main.entrySync('/f').mode, 0o600);
    assert.equal(read(main, '/f'), '01aXYZ67');
    await assert.rejects(session.write('x', 0), { code: 'EBADF', kind: 'BadHandle' });
  });

  it('exclude others', async () => {
    const store = await onDisk();
    const main = store.bucket().branch();
    const first = await main.openSession('/f', { exclusive: true, owner: 'agent-a' });
    const second = main.openSession('/f', { exclusive: true, owner: 'agent-b' });
    await assert.rejects(second, (error: AlkError) => {
      assert.equal(error.kind, 'Locked');
      assert.equal(error.code, 'EBUSY');
      assert.match(error.message, /agent-a/);
      return true;
    });
    first.abortSync();
    main.openSessionSync('/f', { exclusive: true }).abortSync();
    await store.close();
  });

  it('are left open and resumed', async () => {
    const store = await onDisk();
    const main = store.bucket().branch();
    const session = main.openSessionSync('/f', { createNew: true, mode: 0o600 });
    session.writeSync('half', 0);
    const id = session.detachSync();
    assert.equal(id, session.id);
    assert.throws(() => session.size, { code: 'EBADF' });
    assert.deepEqual(
      store.sessionsSync().map(({ id, alive }) => [id, alive]),
      [[id, false]],
    );
    const path = store.path as string;
    await store.close();
    await using again = await open(path, { create: false });
    const resumed = await again.resumeSession(id);
    resumed.appendSync(' and half');
    resumed.closeSync();
    assert.equal(read(again.bucket().branch(), '/f'), 'half and half');
    const other = again.bucket().branch().openSessionSync('/g');
    await assert.rejects(again.abortSession(other.id), { kind: 'Locked' });
    await again.abortSession(other.id, { force: true });
    assert.deepEqual(await again.sessions(), []);
    await assert.rejects(again.resumeSession(999), { code: 'ENOENT' });
  });

  it('are aborted where a block is left, and where they are garbage', async () => {
    const store = await onDisk();
    const main = store.bucket().branch();
    {
      using session = main.openSessionSync('/f');
      session.writeSync('x', 0);
    }
    {
      await using session = await main.openSession('/f');
      await session.write('x', 0);
    }
    {
      await using session = await main.openSession('/kept');
      await session.write('x', 0);
      await session.close();
    }
    assert.deepEqual(await store.sessions(), []);
    const warnings: string[] = [];
    const warn = ({ name, message }: Error) => {
      if (name === 'UnsavedWarning') {
        warnings.push(message);
      }
    };
    process.on('warning', warn);
    (() => main.openSessionSync('/lost').writeSync('x', 0))();
    (() => main.batch().writeSync('/f', 'x'))();
    await (async () => (await main.fs.promises.open('/h', 'w')).write('x'))();
    await (async () => (await main.fs.promises.open('/h', 'w')).stat())();
    (() => main.fs.openSync('/g', 'w'))();
    await collected(() => store.sessionsSync().length <= 1, 'a session that nobody holds');
    for (const what of ['A FileHandle', 'A batch', "A write session of '/lost'"]) {
      const text = `${what} was collected as garbage: what was written to it is lost`;
      await collected(() => warnings.includes(text), text);
    }
    process.off('warning', warn);
    // One that was only opened is not worth a word.
    assert.equal(warnings.filter((text) => text.startsWith('A FileHandle')).length, 1);
    // A descriptor is held by its number, until the store is closed.
    assert.deepEqual(
      store.sessionsSync().map(({ path }) => path),
      ['/g'],
    );
    const path = store.path as string;
    await store.close();
    await using again = await open(path);
    assert.deepEqual(await again.sessions(), []);
    assert.deepEqual(
      again
        .bucket()
        .branch()
        .walkSync()
        .map(({ path }) => path),
      ['/kept'],
    );
  });

  it('are streams', async () => {
    const main = fresh();
    const source = new Response('streamed '.repeat(1000)).body as ReadableStream<Uint8Array>;
    const session = await main.openSession('/f');
    await source.pipeTo(session.writable() as WritableStream<Uint8Array>);
    assert.equal(read(main, '/f'), 'streamed '.repeat(1000));
    const aborted = await main.openSession('/f', { truncate: true });
    const writer = aborted.writable().getWriter();
    await writer.write('half');
    await writer.abort();
    assert.equal(main.entrySync('/f').size, 9000);
    using reader = await main.reader('/f');
    const web = reader.stream({ start: 9, end: 17 });
    assert.equal(
      await new Response(web as unknown as ConstructorParameters<typeof Response>[0]).text(),
      'streamed',
    );
    const all = reader.stream() as AsyncIterable<Uint8Array>;
    let bytes = 0;
    for await (const block of all) {
      bytes += block.length;
    }
    assert.equal(bytes, 9000);
  });
});

describe('streams into a session', () => {
  it('leave none open when a write fails', async () => {
    const main = fresh();
    const session = await main.openSession('/f');
    const writer = session.writable().getWriter();
    await writer.write('half');
    await assert.rejects(writer.write(7 as unknown as string), { code: 'ERR_INVALID_ARG_TYPE' });
    await assert.rejects(writer.closed);
    assert.deepEqual(main.sessionsSync(), []);
    assert.deepEqual(main.fs.readdirSync('/'), []);
  });
});

describe('files', () => {
  it('are not opened with a mode that is none', async () => {
    const main = fresh();
    for (const mode of [Number.NaN, -1, 0.5]) {
      const options = { write: true, create: true, mode };
      await assert.rejects(main.openFile('/f', options), { code: 'ERR_OUT_OF_RANGE' });
    }
    assert.equal(main.existsSync('/f'), false);
  });
});

describe('readers', () => {
  it('keep their version', async () => {
    const main = fresh();
    main.fs.writeFileSync('/f', 'the first version');
    const reader = main.readerSync('/f');
    main.fs.writeFileSync('/f', 'another');
    assert.equal(reader.size, 17);
    assert.equal(reader.readSync(4, 5).toString(), 'first');
    assert.equal((await reader.read(10, 1e9)).toString(), 'version');
    assert.equal((await reader.read(1e9, 10)).length, 0);
    const into = Buffer.alloc(3);
    assert.equal(reader.readIntoSync(into, 0), 3);
    assert.equal(into.toString(), 'the');
    assert.equal((await main.content(reader.hash)).readSync(0, 3).toString(), 'the');
    await assert.rejects(main.content('00'.repeat(32)), { code: 'ENOENT' });
    await assert.rejects(main.content('zz'), { code: 'EINVAL' });
    reader.close();
    assert.throws(() => reader.readSync(0, 1), { code: 'EBADF' });
  });
});

/** The threads of this process that wait for events. */
function watching(): number {
  const tasks = readdirSync('/proc/self/task');
  const names = tasks.map((task) => {
    try {
      return readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim();
    } catch {
      return '';
    }
  });
  return names.filter((name) => name === 'alkfs-watch').length;
}

const linux = process.platform === 'linux' ? {} : { skip: 'counts threads in /proc' };

describe('watching', () => {
  it('sees every commit of every handle once, in order', async () => {
    const store = await onDisk();
    const main = store.bucket().branch();
    const other = openSync(store.path as string)
      .bucket()
      .branch();
    const watcher = main.watch();
    const seen: StoreEvent[] = [];
    const done = (async () => {
      for await (const event of watcher) {
        seen.push(event);
        if (event.path === '/last') {
          break;
        }
      }
    })();
    const wanted: string[] = [];
    for (let n = 0; n < 200; n += 1) {
      (n % 2 ? main : other).fs.writeFileSync(`/${n}`, `${n}`);
      wanted.push(`/${n}`);
    }
    await main.batch(async (batch) => {
      for (let n = 200; n < 1000; n += 1) {
        await batch.write(`/${n}`, `${n}`);
        wanted.push(`/${n}`);
      }
    });
    main.fs.writeFileSync('/last', '');
    await done;
    assert.deepEqual(
      seen.map(({ path }) => path),
      [...wanted, '/last'],
    );
    const [first] = seen;
    assert.equal(first?.op, 'create');
    assert.equal(first?.author, (await main.log({ limit: 2000 })).at(-1)?.author);
    assert.equal(watcher.cursor, seen.at(-1)?.cursor);
    // Another one goes on after any event.
    const later = main.watch({ after: seen[499]?.cursor as number });
    assert.equal((await later.next()).value?.path, '/500');
    assert.equal(later.poll()?.path, '/501');
    later.close();
    assert.deepEqual(await later.next(), { done: true, value: undefined });
    await store.close();
  });

  it('filters', async () => {
    const store = memory();
    const main = store.bucket().branch();
    const agent = await main.fork('agent');
    const watchers = [
      main.watch({ glob: ['*.md'] }),
      main.watch({ under: '/d' }),
      main.watch({ directlyIn: '/' }),
      store.watch({ branch: 'agent' }),
      store.bucket().watch(),
      store.watch({ ops: ['snapshot', 'modify'] }),
      store.watch({ kinds: ['dir'] }),
    ];
    main.fs.mkdirSync('/d');
    main.fs.writeFileSync('/d/a.md', '');
    agent.fs.writeFileSync('/x.md', '');
    agent.snapshotSync('s');
    const all = (watcher: Watcher) => {
      const paths: (string | undefined)[] = [];
      for (let event = watcher.poll(); event; event = watcher.poll()) {
        paths.push(event.path ?? event.op);
      }
      return paths;
    };
    assert.deepEqual(watchers.map(all), [
      ['/d/a.md'],
      ['/d', '/d/a.md'],
      ['/d'],
      ['/x.md', 'snapshot'],
      ['/d', '/d/a.md', '/x.md', 'snapshot'],
      ['snapshot'],
      ['/d'],
    ]);
    assert.throws(() => main.watch({ glob: ['a{b'] }), { code: 'EINVAL' });
    for (const after of ['x', null, {}]) {
      assert.throws(() => main.watch({ after: after as number }), {
        code: 'ERR_INVALID_ARG_TYPE',
        message: /^The "options.after" property must be of type number/,
      });
    }
    assert.throws(() => main.watch({ after: 0.5 }), { code: 'ERR_OUT_OF_RANGE' });
    const wrong = main.log({ limit: 'x' as unknown as number });
    await assert.rejects(wrong, { code: 'ERR_INVALID_ARG_TYPE', message: /options.limit/ });
    assert.throws(() => main.watch({ glob: [7 as unknown as string] }), {
      code: 'ERR_INVALID_ARG_TYPE',
    });
  });

  it('serves several who wait', async () => {
    const main = fresh();
    const watcher = main.watch();
    const results = [watcher.next(), watcher.next(), watcher.next()];
    assert.equal(watcher.poll(), undefined);
    main.fs.writeFileSync('/1', '');
    main.fs.writeFileSync('/2', '');
    assert.equal((await results[0])?.value?.path, '/1');
    assert.equal((await results[1])?.value?.path, '/2');
    watcher.close();
    assert.deepEqual(await results[2], { done: true, value: undefined });
  });

  it('ends its thread', linux, async () => {
    const store = await onDisk();
    const main = store.bucket().branch();
    await until(() => watching() === 0, 'the threads of the tests before end');
    for (const end of [
      async (watcher: Watcher) => void (await watcher.return()),
      async (watcher: Watcher) => watcher[Symbol.dispose](),
      async (watcher: Watcher) => watcher[Symbol.asyncDispose](),
    ]) {
      const watcher = main.watch();
      const next = watcher.next();
      await until(() => watching() === 1, 'the thread begins');
      await end(watcher);
      assert.equal((await next).done, true);
      await until(() => watching() === 0, 'the thread ends');
    }
    (() => {
      main.watch().unref();
      const watcher = main.watch();
      main.fs.writeFileSync('/f', '');
      return watcher.next();
    })().then((result) => assert.equal(result.value?.path, '/f'));
    await collected(() => watching() === 0, 'the thread of one that nobody holds ends');
    await store.close();
  });

  it('stops at a signal', async () => {
    const main = fresh();
    const early = AbortSignal.abort(new Error('early'));
    await assert.rejects(main.watch({ signal: early }).next(), { name: 'AbortError' });
    const control = new AbortController();
    const watcher = main.watch({ signal: control.signal });
    const waiting = watcher.next();
    control.abort('why');
    await assert.rejects(waiting, { name: 'AbortError', code: 'ABORT_ERR', cause: 'why' });
    assert.deepEqual(await watcher.next(), { done: true, value: undefined });
  });

  it('is collected although its signal lives', async () => {
    const main = fresh();
    const controller = new AbortController();
    const left = (() => new WeakRef(main.watch({ signal: controller.signal })))();
    await turn();
    await collected(() => left.deref() === undefined, 'the watcher is collected');
    controller.abort();
  });

  it('ends with its store, and fails where events were pruned', async () => {
    const store = await onDisk();
    const main = store.bucket().branch();
    for (let n = 0; n < 5; n += 1) {
      main.fs.writeFileSync(`/${n}`, '');
    }
    assert.ok((await main.bucket.pruneEvents({ atMost: 1 })) > 0);
    const lagged = main.watch({ after: 0 });
    await assert.rejects(lagged.next(), { kind: 'Lagged', code: 'EOVERFLOW' });
    const watcher = main.watch();
    const next = watcher.next();
    await store.close();
    assert.deepEqual(await next, { done: true, value: undefined });
    assert.deepEqual(await watcher.next(), { done: true, value: undefined });
  });

  it('keeps the process alive while somebody waits, unless told otherwise', async () => {
    const program = (tail: string) =>
      `const { memory } = require('alknet-fs');
      const watcher = memory().bucket().branch().watch();
      ${tail}`;
    const run = (tail: string) => {
      const child = spawn(process.execPath, ['-e', program(tail)], {
        cwd: join(__dirname, '..', '..'),
        stdio: ['ignore', 'inherit', 'inherit'],
      });
      const ended = new Promise<number | null>((resolve) => child.on('exit', resolve));
      return { child, ended };
    };
    assert.equal(await run('').ended, 0);
    assert.equal(await run('watcher.unref().next();').ended, 0);
    assert.equal(await run('watcher.next(); watcher.unref();').ended, 0);
    assert.equal(await run('watcher.next(); setTimeout(() => process.exit(3), 50);').ended, 3);
    const kept = run('watcher.next();');
    const first = await Promise.race([kept.ended, wait(1000, 'alive')]);
    assert.equal(first, 'alive');
    kept.child.kill();
  });
});

describe('the log', () => {
  it('comes in pages', async () => {
    const main = fresh();
    await main.batch(async (batch) => {
      for (let n = 0; n < 700; n += 1) {
        await batch.write(`/${n}`, '');
      }
    });
    const paths: (string | undefined)[] = [];
    for await (const event of main.history()) {
      paths.push(event.path);
    }
    assert.deepEqual(
      paths,
      Array.from({ length: 700 }, (_, n) => `/${699 - n}`),
    );
    const page = await main.log({ limit: 2, glob: '1*' });
    assert.deepEqual(
      page.map(({ path }) => path),
      ['/199', '/198'],
    );
    assert.equal((await main.log({ limit: Number.POSITIVE_INFINITY })).length, 700);
    const next = await main.log({ limit: 1, glob: ['1*'], before: page[1]?.cursor as number });
    assert.equal(next[0]?.path, '/197');
    assert.equal((await main.fork('agent')).name, 'agent');
    assert.equal((await main.bucket.log({ limit: 1 }))[0]?.op, 'fork');
  });
});

describe('branches', () => {
  it('are compared with the objects that stand for them', async () => {
    const store = memory();
    const main = store.bucket().branch();
    const agent = main.forkSync('agent');
    agent.fs.writeFileSync('/new', '');
    main.snapshotSync('v1');
    agent.snapshotSync('v2');
    using first = main.view('v1');
    using second = store.bucket().view('agent@v2');
    const forth = [
      main.diffSync('agent'),
      await main.diff(agent),
      await main.diff(second),
      main.bucket.diffSync(first, agent),
      await store.bucket().diff(main, second),
    ];
    assert.deepEqual(new Set(forth.map(([change]) => change?.what)), new Set(['added']));
    const back = [agent.diffSync(main), await agent.diff(first), await agent.diff('main@v1')];
    assert.deepEqual(new Set(back.map(([change]) => change?.what)), new Set(['deleted']));

    const wrong = { code: 'ERR_INVALID_ARG_VALUE', name: 'TypeError' };
    using moment = main.view();
    await assert.rejects(main.diff(moment), { ...wrong, message: /a view of a snapshot/ });
    const elsewhere = store.createBucketSync('other').branch();
    await assert.rejects(main.diff(elsewhere), { ...wrong, message: /another bucket/ });
    assert.throws(() => main.diffSync(memory().bucket().branch()), wrong);
    assert.throws(() => main.diffSync({} as Branch), { code: 'ERR_INVALID_ARG_TYPE' });
  });

  it('of a snapshot are views', () => {
    const bucket = memory().bucket();
    bucket.branch().snapshotSync('s');
    assert.throws(() => bucket.branch('main@s'), {
      code: 'ERR_INVALID_ARG_VALUE',
      message: /view\('main@s'\)/,
    });
    bucket.view('main@s').close();
  });

  it('tell paths in errors as they were given', async () => {
    const main = fresh();
    for (const path of ['none', './none', '/a/../none', '//none/x', `/${'long'.repeat(100)}`]) {
      const named = (error: AlkError) => error.path === path;
      assert.throws(() => main.fs.readFileSync(path), named);
      await assert.rejects(main.fs.promises.rename(path, '/new'), named);
    }
    // Otherwise it is the path in the tree, or what is no path as it was given.
    const long = `/${'long'.repeat(100)}`;
    const paths = { '/none': '/none', '/a/../none': '/none', '': '', [long]: long };
    for (const [given, path] of Object.entries(paths)) {
      assert.throws(() => main.entrySync(given), { path });
      await assert.rejects(main.entry(given), { path });
    }
  });

  it('have nothing where no path leads', async () => {
    const store = memory();
    const main = store.bucket().branch();
    const none = ['', 'a\0b', `/${'x'.repeat(300)}`, '/none/x'];
    for (const path of none) {
      assert.equal(main.existsSync(path), false);
      assert.equal(await main.exists(path), false);
      assert.equal(main.fs.existsSync(path), false);
      assert.equal(await promisify(main.fs.exists)(path), false);
    }
    assert.throws(() => main.existsSync(7 as unknown as string), { code: 'ERR_INVALID_ARG_TYPE' });
    store.closeSync();
    assert.equal(main.fs.existsSync('/'), false);
    assert.equal(await promisify(main.fs.exists)('/'), false);
    assert.throws(() => main.existsSync('/'), { code: 'EBADF' });
  });

  it('are compared, read by snapshot, and share', async () => {
    const bucket = memory().bucket();
    const main = bucket.branch();
    main.fs.writeFileSync('/same', 'x'.repeat(10_000));
    main.fs.writeFileSync('/old', 'moved');
    main.snapshotSync('v1');
    const agent = bucket.forkSync('main@v1', 'agent');
    agent.moveSync('/old', '/new');
    agent.putSync('/same', 'y', { create: false });
    agent.mkdirSync('/a/b', { recursive: true });
    const shown = (await main.diff('agent')).map(({ what, path, from }) => [what, path, from]);
    assert.deepEqual(shown, [
      ['added', '/a', undefined],
      ['added', '/a/b', undefined],
      ['renamed', '/new', '/old'],
      ['modified', '/same', undefined],
    ]);
    assert.deepEqual(main.diffSync('agent', { under: '/none' }), []);
    const info = await agent.info();
    assert.deepEqual([info.parent, info.live], ['main', false]);
    assert.ok(info.created > 0n);
    main.fs.writeFileSync('/same', 'z');
    using view = bucket.view('main@v1');
    assert.equal(view.fs.readFileSync('/same', 'utf8').length, 10_000);
    assert.equal(view.treeHashSync(), await view.treeHash());
    assert.notEqual(view.treeHashSync(), main.treeHashSync());
    await view.verify('/same');
    const sharing = await bucket.sharing(['main', 'main@v1', 'agent']);
    assert.deepEqual(
      sharing.trees.map(({ files, sharedFiles }) => [files, sharedFiles]),
      [
        [2, 1],
        [2, 1],
        [2, 1],
      ],
    );
    assert.equal(main.copySync('/same', '/copy'), 1);
    assert.equal(await agent.removeAll('/a'), 2);
    assert.deepEqual(
      (await agent.glob('*.none')).concat(agent.globSync('n*')).map(({ path }) => path),
      ['/new'],
    );
    await assert.rejects(main.link('/same', '/x'), { code: /ENOTSUP|EOPNOTSUPP/ });
  });
});

describe('upkeep', () => {
  it('counts, checks and collects', async () => {
    const store = await onDisk();
    const main = store.bucket().branch();
    for (let n = 0; n < 50; n += 1) {
      main.fs.writeFileSync('/f', `${n}`.repeat(5000));
    }
    const steps: Progress[] = [];
    const report = await store.fsck({ onProgress: (progress) => steps.push(progress) });
    assert.deepEqual(report.problems, []);
    const last = steps.at(-1);
    assert.equal(last?.files, report.contents);
    assert.equal(last?.totalBytes, report.bytes);
    assert.equal((await store.fsck({ fast: true })).bytes, 0);
    const would = await store.gc({ grace: 0, dryRun: true });
    const before = await store.stats();
    const did = await store.gc({ grace: 0, keepEvents: 1 });
    assert.ok(did.contents > 0 && did.events > 0);
    assert.equal(would.contents, did.contents);
    assert.equal(would.events, 0);
    assert.equal((await store.stats()).contents, before.contents - did.contents);
    assert.ok((await store.compact()) >= 0);

    assert.equal(await store.gcSchedule(), undefined);
    await store.scheduleGc('@every 6h', { grace: 1000 });
    const schedule = await store.gcSchedule();
    assert.equal(schedule?.when, '@every 6h');
    assert.ok((schedule?.next ?? 0n) > BigInt(Date.now()) * 1_000_000n);
    assert.equal(await store.gcIfDue(), undefined);
    assert.equal(await store.unscheduleGc(), true);
    await assert.rejects(store.scheduleGc('now and then'), { code: 'EINVAL' });

    const boom = new Error('boom');
    const thrown = store.fsck({
      onProgress: () => {
        throw boom;
      },
    });
    await assert.rejects(thrown, boom);
    await store.close();
  });
});

describe('transfer', () => {
  it('follows an import and an export, and stops them', async () => {
    const source = join(root, 'source');
    mkdirSync(source);
    for (let n = 0; n < 2000; n += 1) {
      writeFileSync(join(source, `${n}`), `${n}`);
    }
    const store = await onDisk();
    const main = store.bucket().branch();
    const control = new AbortController();
    const stopped = main.import(source, { to: '/stopped', signal: control.signal });
    await turn();
    control.abort();
    await assert.rejects(stopped, { name: 'AbortError' });
    const steps: Progress[] = [];
    const report = await main.import(source, {
      to: '/in',
      exclude: ['1*'],
      onProgress: (progress) => steps.push(progress),
    });
    assert.equal(report.files, 889);
    assert.equal(steps.at(-1)?.files, steps.at(-1)?.totalFiles);
    assert.equal((await main.import(source, { to: '/in' })).files, 2000);
    const target = join(root, 'target');
    const done = await main.export(target, { from: '/in' });
    assert.equal(done.files, 2000);
    assert.equal(readFileSync(join(target, '1999'), 'utf8'), '1999');
    await assert.rejects(main.export(target), { code: 'ENOTEMPTY' });
    const view = main.view();
    assert.equal((await view.export(target, { from: '/in', overwrite: true })).files, 2000);
    view.close();
    await store.close();
  });
});

describe('what is printed', () => {
  it('names what it is', async () => {
    const store = await onDisk();
    const bucket = store.bucket();
    const main = bucket.branch();
    main.snapshotSync('s');
    const seen = [store, bucket, main, main.view('s'), main.view(), memory()].map((each) =>
      inspect(each),
    );
    assert.deepEqual(seen, [
      `Store '${store.path}'`,
      "Bucket 'default'",
      "Branch 'default/main'",
      "View 'default/main@s'",
      "View 'default/unnamed'",
      "Store 'in memory'",
    ]);
    assert.equal(inspect({ main }), "{ main: Branch 'default/main' }");
    await store.close();
    assert.equal(inspect([store, main]), '[ Store (closed), Branch (closed) ]');
  });

  it('may be an event in JSON', async () => {
    const main = fresh();
    const watcher = main.watch({ after: 0 });
    main.fs.writeFileSync('/a', 'text');
    const events = [watcher.poll(), (await main.watch({ after: 0 }).next()).value];
    for (const event of [...events, ...(await main.log())]) {
      assert.ok(event);
      const { at, ...rest } = JSON.parse(JSON.stringify(event));
      const { at: _at, ...own } = event;
      assert.equal(BigInt(at), event.at);
      assert.deepEqual(rest, own);
    }
    watcher.close();
  });
});

describe('stores', () => {
  it('are closed by blocks, with everything that was taken from them', async () => {
    let kept: Branch;
    {
      using store = openSync(join(root, 'block'));
      kept = store.bucket().branch();
      kept.fs.writeFileSync('/f', 'x');
    }
    assert.throws(() => kept.fs.readFileSync('/f'), { code: 'EBADF', kind: 'BadHandle' });
    {
      await using store = await open(join(root, 'block'), { create: false });
      kept = store.bucket().branch();
      assert.equal(read(kept, '/f'), 'x');
    }
    await assert.rejects(kept.fs.promises.readFile('/f'), { code: 'EBADF' });
    assert.throws(() => kept.name, { code: 'EBADF', message: 'EBADF: the store is closed' });
  });

  it('have buckets', async () => {
    const store = memory();
    store.createBucketSync('b');
    await store.renameBucket('b', 'c');
    assert.deepEqual(store.bucketsSync(), ['c', 'default']);
    await store.deleteBucket('c');
    assert.deepEqual(await store.buckets(), ['default']);
    const bucket = store.bucket();
    await bucket.fork('main', 'agent');
    assert.deepEqual(
      bucket.branchesSync().map(({ name }) => name),
      ['main', 'agent'],
    );
    await bucket.deleteBranch('agent');
    assert.equal((await bucket.branches()).length, 1);
  });
});
