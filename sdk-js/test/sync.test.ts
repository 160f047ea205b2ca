/** Real nodes on the loopback interface. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, promises as nodefs, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, describe, it } from 'node:test';
import { setTimeout as wait } from 'node:timers/promises';
import { inspect } from 'node:util';

import {
  type AlkError,
  type Branch,
  type Bucket,
  type Conflict,
  memory,
  type Node,
  open,
  type Progress,
  type Store,
} from 'alknet-fs';

import { collected } from './gc.js';

const root = mkdtempSync(join(tmpdir(), 'alknet-sync-'));
after(() => rmSync(root, { recursive: true }));

const LONGEST = 30_000;

interface Side {
  path: string;
  store: Store;
  node: Node;
  bucket: Bucket;
  main: Branch;
}

let count = 0;
const opened: Store[] = [];

afterEach(async () => {
  await Promise.all(opened.splice(0).map((store) => store.close()));
});

async function running(author: string) {
  const path = join(root, `${author}${count++}`);
  const store = await open(path, { author });
  opened.push(store);
  return { path, store, node: await store.startNode({ loopback: true }) };
}

async function sharing(): Promise<Side> {
  const side = await running('here');
  const bucket = await side.store.createBucket('notes');
  return { ...side, bucket, main: bucket.branch() };
}

async function joined(ticket: string, author = 'there'): Promise<Side> {
  const side = await running(author);
  const bucket = await side.store.join(ticket);
  return { ...side, bucket, main: bucket.branch() };
}

async function pair(): Promise<[Side, Side]> {
  const here = await sharing();
  return [here, await joined(await here.store.share('notes'))];
}

/** Tells what a function gives once that is true; a file may be missing until then. */
async function until<T>(what: () => T | Promise<T>): Promise<Exclude<T, false | undefined>> {
  const deadline = performance.now() + LONGEST;
  for (;;) {
    try {
      const found = await what();
      if (found) {
        return found as Exclude<T, false | undefined>;
      }
    } catch (error) {
      if ((error as AlkError).kind !== 'NotFound') {
        throw error;
      }
    }
    assert.ok(performance.now() < deadline, `not in time: ${what}`);
    await wait(10);
  }
}

const text = (branch: Branch, path: string) => branch.fs.promises.readFile(path, 'utf8');

const reads = (branch: Branch, path: string, wanted: string) =>
  until(async () => (await text(branch, path)) === wanted);

const of = (kind: string, message = /./) => {
  return (error: AlkError) => {
    assert.equal(error.kind, kind, inspect(error));
    assert.match(error.message, message);
    return true;
  };
};

