/** Replays `tests/vectors/*.json`, as `tests/vectors/README.md` describes them. */

import assert from 'node:assert/strict';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { inspect } from 'node:util';

import { blake3 } from '@noble/hashes/blake3';
import {
  type AlkError,
  type Attributes,
  type Batch,
  Branch,
  type Bucket,
  type Entry,
  type EventFilter,
  type FileHandle,
  memory,
  open,
  openSync,
  type Reader,
  type Session,
  type SessionInfo,
  type Store,
  type StoreEvent,
  type View,
  type Watcher,
} from 'alknet-fs';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Fields = { [key: string]: Json };
type Tree = Branch | View;

const root = mkdtempSync(join(tmpdir(), 'alknet-vectors-'));
after(() => rmSync(root, { recursive: true }));

/** The folder of the vectors, somewhere above the compiled test. */
function vectors(): string {
  for (let folder = __dirname; ; folder = join(folder, '..')) {
    const found = join(folder, 'tests', 'vectors');
    if (existsSync(join(found, 'README.md'))) {
      return found;
    }
  }
}

function bytes(value: Json): Buffer {
  if (typeof value === 'string') {
    return Buffer.from(value);
  }
  const { repeat, times, concat, hex } = value as Fields;
  if (repeat !== undefined) {
    const unit = bytes(repeat);
    return Buffer.alloc(unit.length * integer(times), unit);
  }
  if (concat !== undefined) {
    return Buffer.concat((concat as Json[]).map(bytes));
  }
  return Buffer.from(hex as string, 'hex');
}

const text = (value: Json) => bytes(value).toString();

function integer(value: Json | undefined): number {
  assert.ok(typeof value === 'number' || typeof value === 'string', `no integer: ${value}`);
  return Number(value);
}

const digest = (data: string | Uint8Array) =>
  Buffer.from(blake3(typeof data === 'string' ? Buffer.from(data) : data)).toString('hex');

function entry({ mode, mtime, ctime, ...rest }: Entry) {
  return { ...rest, mode: mode.toString(8), mtime: mtime.toString(), ctime: ctime.toString() };
}

const event = (found: StoreEvent | undefined) => found && { ...found, at: found.at.toString() };

function matches(want: Json, found: unknown): boolean {
  if (Array.isArray(want)) {
    const same = Array.isArray(found) && found.length === want.length;
    return same && want.every((each, at) => matches(each, found[at]));
  }
  if (found instanceof Uint8Array || typeof found === 'string') {
    return want !== null && bytes(want).equals(Buffer.from(found as string));
  }
  if (typeof found === 'number') {
    return integer(want) === found;
  }
  if (typeof want === 'object' && want !== null) {
    const fields = found as Record<string, unknown> | null | undefined;
    return Object.entries(want).every(([key, each]) => matches(each, fields?.[key] ?? null));
  }
  return want === (found ?? null);
}

/** The arguments of a step. One that its operation does not have is an error in the vector. */
class Arguments {
  readonly #step: Fields;
  readonly #used = new Set(['op', 'expect', 'as']);

  constructor(step: Fields) {
    this.#step = step;
  }

  has(key: string): boolean {
    return this.#step[key] !== undefined;
  }

  get(key: string): Json | undefined {
    this.#used.add(key);
    return this.#step[key];
  }

  need(key: string): Json {
    const value = this.get(key);
    assert.notEqual(value, undefined, `the step lacks ${key}`);
    return value as Json;
  }

  text(key: string): string {
    return text(this.need(key));
  }

  maybe(key: string): string | undefined {
    return this.has(key) ? this.text(key) : undefined;
  }

  flag(key: string, otherwise = false): boolean {
    return (this.get(key) as boolean | undefined) ?? otherwise;
  }

  number(key: string): number {
    return integer(this.need(key));
  }

  path(key = 'path'): string | Buffer {
    const found = bytes(this.need(key));
    const path = found.toString();
    return Buffer.from(path).equals(found) ? path : found;
  }

  data(): Buffer {
    return bytes(this.need('data'));
  }

  texts(key: string): string[] {
    return ((this.get(key) as Json[] | undefined) ?? []).map(text);
  }

  mode(): { mode?: number } {
    return this.has('mode') ? { mode: Number.parseInt(this.text('mode'), 8) } : {};
  }

  attributes(): Attributes {
    return {
      ...this.mode(),
      ...(this.has('uid') && { uid: this.number('uid') }),
      ...(this.has('gid') && { gid: this.number('gid') }),
      ...(this.has('mtime') && { mtime: BigInt(this.text('mtime')) }),
    };
  }

  filter(): EventFilter {
    return {
      ...(this.has('branch') && { branch: this.text('branch') }),
      ...(this.has('under') && { under: this.text('under') }),
      ...(this.has('directly_in') && { directlyIn: this.text('directly_in') }),
      ...(this.has('globs') && { glob: this.texts('globs') }),
    };
  }

  task(): { signal?: AbortSignal } {
    return this.flag('cancelled') ? { signal: AbortSignal.abort() } : {};
  }

  checkUsed() {
    const unknown = Object.keys(this.#step).filter((key) => !this.#used.has(key));
    assert.deepEqual(unknown, [], 'the operation has no such argument');
  }
}

/** What was thrown, in the store's words. */
function failure(error: unknown) {
  assert.ok(error instanceof Error, `${error}`);
  const { kind, code, errno, detail } = error as AlkError;
  const message = `${error.message} ${detail ?? ''}`;
  const known = (kind: string, code: keyof typeof constants.errno) => {
    return { kind, code: code as string, errno: constants.errno[code] as number, message };
  };
  // What Node refuses with a code of its own.
  if (error.name === 'AbortError') {
    return known('Cancelled', 'ECANCELED');
  }
  if (code === 'ERR_INVALID_ARG_VALUE' && error.message.includes('null bytes')) {
    return known(error.message.includes("'target'") ? 'InvalidInput' : 'InvalidPath', 'EINVAL');
  }
  // Node has its own words for a closed handle, and Linux another code for truncating a file that
  // was opened for reading.
  if ((code === 'EBADF' && kind === undefined) || (code === 'EINVAL' && kind === 'BadHandle')) {
    return known('BadHandle', 'EBADF');
  }
  if (kind === undefined) {
    throw error;
  }
  return { kind, code: code as string, errno: -(errno as number), message };
}

/** One store, and the handles that the steps of a vector keep. */
class Runner {
  readonly #folder: string;
  readonly #disk: boolean;
  #store!: Store;
  #branches = new Map<string, Branch>();
  #views = new Map<string, View>();
  #readers = new Map<string, Reader>();
  #files = new Map<string, FileHandle>();
  #batches = new Map<string, Batch>();
  #watchers = new Map<string, Watcher>();
  #sessions = new Map<string, Session>();
  #ids = new Map<string, number>();

  constructor(folder: string, disk: boolean) {
    this.#folder = folder;
    this.#disk = disk;
  }

  async open() {
    // Vectors cut no power, so they need not wait for the disk.
    const options = { author: 'tester', durability: 'relaxed' } as const;
    const path = join(this.#folder, 'store');
    this.#store = this.#disk ? await open(path, options) : memory(options);
  }

  async reopen() {
    if (this.#disk) {
      await this.close();
      await this.open();
    }
  }

  async close() {
    await this.#call(this.#store, 'close');
  }

  /**
   * Calls a method: on disk its promised form, in memory the synchronous one, where it has both.
   */
  // biome-ignore lint/suspicious/noExplicitAny: the result is that of the method.
  async #call(object: object, method: string, ...args: unknown[]): Promise<any> {
    const methods = object as Record<string, ((...args: unknown[]) => unknown) | undefined>;
    const sync = this.#disk ? undefined : methods[`${method}Sync`];
    const call = sync ?? methods[method];
    assert.ok(call, `there is no ${method}`);
    return call.apply(object, args);
  }

  /** As {@link Runner.#call}, of a tree's `fs`. */
  // biome-ignore lint/suspicious/noExplicitAny: the result is that of the method.
  #fs(tree: Tree, method: string, ...args: unknown[]): Promise<any> {
    const name = this.#disk ? method : `${method}Sync`;
    return this.#call(this.#disk ? tree.fs.promises : tree.fs, name, ...args);
  }