describe('nodes', () => {
  it('keep buckets the same', async () => {
    const [here, there] = await pair();
    await here.main.put('/todo.txt', 'milk');
    await reads(there.main, '/todo.txt', 'milk');
    await there.main.put('/todo.txt', 'milk and bread');
    await reads(here.main, '/todo.txt', 'milk and bread');
    await (await there.main.fork('draft')).put('/idea.txt', 'an idea');
    await there.main.snapshot('monday');
    await until(async () => (await text(here.bucket.branch('draft'), '/idea.txt')) === 'an idea');
    await until(async () => {
      await using view = here.main.view('monday');
      return (await view.fs.promises.readFile('/todo.txt', 'utf8')) === 'milk and bread';
    });
  });

  it('tell how it stands', async () => {
    const [here, there] = await pair();
    for (const { bucket } of [here, there]) {
      await bucket.setContentPolicy('eager');
      assert.equal((await bucket.contentSettings()).policy, 'eager');
    }
    await here.main.put('/a', 'one');
    const status = await here.store.untilSynced({ timeout: LONGEST });
    assert.equal(status.synced, true);
    // That was said of what was written before.
    assert.equal(await text(there.main.fetching({ timeout: 0 }), '/a'), 'one');
    const [peer, ...others] = status.peers;
    assert.ok(peer);
    assert.equal(others.length, 0);
    assert.equal(peer.peer, there.node.id);
    assert.deepEqual([peer.bucket, peer.shared, peer.access], ['notes', true, 'write']);
    assert.deepEqual([peer.known, peer.ended], [true, undefined]);
    assert.ok(peer.connected && peer.inStep && peer.synced && typeof peer.seen === 'bigint');
    assert.deepEqual(peer.behindThere, { commits: 0, branches: 0, contents: 0, bytes: 0 });
    assert.equal((await there.store.syncStatus()).peers[0]?.shared, false);
    // A peer that has not fetched it has not all.
    await there.bucket.setContentPolicy('on-read');
    await here.main.put('/b', 'two');
    assert.equal((await here.store.untilSynced({ timeout: 1500, bucket: 'notes' })).synced, false);
    const behind = async () => (await here.node.status()).peers[0]?.behindThere.contents;
    assert.equal(await until(behind), 1);
    await assert.rejects(here.store.untilSynced({ bucket: 'none' }), of('NotFound'));
    const signal = AbortSignal.timeout(50);
    await assert.rejects(here.store.untilSynced({ signal }), { name: 'AbortError' });
  });

  it('say in events which peer', async () => {
    const [here, there] = await pair();
    // Who has only a branch meets no other members.
    const third = await joined(await there.store.share('notes', { branches: 'main' }), 'third');
    await using watcher = here.bucket.watch();
    await there.main.put('/theirs', 'x');
    await here.main.put('/ours', 'x');
    const events = new Map<string | undefined, unknown>();
    for await (const { path, peer, author } of watcher) {
      events.set(path, peer ?? author);
      if (events.size === 2) {
        break;
      }
    }
    assert.deepEqual(events.get('/theirs'), { id: there.node.id });
    assert.equal(events.get('/ours'), 'here');
    await here.store.namePeer(there.node.id.slice(0, 12), 'laptop');
    const [event] = await here.bucket.log({ glob: 'theirs' });
    assert.deepEqual(event?.peer, { id: there.node.id, name: 'laptop' });
    // What comes from a node by way of another names the replica, not the one that brought it.
    const brought = await until(async () => (await third.bucket.log({ glob: 'ours' }))[0]);
    assert.equal(brought.peer, undefined);
    assert.match(brought.author, /^[0-9a-f]{32}$/);
    const direct = await until(async () => (await third.bucket.log({ glob: 'theirs' }))[0]);
    assert.deepEqual(direct.peer, { id: there.node.id });
  });

  it('are waited for where they are joined', async () => {
    const [, there] = await pair();
    const [peer] = (await there.store.syncStatus()).peers;
    assert.deepEqual([peer?.connected, peer?.refused], [true, false]);
  });

  it('that refuse leave nothing of a join', async () => {
    const here = await sharing();
    const guest = await running('guest');
    const ticket = await here.store.share('notes');
    await here.store.revokeGrant((await here.store.grants())[0]?.id ?? '');
    const refused = of('PermissionDenied', /does not let this node in.*'notes'/);
    await assert.rejects(guest.store.join(ticket, { timeout: LONGEST }), refused);
    assert.deepEqual(await guest.store.buckets(), ['default']);
    assert.deepEqual(await guest.store.peers(), []);
    assert.deepEqual((await guest.store.syncStatus()).peers, []);
    // A bucket that was there already stays, as it was.
    const own = await guest.store.createBucket('notes');
    await own.branch().put('/own', 'x');
    const merging = guest.store.join(ticket, { merge: true, timeout: LONGEST });
    await assert.rejects(merging, refused);
    assert.equal(await text(own.branch(), '/own'), 'x');
    assert.deepEqual(await guest.store.peers(), []);
    // A newer ticket is as good as any.
    const newer = await here.store.share('notes');
    const bucket = await guest.store.join(newer, { name: 'again', timeout: LONGEST });
    await here.main.put('/a', 'one');
    await reads(bucket.branch(), '/a', 'one');
  });

  it('that do not answer leave a join as it is', async () => {
    const here = await sharing();
    const ticket = await here.store.share('notes');
    await here.main.put('/a', 'one');
    await here.node.stop();
    const store = await open(join(root, 'unanswered'));
    opened.push(store);
    // No node runs here that could ask.
    const begun = performance.now();
    const offline = await store.join(ticket, { name: 'offline', timeout: 600_000 });
    assert.equal(offline.name, 'offline');
    assert.ok(performance.now() - begun < LONGEST);
    await store.leave('offline');
    await store.deleteBucket('offline');
    await store.startNode({ loopback: true });
    for (const timeout of [0, 200]) {
      await store.join(ticket, { timeout });
      const [peer] = (await store.syncStatus()).peers;
      assert.deepEqual([peer?.connected, peer?.known], [false, false]);
    }
    for (const signal of [AbortSignal.timeout(100), AbortSignal.abort()]) {
      const stopped = store.join(ticket, { timeout: 600_000, signal });
      await assert.rejects(stopped, { name: 'AbortError' });
    }
    // It stays joined, and comes once somebody answers.
    await here.store.startNode({ loopback: true });
    await reads(store.bucket('notes').branch(), '/a', 'one');
  });

  it('have peers, which are named and revoked', async () => {
    const [here, there] = await pair();
    await here.main.put('/a', 'one');
    await reads(there.main, '/a', 'one');
    const [peer] = await here.store.peers();
    const [grant] = await here.store.grants();
    assert.deepEqual(grant?.peers, [there.node.id]);
    assert.deepEqual(peer?.grants, [grant]);
    assert.equal((await there.store.peers())[0]?.joined[0]?.access, 'write');
    const week = 7 * 86_400_000;
    const what = { expires: week, branches: 'main', name: 'weekly', readOnly: true };
    await here.store.share('notes', what);
    const weekly = (await here.store.grants())[1];
    assert.ok(weekly?.expires);
    assert.deepEqual([weekly.name, weekly.access, weekly.branches], ['weekly', 'read', ['main']]);
    assert.ok(Math.abs(Number(weekly.expires - weekly.created) / 1e6 - week) < 60_000);
    await here.store.revokeGrant(weekly.id);
    assert.ok((await here.store.grants())[1]?.revoked);
    await here.store.namePeer(there.node.id, 'laptop');
    assert.equal(await here.store.revokePeer('laptop'), 1);
    assert.equal((await here.store.syncStatus()).peers[0]?.ended, 'revoked');
    await until(async () => {
      return (await there.store.syncStatus()).peers[0]?.trouble?.includes('revoked');
    });
    assert.ok((await there.store.syncStatus()).peers[0]?.refused);
    await here.store.forgetPeer('laptop');
    assert.deepEqual(await here.store.peers(), []);
    const forgotten = there.store.forgetPeer(here.node.id);
    await assert.rejects(forgotten, of('PermissionDenied', /leave that first/));
    assert.equal(await text(there.main, '/a'), 'one');
  });

  it('are revoked as grants are, by what they are called', async () => {
    const [here, there] = await pair();
    for (const name of ['weekly', 'weekly', 'monthly']) {
      await here.store.share('notes', { name });
    }
    const [first, second, monthly] = (await here.store.grants()).slice(1).map(({ id }) => id);
    assert.ok(first && second && monthly);
    assert.equal(await here.store.revoke('monthly'), 1);
    await assert.rejects(here.store.revoke('weekly'), of('InvalidInput', /several grants/));
    assert.equal(await here.store.revoke(first.slice(0, 8)), 1);
    assert.equal(await here.store.revoke('weekly'), 1);
    const revoked = (await here.store.grants()).filter((grant) => grant.revoked);
    assert.deepEqual(
      revoked.map(({ id }) => id),
      [first, second, monthly],
    );
    await here.store.namePeer(there.node.id, 'laptop');
    assert.equal(await here.store.revoke('laptop'), 1);
    assert.deepEqual((await here.store.peers())[0]?.grants, []);
    assert.equal(await here.store.revoke('laptop'), 0);
    await assert.rejects(here.store.revoke('nobody'), of('NotFound', /no grant of that label/));
    await assert.rejects(here.store.revoke(here.node.id), of('InvalidInput', /own node/));
  });

  it('let out what was only here, by another ticket', async () => {
    const here = await sharing();
    const ticket = await here.store.share('notes');
    const reader = await joined(await here.store.share('notes', { readOnly: true }));
    assert.equal(await reader.store.unsent(ticket), undefined);
    await reader.main.put('/b', 'mine');
    await until(async () => (await reader.store.syncStatus()).peers[0]?.staysHere === 1);
    assert.deepEqual(await reader.store.unsent(ticket), { commits: 1 });
    const readOnly = await here.store.share('notes', { readOnly: true });
    assert.equal(await reader.store.unsent(readOnly), undefined);
    await reader.store.join(ticket);
    assert.equal(await reader.store.unsent(ticket), undefined);
    await reads(here.main, '/b', 'mine');
    await assert.rejects(reader.store.unsent('x'), of('InvalidInput', /that is no ticket/));
  });

  it('may only read where that was given', async () => {
    const here = await sharing();
    await here.main.put('/a', 'one');
    const reader = await joined(await here.store.share('notes', { readOnly: true }));
    await reads(reader.main, '/a', 'one');
    await reader.main.put('/b', 'mine');
    await here.main.put('/c', 'two');
    await reads(reader.main, '/c', 'two');
    await until(async () => (await here.node.status()).peers[0]?.inStep);
    assert.deepEqual(here.main.fs.readdirSync('/'), ['a', 'c']);
    assert.deepEqual(reader.main.fs.readdirSync('/'), ['a', 'b', 'c']);
  });

  it('leave', async () => {
    const [here, there] = await pair();
    await here.main.put('/a', 'one');
    await reads(there.main, '/a', 'one');
    await there.store.leave('notes');
    await until(async () => (await here.node.status()).peers[0]?.connected === false);
    await here.main.put('/b', 'two');
    await there.main.put('/c', 'three');
    assert.deepEqual(there.main.fs.readdirSync('/'), ['a', 'c']);
    await assert.rejects(there.store.leave('notes'), of('NotFound', /not joined/));
    assert.equal((await here.store.grants())[0]?.open, true);
    await there.store.join(await here.store.share('notes'));
    await assert.rejects(there.store.leave('notes', 'nobody'), of('NotFound', /no peer/));
    await there.store.leave('notes', here.node.id.slice(0, 12));
    const again = there.store.leave('notes', here.node.id);
    await assert.rejects(again, of('NotFound', /not joined from that peer/));
    await here.store.revokePeer(there.node.id);
    assert.equal((await here.store.grants())[0]?.open, false);
  });

  it('keep their keys', async () => {
    const path = join(root, 'keys');
    let id: string;
    {
      await using store = await open(path);
      await using node = await store.startNode({ loopback: true });
      id = node.id;
      assert.match(id, /^[0-9a-f]{64}$/);
      assert.equal(node.running, true);
      assert.equal(inspect(node), `Node ${id.slice(0, 10)}`);
      await assert.rejects(store.startNode({ loopback: true }), of('Locked', /runs the node/));
      await node.stop();
      await node.stop();
      assert.equal(node.running, false);
      await assert.rejects(node.status(), of('BadHandle', /stopped/));
      const again = await store.startNode({ loopback: true });
      assert.equal(again.id, id);
      await store.close();
      assert.equal(again.running, false);
      await again.stop();
    }
    await using store = await open(path);
    const quiet = { loopback: true, relays: [], mdns: false, gossip: false };
    await using node = await store.startNode(quiet);
    assert.equal(node.id, id);
    await assert.rejects(memory().startNode(), of('Unsupported'));
  });

  it('go on though nobody holds them', async () => {
    const [here, there] = await pair();
    await there.node.stop();
    await there.store.startNode({ loopback: true });
    for (let n = 0; n < 20; n += 1) {
      await collected(() => true);
    }
    assert.ok((await there.store.syncStatus()).running);
    await here.main.put('/a', 'one');
    await reads(there.main, '/a', 'one');
  });

  it('stop with the process, and do not keep it', async () => {
    const here = await sharing();
    const program = `
      const { openSync } = require('alknet-fs');
      (async () => {
        const store = openSync(process.argv[1]);
        globalThis.node = await store.startNode({ loopback: true });
        await store.join(process.argv[2]);
        while (!(await node.status()).peers[0]?.connected);
      })();
    `;
    const ticket = await here.store.share('notes');
    const child = spawn(process.execPath, ['-e', program, join(root, 'ends'), ticket], {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    const begun = performance.now();
    assert.deepEqual(await once(child, 'exit'), [0, null]);
    // It has said good-bye, so nobody waits for it to time out.
    await until(async () => (await here.node.status()).peers[0]?.connected === false);
    assert.ok(performance.now() - begun < 20_000);
  });
});

describe('contents', () => {
  it('come when they are read', async () => {
    const [here, there] = await pair();
    const data = randomBytes(300_000);
    await here.main.put('/large', data);
    await here.main.put('/small', 'x');
    await until(() => there.main.exists('/small'));
    const here0 = there.main.fetching({ timeout: 0 });
    await assert.rejects(here0.fs.promises.readFile('/large'), (error: AlkError) => {
      of('ContentUnavailable', /EHOSTUNREACH: .* is not here.*'\/large'/)(error);
      assert.equal(error.code, 'EHOSTUNREACH');
      assert.equal(error.path, '/large');
      assert.equal(error.content, here.main.entrySync('/large').hash);
      assert.deepEqual(error.asked, []);
      return true;
    });
    assert.throws(() => here0.fs.readFileSync('/large'), of('ContentUnavailable'));
    assert.deepEqual(await there.main.fs.promises.readFile('/large'), data);
    assert.deepEqual(here0.fs.readFileSync('/large'), data);
    assert.equal(there.main.fs.readFileSync('/small', 'utf8'), 'x');
  });

  it('are fetched, pinned and evicted', async () => {
    const [here, there] = await pair();
    await here.main.mkdir('/docs');
    for (const n of [0, 1, 2]) {
      await here.main.put(`/docs/${n}`, `text ${n}`);
    }
    await here.main.put('/other', 'other');
    await until(() => there.main.exists('/other'));
    const seen: Progress[] = [];
    const onProgress = (progress: Progress) => seen.push(progress);
    const report = await there.main.fetch('/docs', { onProgress });
    assert.deepEqual(report, { contents: 3, bytes: 18, failed: [], moreFailed: 0 });
    assert.deepEqual([seen.at(-1)?.files, seen.at(-1)?.totalFiles], [3, 3]);
    const quick = there.main.fetching({ timeout: 0 });
    assert.equal(await text(quick, '/docs/1'), 'text 1');
    await assert.rejects(text(quick, '/other'), of('ContentUnavailable'));
    assert.equal((await there.bucket.fetch()).contents, 1);
    assert.equal(await text(quick, '/other'), 'other');
    assert.equal(await there.store.cachedBytes(), 18 + 'other'.length);
    await there.bucket.pin('/docs/1');
    assert.equal(await there.bucket.hasMatch('/docs/1'), true);
    assert.equal(await there.bucket.hasMatch('/none'), false);
    await assert.rejects(there.bucket.hasMatch('a['), of('InvalidInput'));
    assert.deepEqual((await there.bucket.contentSettings()).pins, ['/docs/1']);
    const evicted = await there.store.evict();
    assert.deepEqual([evicted.contents, evicted.promised, evicted.promisedBytes], [3, 0, 0]);
    assert.equal(evicted.promisedUntil, undefined);
    assert.equal(evicted.bytesHere, 'text 1'.length);
    assert.equal(await there.store.cachedBytes(), evicted.bytesHere);
    // The other node keeps for this one what it said to have; what is pinned here can go there.
    const kept = await here.store.evict();
    assert.deepEqual([kept.contents, kept.promised, kept.promisedBytes], [1, 3, 17]);
    assert.ok((kept.promisedUntil ?? 0n) > BigInt(Date.now()) * 1_000_000n);
    assert.equal(await text(quick, '/docs/1'), 'text 1');
    await assert.rejects(text(quick, '/docs/0'), of('ContentUnavailable'));
    await there.bucket.unpin('/docs/1');
    await assert.rejects(there.bucket.unpin('/docs/1'), of('NotFound'));
    assert.equal(await there.store.cacheLimit(), undefined);
    await there.store.setCacheLimit(2 ** 30);
    assert.equal(await there.store.cacheLimit(), 2 ** 30);
    await there.store.setCacheLimit(undefined);
    await there.bucket.setContentTimeout(2500);
    assert.equal((await there.bucket.contentSettings()).timeout, 2500);
  });

  it('of a node that is away cannot be had', async () => {
    const [here, there] = await pair();
    const third = await joined(await there.store.share('notes'), 'third');
    await here.main.put('/a', 'one');
    await until(() => third.main.exists('/a'));
    await here.store.close();
    await until(async () => {
      const { peers } = await there.node.status();
      return peers.every(({ shared, connected }) => shared || !connected);
    });
    await there.bucket.setContentTimeout(500);
    await assert.rejects(text(there.main, '/a'), of('ContentUnavailable', /not here/));
    // Who could be asked first did not have it either.
    await third.store.namePeer(there.node.id, 'middle');
    const patient = third.main.fetching({ timeout: 5000 });
    await assert.rejects(text(patient, '/a'), (error: AlkError) => {
      of('ContentUnavailable', /middle/)(error);
      assert.equal(error.asked?.[0], 'middle');
      return true;
    });
    const { failed } = await third.bucket.fetch();
    assert.deepEqual(
      failed.map(({ path }) => path),
      ['/a'],
    );
  });

  it('that are waited for hold up nothing else', async () => {
    const [here, there] = await pair();
    const names = Array.from({ length: 24 }, (_, n) => `/${n}`);
    for (const name of names) {
      await here.main.put(name, name);
    }
    await until(() => there.main.exists('/23'));
    await here.node.stop();
    await until(async () => (await there.node.status()).peers[0]?.connected === false);
    const patient = there.main.fetching({ timeout: 4000 });
    const { promises } = patient.fs;
    const waiting = names.map((name, n) => {
      switch (n % 4) {
        case 0:
          return promises.readFile(name);
        case 1:
          return promises.open(name, 'r+');
        case 2:
          return promises.appendFile(name, 'x');
        default:
          return patient.openSession(name);
      }
    });
    const settled = Promise.allSettled(waiting);
    await wait(300);
    const begun = performance.now();
    // The pool of libuv, the threads that write, and the loop.
    await nodefs.readFile(__filename);
    await there.main.put('/own', 'x');
    assert.equal(await text(there.main, '/own'), 'x');
    assert.ok(performance.now() - begun < 2000);
    for (const result of await settled) {
      assert.equal(result.status, 'rejected');
      of('ContentUnavailable')(result.reason);
    }
    // It was nothing but late.
    const late = text(there.main, '/0');
    here.node = await here.store.startNode({ loopback: true });
    assert.equal(await late, '/0');
    await promises.appendFile('/2', '!');
    assert.equal(await text(there.main, '/2'), '/2!');
  });
});

describe('conflicts', () => {
  async function conflicting(): Promise<[Side, Side, Conflict]> {
    const [here, there] = await pair();
    await here.main.put('/plan', 'first');
    await reads(there.main, '/plan', 'first');
    await there.node.stop();
    await there.main.put('/plan', 'theirs');
    await here.main.put('/plan', 'ours');
    there.node = await there.store.startNode({ loopback: true });
    await until(async () => (await there.bucket.conflicts()).length);
    const [found] = await until(async () => {
      const found = await here.bucket.conflicts();
      return found.length > 0 && found;
    });
    assert.ok(found);
    return [here, there, found];
  }

  it('are listed, and both sides kept', async () => {
    const [here, there, found] = await conflicting();
    assert.deepEqual([found.branch, found.path, found.others.length], ['main', '/plan', 1]);
    assert.deepEqual(await here.main.conflicts(), [found]);
    const sides = [found.shown, ...found.others];
    const ours = sides.find((side) => side.here);
    const theirs = sides.find((side) => !side.here);
    assert.equal(ours?.peer, undefined);
    assert.deepEqual(theirs?.peer, { id: there.node.id });
    assert.deepEqual([ours?.entry?.size, theirs?.entry?.size], [4, 6]);
    assert.ok(typeof theirs?.at === 'bigint' && theirs.replica !== ours?.replica);
    await assert.rejects(here.main.resolve('/plan', 7), of('InvalidInput'));
    await assert.rejects(here.main.resolve('/plan', 'neither' as 'both'), of('InvalidInput'));
    await assert.rejects(here.main.resolve('/none'), of('NotFound'));
    const [beside] = await here.main.resolve('/plan', 'both');
    assert.match(beside ?? '', /conflict/);
    assert.deepEqual(await here.bucket.conflicts(), []);
    await until(async () => (await there.bucket.conflicts()).length === 0);
    const texts = [await text(here.main, '/plan'), await text(here.main, beside as string)];
    assert.deepEqual(texts.sort(), ['ours', 'theirs']);
  });

  it('are decided for another side', async () => {
    const [here, there, found] = await conflicting();
    assert.deepEqual(await here.main.resolve('/plan', 0), []);
    await until(async () => (await there.bucket.conflicts()).length === 0);
    for (const { main } of [here, there]) {
      assert.equal((await main.entry('/plan')).hash, found.others[0]?.entry?.hash);
    }
  });

  it('of names are listed', async () => {
    const here = await sharing();
    const other = await running('other');
    const own = await other.store.createBucket('notes');
    for (const [bucket, text] of [[here.bucket, 'a'] as const, [own, 'b'] as const]) {
      await bucket.branch().put('/base', text);
      await bucket.branch().snapshot('monday');
    }
    await other.store.join(await here.store.share('notes'), { merge: true });
    const [conflict] = await until(async () => {
      const found = await own.nameConflicts();
      return found.length > 0 && found;
    });
    assert.deepEqual([conflict?.branch, conflict?.name], ['main', 'monday']);
    const name = conflict?.snapshot ?? '';
    assert.match(name, /^monday~[0-9a-f]{8}$/);
    assert.ok(typeof conflict?.at === 'bigint');
    assert.ok(Math.abs(Number(conflict.at) / 1e6 - Date.now()) < 600_000);
    assert.match(conflict.replica ?? '', /^[0-9a-f]{32}$/);
    // Whose it is can be seen in it, too.
    await using view = own.view(`main@${name}`);
    const base = await until(() => view.fs.promises.readFile('/base', 'utf8'));
    assert.equal(conflict.here, base === 'b');
    assert.equal(conflict.peer?.id, conflict.here ? undefined : here.node.id);
    await own.branch().renameSnapshot(name, 'tuesday');
    assert.deepEqual(await own.nameConflicts(), []);
    await until(async () => {
      const names = (await here.main.snapshots()).map((snapshot) => snapshot.name);
      return names.sort().join() === 'monday,tuesday';
    });
  });
});

describe('what is wrong', () => {
  it('is said of tickets', async () => {
    const here = await sharing();
    const other = await running('other');
    const ticket = await here.store.share('notes');
    await assert.rejects(other.store.join('nonsense'), of('InvalidInput', /that is no ticket/));
    const letter = ticket[40] === 'a' ? 'b' : 'a';
    for (const altered of [ticket.slice(0, -1), ticket.slice(0, 40) + letter + ticket.slice(41)]) {
      await assert.rejects(other.store.join(altered), of('InvalidInput', /altered/));
    }
    await assert.rejects(here.store.join(ticket), of('InvalidInput', /gave out the ticket/));
    await assert.rejects(
      here.store.share('notes', { expires: 0 }),
      of('InvalidInput', /for no time/),
    );
    await other.store.createBucket('notes');
    await assert.rejects(other.store.join(ticket), of('AlreadyExists', /another name/));
    const broken = ` ${ticket.slice(0, 50)}\n${ticket.slice(50).toUpperCase()} `;
    assert.equal((await other.store.join(broken, { name: 'n2' })).name, 'n2');
    await assert.rejects(here.store.share('none'), of('NotFound'));
    await assert.rejects(here.store.share('notes', { branches: ['none'] }), of('NotFound'));
    await assert.rejects(here.store.revokePeer('nobody'), of('NotFound'));
    await assert.rejects(here.store.revokeGrant('0'.repeat(32)), of('NotFound'));
    await assert.rejects(here.store.revokeGrant('x'), of('InvalidInput', /32 hexadecimal/));
  });

  it('is said of arguments', async () => {
    const { store, bucket, main } = await sharing();
    // biome-ignore lint/suspicious/noExplicitAny: what programs without types do.
    const wrong = (value: unknown) => value as any;
    const type = { code: 'ERR_INVALID_ARG_TYPE' };
    const range = { code: 'ERR_OUT_OF_RANGE' };
    await assert.rejects(store.join(wrong(7)), type);
    await assert.rejects(store.join('x', { name: wrong(7) }), type);
    await assert.rejects(store.share(wrong(7)), type);
    await assert.rejects(store.share('notes', { branches: wrong([7]) }), type);
    await assert.rejects(store.share('notes', { expires: wrong('soon') }), type);
    await assert.rejects(store.share('notes', { expires: -1 }), of('InvalidInput'));
    await assert.rejects(store.startNode({ port: 70_000 }), range);
    await assert.rejects(store.startNode({ relays: wrong(7) }), type);
    await assert.rejects(store.startNode({ relays: wrong([7]) }), type);
    await assert.rejects(store.startNode(wrong(7)), type);
    await assert.rejects(store.untilSynced({ timeout: Number.NaN }), of('InvalidInput'));
    await assert.rejects(store.untilSynced({ timeout: wrong('x') }), type);
    await assert.rejects(store.join('x', { timeout: -1 }), of('InvalidInput'));
    await assert.rejects(store.join('x', { timeout: wrong('x') }), type);
    await assert.rejects(store.join('x', { signal: wrong('x') }), type);
    await assert.rejects(bucket.setContentPolicy(wrong('always')), of('InvalidInput', /eager/));
    await assert.rejects(bucket.setContentTimeout(-1), of('InvalidInput'));
    await assert.rejects(bucket.pin('a['), of('InvalidInput'));
    await assert.rejects(store.setCacheLimit(-1), range);
    await assert.rejects(store.evict({ toBytes: 0.5 }), range);
    await assert.rejects(main.resolve('/a', wrong(null)), type);
    await assert.rejects(main.resolve('/a', -1), range);
    assert.throws(() => main.fetching({ timeout: -1 }), of('InvalidInput'));
    const alone = await open(join(root, 'alone'));
    opened.push(alone);
    const relays = ['nonsense'];
    await assert.rejects(alone.startNode({ relays }), of('InvalidInput', /no address of a relay/));
    await assert.rejects(alone.evict(), of('ContentUnavailable', /alkfs node/));
  });

  it('say that a node cannot go on', { skip: process.platform === 'win32' }, async () => {
    const { path, node } = await running('here');
    assert.equal(node.running, true);
    await nodefs.copyFile(join(path, 'store.db'), join(root, 'copy'));
    await nodefs.rename(join(root, 'copy'), join(path, 'store.db'));
    await until(() => !node.running);
    await assert.rejects(node.status(), of('Io', /store\.db was replaced/));
    assert.match(inspect(node), /stopped/);
    await node.stop();
  });
});