  #bucket(args: Arguments): Bucket {
    return this.#store.bucket(args.maybe('bucket'));
  }

  #named(name: string): Tree {
    const colon = name.indexOf(':');
    const bucket = this.#store.bucket(colon < 0 ? undefined : name.slice(0, colon));
    const tree = name.slice(colon + 1);
    return tree.includes('@') ? bucket.view(tree) : bucket.branch(tree);
  }

  #kept<T>(handles: Map<string, T>, args: Arguments, key: string): T {
    const name = args.text(key);
    const found = handles.get(name);
    assert.ok(found !== undefined, `there is no ${key} ${name}`);
    return found;
  }

  #tree(args: Arguments): Tree {
    return args.has('view') ? this.#kept(this.#views, args, 'view') : this.#branch(args, true);
  }

  #branch(args: Arguments, reading = false): Branch {
    if (args.has('handle')) {
      return this.#kept(this.#branches, args, 'handle');
    }
    const found = this.#named(args.maybe('on') ?? 'main');
    assert.ok(reading || found instanceof Branch, 'a snapshot cannot be written');
    return found as Branch;
  }

  /** The number of a session, also of one that ended. */
  #id(args: Arguments): number {
    return args.has('id') ? args.number('id') : this.#kept(this.#ids, args, 'session');
  }

  async step(step: Fields) {
    const args = new Arguments(step);
    const op = step.op as string;
    const expect = step.expect as Fields | undefined;
    let result: unknown;
    try {
      const collects = args.has('batch') && op !== 'commit' && op !== 'drop';
      result = collects ? await this.#collect(op, args) : await this.#run(op, args);
    } catch (error) {
      if (error instanceof assert.AssertionError) {
        throw error;
      }
      const { message, ...found } = failure(error);
      const want = expect?.error as Fields | undefined;
      assert.ok(want, `failed: ${message}`);
      if (found.kind === want.kind && [step.path, step.target, step.from, step.to].includes('')) {
        // Nothing is at an empty path in the shape of Node.
        assert.match(found.code, /^(EINVAL|ENOENT)$/);
        return;
      }
      const { mentions = '', ...stated } = want;
      const number = (constants.errno as Record<string, number>)[found.code];
      assert.deepEqual(found, { ...stated, errno: number ?? stated.errno });
      assert.ok(message.includes(text(mentions)), message);
      return;
    }
    args.checkUsed();
    if (op === 'exists' && (expect?.error as Fields | undefined)?.kind === 'InvalidPath') {
      // Nothing is where no path leads, as with Node's own.
      assert.equal(result, false);
      return;
    }
    assert.equal(expect?.error, undefined, `succeeded with ${inspect(result)}`);
    if (expect !== undefined) {
      const same = matches(expect.ok as Json, result);
      assert.ok(same, `${inspect(result)} is not ${JSON.stringify(expect.ok)}`);
    }
  }

  async checkFinal(final: Fields) {
    for (const [name, want] of Object.entries(final) as [string, Fields][]) {
      const tree = this.#named(name);
      const listing: unknown[] = [];
      let lines = '';
      for (const { path, kind, mode, target } of await this.#call(tree, 'walk')) {
        const row: Record<string, unknown> = { kind, mode: mode.toString(8), path };
        let what = '-';
        if (kind === 'file') {
          row.data = await this.#fs(tree, 'readFile', path);
          what = digest(row.data as Buffer);
        } else if (kind === 'symlink') {
          row.target = target;
          what = digest(target);
        }
        listing.push(row);
        lines += `${kind} ${mode.toString(8)} ${what} ${path}\n`;
      }
      const same = matches(want.tree as Json, listing);
      assert.ok(same, `${name}: ${inspect(listing)} is not ${JSON.stringify(want.tree)}`);
      assert.equal(digest(lines), want.hash, name);
      assert.equal(await this.#call(tree, 'treeHash'), want.hash, name);
    }
  }

  async #collect(op: string, args: Arguments): Promise<void> {
    const batch = this.#kept(this.#batches, args, 'batch');
    switch (op) {
      case 'write':
        return this.#call(batch, 'write', args.path(), args.data());
      case 'put':
        return this.#call(batch, 'put', args.path(), args.data(), {
          ...args.attributes(),
          ...put(args),
        });
      case 'mkdir':
        return this.#call(batch, 'mkdir', args.path(), args.attributes());
      case 'mkdir_all':
        return this.#call(batch, 'mkdir', args.path(), { recursive: true });
      case 'symlink':
        return this.#call(batch, 'symlink', args.text('target'), args.path(), args.attributes());
      case 'remove':
        return this.#call(batch, 'unlink', args.path());
      case 'remove_dir':
        return this.#call(batch, 'rmdir', args.path());
      case 'remove_all':
        return this.#call(batch, 'removeAll', args.path());
      case 'rename':
        return this.#call(batch, 'rename', args.path('from'), args.path('to'));
      case 'copy':
        return this.#call(batch, 'copy', args.path('from'), args.path('to'));
      case 'set_attrs': {
        const follow = args.flag('follow', true);
        return this.#call(batch, 'setAttributes', args.path(), args.attributes(), { follow });
      }
      default:
        assert.fail(`a batch has no ${op}`);
    }
  }

  async #run(op: string, args: Arguments): Promise<unknown> {
    switch (op) {
      // Store and buckets.
      case 'create_bucket':
        await this.#call(this.#store, 'createBucket', args.text('name'));
        return undefined;
      case 'rename_bucket':
        return this.#store.renameBucket(args.text('name'), args.text('to'));
      case 'delete_bucket':
        return this.#store.deleteBucket(args.text('name'));
      case 'buckets':
        return this.#call(this.#store, 'buckets');
      case 'open_bucket':
        return { name: this.#store.bucket(args.text('name')).name };
      case 'reopen':
        return this.reopen();
      case 'drop':
        return this.#drop(args);
      case 'watch': {
        const options = { ...args.filter(), ...this.#after(args) };
        const everything = args.get('bucket') === null;
        const from = everything ? this.#store : this.#bucket(args);
        this.#watchers.set(args.text('as'), from.watch(options));
        return undefined;
      }
      case 'next':
        return event(this.#kept(this.#watchers, args, 'watcher').poll());
      case 'log': {
        const options = { ...args.filter(), limit: args.number('limit') };
        return (await this.#bucket(args).log(options)).map(event);
      }
      case 'prune_events':
        return this.#bucket(args).pruneEvents({
          ...(args.has('at_most') && { atMost: args.number('at_most') }),
          ...(args.has('not_before') && { notBefore: BigInt(args.text('not_before')) }),
        });

      // Upkeep.
      case 'stats': {
        const { contentBytes, ...stats } = await this.#store.stats();
        return { ...stats, content_bytes: contentBytes };
      }
      case 'sharing': {
        const sharing = await this.#bucket(args).sharing(args.texts('trees'), args.task());
        const trees = sharing.trees.map(({ sharedFiles, ...tree }) => {
          return { ...tree, shared_files: sharedFiles };
        });
        return { ...sharing, trees };
      }
      case 'fsck':
        return this.#store.fsck({ fast: args.flag('fast'), ...args.task() });
      case 'gc': {
        const { contentBytes, ...report } = await this.#store.gc({
          ...(args.has('grace') && { grace: args.number('grace') * 1000 }),
          ...(args.has('keep_events') && { keepEvents: args.number('keep_events') }),
          dryRun: args.flag('dry_run'),
          ...args.task(),
        });
        return { ...report, content_bytes: contentBytes };
      }

      // Branches and snapshots.
      case 'open_branch': {
        const branch = this.#branch(args);
        if (args.has('as')) {
          this.#branches.set(args.text('as'), branch);
        }
        return undefined;
      }
      case 'branches':
        return this.#call(this.#bucket(args), 'branches');
      case 'info':
        return this.#call(this.#branch(args), 'info');
      case 'fork':
        await this.#call(this.#bucket(args), 'fork', args.text('from'), args.text('name'));
        return undefined;
      case 'rename_branch':
        return this.#branch(args).rename(args.text('name'));
      case 'delete_branch':
        return this.#bucket(args).deleteBranch(args.text('name'));
      case 'snapshot':
        return this.#call(this.#branch(args), 'snapshot', args.text('name'));
      case 'snapshots':
        return this.#call(this.#branch(args), 'snapshots');
      case 'delete_snapshot':
        return this.#branch(args).deleteSnapshot(args.text('snapshot'));
      case 'restore':
        return this.#call(this.#branch(args), 'restore', args.text('snapshot'));
      case 'diff': {
        const [from, to, under] = [args.text('from'), args.text('to'), args.path('under')];
        const found = await this.#call(this.#bucket(args), 'diff', from, to, { under });
        return found.map((each: { old?: Entry; new?: Entry }) => {
          return { ...each, old: each.old && entry(each.old), new: each.new && entry(each.new) };
        });
      }

      // Reading.
      case 'view': {
        const tree = this.#named(args.maybe('on') ?? 'main');
        this.#views.set(args.text('as'), tree instanceof Branch ? tree.view() : tree);
        return undefined;
      }
      case 'stat':
        return entry(await this.#call(this.#tree(args), 'entry', args.path()));
      case 'lstat':
        return entry(await this.#call(this.#tree(args), 'entry', args.path(), { follow: false }));
      case 'exists':
        return this.#call(this.#tree(args), 'exists', args.path());
      case 'canonicalize':
        return this.#call(this.#tree(args), 'canonicalize', args.path());
      case 'read_link':
        return this.#fs(this.#tree(args), 'readlink', args.path());
      case 'list':
        return (await this.#call(this.#tree(args), 'list', args.path())).map(entry);
      case 'walk':
        return (await this.#call(this.#tree(args), 'walk', args.path())).map(entry);
      case 'glob': {
        const options = { cwd: args.path() };
        const found = await this.#call(this.#tree(args), 'glob', args.text('pattern'), options);
        return found.map(entry);
      }
      case 'read':
        return this.#fs(this.#tree(args), 'readFile', args.path());
      case 'verify':
        return this.#tree(args).verify(args.path());
      case 'tree_hash':
        return this.#call(this.#tree(args), 'treeHash');
      case 'open_reader':
      case 'open_content': {
        const tree = this.#tree(args);
        const reader: Reader =
          op === 'open_reader'
            ? await this.#call(tree, 'reader', args.path())
            : await this.#call(tree, 'content', args.text('hash'));
        this.#readers.set(args.text('as'), reader);
        return { size: reader.size, hash: reader.hash };
      }
      case 'read_at': {
        const from = args.has('reader')
          ? this.#kept(this.#readers, args, 'reader')
          : this.#kept(this.#sessions, args, 'session');
        return this.#call(from, 'read', args.number('offset'), args.number('len'));
      }

      // Changing.
      case 'write':
        return this.#fs(this.#branch(args), 'writeFile', args.path(), args.data());
      case 'put': {
        const options = { ...args.attributes(), ...put(args) };
        return this.#call(this.#branch(args), 'put', args.path(), args.data(), options);
      }
      case 'mkdir':
        await this.#call(this.#branch(args), 'mkdir', args.path(), args.attributes());
        return undefined;
      case 'mkdir_all':
        await this.#call(this.#branch(args), 'mkdir', args.path(), { recursive: true });
        return undefined;
      case 'symlink':
        return this.#fs(this.#branch(args), 'symlink', args.text('target'), args.path());
      case 'hard_link':
        return this.#branch(args).link(args.path('target'), args.path());
      case 'remove':
        return this.#fs(this.#branch(args), 'unlink', args.path());
      case 'remove_dir':
        return this.#fs(this.#branch(args), 'rmdir', args.path());
      case 'remove_all':
        return this.#call(this.#branch(args), 'removeAll', args.path());
      case 'rename':
        return this.#fs(this.#branch(args), 'rename', args.path('from'), args.path('to'));
      case 'rename_new': {
        const [from, to] = [args.path('from'), args.path('to')];
        return this.#call(this.#branch(args), 'move', from, to, { replace: false });
      }
      case 'copy':
        return this.#call(this.#branch(args), 'copy', args.path('from'), args.path('to'));
      case 'set_attrs': {
        const [path, set, follow] = [args.path(), args.attributes(), args.flag('follow', true)];
        return this.#call(this.#branch(args), 'setAttributes', path, set, { follow });
      }
      case 'batch':
        this.#batches.set(args.text('as'), this.#branch(args).batch());
        return undefined;
      case 'commit':
        return this.#call(this.#kept(this.#batches, args, 'batch'), 'commit');

      // Write sessions.
      case 'open': {
        const session = await this.#call(this.#branch(args), 'openSession', args.path(), {
          create: args.flag('create', true),
          createNew: args.flag('create_new'),
          truncate: args.flag('truncate'),
          exclusive: args.flag('exclusive'),
          ...(args.has('owner') && { owner: args.text('owner') }),
          ...args.mode(),
        });
        return this.#keep(args, session);
      }
      case 'write_at': {
        const session = this.#kept(this.#sessions, args, 'session');
        return this.#call(session, 'write', args.data(), args.number('offset'));
      }
      case 'append':
        return this.#call(this.#kept(this.#sessions, args, 'session'), 'append', args.data());
      case 'truncate': {
        const session = this.#kept(this.#sessions, args, 'session');
        return this.#call(session, 'truncate', args.number('size'));
      }
      case 'size':
        return this.#kept(this.#sessions, args, 'session').size;
      case 'session_path':
        return this.#kept(this.#sessions, args, 'session').path;
      case 'sync':
        return this.#call(this.#kept(this.#sessions, args, 'session'), 'sync');
      case 'close': {
        const session = this.#kept(this.#sessions, args, 'session');
        return this.#call(session, 'close', args.attributes());
      }
      case 'abort':
        return this.#call(this.#kept(this.#sessions, args, 'session'), 'abort');
      case 'detach':
        await this.#call(this.#kept(this.#sessions, args, 'session'), 'detach');
        this.#sessions.delete(args.text('session'));
        return undefined;
      case 'resume':
        return this.#keep(args, await this.#call(this.#store, 'resumeSession', this.#id(args)));
      case 'sessions': {
        const sessions: SessionInfo[] = await this.#call(this.#store, 'sessions');
        return sessions.map(({ created, touched, ...info }) => info);
      }
      case 'abort_session':
        return this.#store.abortSession(this.#id(args), { force: args.flag('force') });

      // Open files.
      case 'open_file': {
        const flags = ['read', 'write', 'append', 'create', 'truncate'] as const;
        const options = {
          ...Object.fromEntries(flags.map((flag) => [flag, args.flag(flag)])),
          createNew: args.flag('create_new'),
          ...args.mode(),
        };
        const file = args.has('view')
          ? await this.#tree(args).openFile(args.path())
          : await this.#branch(args).openFile(args.path(), options);
        this.#files.set(args.text('as'), file);
        return undefined;
      }
      case 'file_read': {
        const file = this.#kept(this.#files, args, 'file');
        const [length, position] = [args.number('len'), this.#offset(args)];
        const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, position);
        return buffer.subarray(0, bytesRead);
      }
      case 'file_write': {
        const file = this.#kept(this.#files, args, 'file');
        const data = args.data();
        await file.write(data, 0, data.length, this.#offset(args));
        return undefined;
      }
      case 'file_position':
        return this.#kept(this.#files, args, 'file').position;
      case 'file_seek':
        this.#kept(this.#files, args, 'file').position = args.number('position');
        return undefined;
      case 'file_truncate':
        return this.#kept(this.#files, args, 'file').truncate(args.number('size'));
      case 'file_stat':
        return entry(await this.#kept(this.#files, args, 'file').entry());
      case 'file_set_attrs':
        return this.#kept(this.#files, args, 'file').setAttributes(args.attributes());
      case 'file_sync':
        return this.#kept(this.#files, args, 'file').sync();
      case 'file_close':
        return this.#kept(this.#files, args, 'file').commit();
      case 'file_abort':
        return this.#kept(this.#files, args, 'file').abort();

      // Directories of the operating system.
      case 'host_put':
        return hostPut(this.#host(args), args.need('entries') as Fields[]);
      case 'host_remove':
        return unlinkSync(join(this.#host(args), args.text('path')));
      case 'host_tree':
        return hostTree(this.#host(args));
      case 'create_store':
        return openSync(this.#host(args), { create: 'new' }).closeSync();
      case 'open_store':
        return openSync(this.#host(args), { create: false }).closeSync();
      case 'import': {
        const source = join(this.#host(args), args.maybe('path') ?? '');
        const { skipped, ...report } = await this.#branch(args).import(source, {
          to: args.path('to'),
          exclude: args.texts('exclude'),
          delete: args.flag('delete'),
          ...args.task(),
        });
        return { ...report, skipped: skipped.length };
      }
      case 'export':
        return this.#tree(args).export(this.#host(args), {
          from: args.path(),
          overwrite: args.flag('overwrite'),
          sync: args.flag('sync'),
          ...args.task(),
        });
      default:
        assert.fail(`there is no operation ${op}`);
    }
  }

  async #drop(args: Arguments) {
    const kinds = {
      session: this.#sessions,
      file: this.#files,
      batch: this.#batches,
      view: this.#views,
      reader: this.#readers,
    } as Record<string, Map<string, AsyncDisposable>>;
    for (const [kind, handles] of Object.entries(kinds)) {
      if (args.has(kind)) {
        await this.#kept(handles, args, kind)[Symbol.asyncDispose]();
        handles.delete(args.text(kind));
      }
    }
  }

  #after(args: Arguments): { after?: number } {
    const after = args.get('after');
    if (after === undefined) {
      return {};
    }
    if (after === 'start') {
      return { after: 0 };
    }
    const watcher = this.#watchers.get(text((after as Fields).watcher as Json));
    return { after: (watcher as Watcher).cursor };
  }

  #offset(args: Arguments): number | null {
    return args.has('offset') ? args.number('offset') : null;
  }

  #keep(args: Arguments, session: Session) {
    this.#sessions.set(args.text('as'), session);
    this.#ids.set(args.text('as'), session.id);
  }

  #host(args: Arguments): string {
    return join(this.#folder, 'host', args.text('dir'));
  }
}

function put(args: Arguments) {
  const how = args.maybe('put') ?? 'create_or_replace';
  return { create: how !== 'replace_existing', replace: how !== 'create_new' };
}

function hostPut(folder: string, entries: Fields[]) {
  mkdirSync(folder, { recursive: true });
  for (const { kind, path, mode, data, target } of entries as { [key: string]: Json }[]) {
    const at = join(folder, text(path as Json));
    if (kind === 'symlink') {
      symlinkSync(text(target as Json), at);
      continue;
    }
    if (kind === 'dir') {
      mkdirSync(at);
    } else {
      writeFileSync(at, bytes(data as Json));
    }
    chmodSync(at, Number.parseInt(text(mode as Json), 8));
  }
}

function hostTree(folder: string, below = ''): unknown[] {
  const names = readdirSync(join(folder, below), { encoding: 'buffer' });
  names.sort(Buffer.compare);
  return names.flatMap((name) => {
    const path = `${below}/${name}`;
    const found = lstatSync(join(folder, path));
    const row = { path, mode: (found.mode & 0o7777).toString(8) };
    if (found.isSymbolicLink()) {
      return [{ ...row, kind: 'symlink', target: readlinkSync(join(folder, path)) }];
    }
    if (found.isDirectory()) {
      return [{ ...row, kind: 'dir' }, ...hostTree(folder, path)];
    }
    return [{ ...row, kind: 'file', data: readFileSync(join(folder, path)) }];
  });
}

let number = 0;

async function replay(vector: Fields, disk: boolean) {
  number += 1;
  const folder = join(root, `${number}`);
  mkdirSync(folder);
  const runner = new Runner(folder, disk);
  await runner.open();
  for (const [at, step] of (vector.steps as Fields[]).entries()) {
    try {
      await runner.step(step);
    } catch (error) {
      throw new Error(`step ${at + 1}, ${JSON.stringify(step)}: ${error}`, { cause: error });
    }
  }
  await runner.checkFinal(vector.final as Fields);
  await runner.reopen();
  await runner.checkFinal(vector.final as Fields);
  await runner.close();
}

for (const disk of [true, false]) {
  const name = `vectors ${disk ? 'on disk, with promises' : 'in memory, synchronously'}`;
  describe(name, { concurrency: 4 }, () => {
    let count = 0;
    for (const file of readdirSync(vectors()).filter((name) => name.endsWith('.json'))) {
      const {
        format,
        topic,
        vectors: list,
      } = JSON.parse(readFileSync(join(vectors(), file), 'utf8')) as {
        format: number;
        topic: string;
        vectors: Fields[];
      };
      it(topic, async () => {
        assert.equal(format, 1);
        const failures: string[] = [];
        for (const vector of list) {
          try {
            await replay(vector, disk);
          } catch (error) {
            failures.push(`${vector.name}: ${(error as Error).stack}`);
          }
          count += 1;
        }
        assert.deepEqual(failures, []);
      });
    }
    after(() => assert.ok(count > 300, `only ${count}`));
  });
}
