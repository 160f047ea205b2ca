/** `watch` and `watchFile` of `node:fs`, on the events of a branch. */

import { EventEmitter } from 'node:events';
import type { PathLike, WatchEventType } from 'node:fs';
import { posix } from 'node:path';

import { check, encoded, toOptions, toPath } from './arguments.js';
import { now } from './calls.js';
import { failure, rebuild, wrongType } from './errors.js';
import type { StoreEvent, Tree } from './native.js';
import { stat } from './operations.js';
import { BigIntStats, Stats } from './stats.js';
import type { Watcher } from './watch.js';

/** What happened to a name; none where nobody knows which, as after a restore. */
export interface FileChange<Name extends string | Buffer = string | Buffer> {
  eventType: WatchEventType;
  filename: Name | null;
}

/** How to watch. */
export interface FileWatchOptions {
  /** Whether the process stays alive for it; otherwise `true`. */
  persistent?: boolean | undefined;
  /** Whether what is deeper in a directory counts too. */
  recursive?: boolean | undefined;
  encoding?: BufferEncoding | 'buffer' | null | undefined;
  signal?: AbortSignal | undefined;
}

/** Begins to watch all of a branch. */
export type Watching = (options: { signal?: AbortSignal }) => Watcher;

type Options = FileWatchOptions | string | null | undefined;
/** Is told of changes. */
export type WatchListener<Name extends string | Buffer = string> = (
  eventType: WatchEventType,
  filename: Name | null,
) => void;

/** Tells what an event is to one who watches a path. */
type Translate = (event: StoreEvent) => FileChange[];

/** Finds what is watched, and how its events are told. */
function target(tree: Tree, path: PathLike, options: Options): Translate {
  const { encoding, recursive } = toOptions(options) as FileWatchOptions;
  const name = toPath(path);
  let real: string;
  let directory: boolean;
  try {
    real = now(() => tree.canonicalize(name, false));
    directory = now(() => tree.stat(real, false, false))[0] === 1;
  } catch (error) {
    throw rebuilt(error, name);
  }
  const below = real === '/' ? '/' : `${real}/`;
  const relative = (path: string | undefined) => {
    if (path === real || (path !== undefined && real.startsWith(`${path}/`))) {
      return posix.basename(real);
    }
    if (!directory || !path?.startsWith(below)) {
      return undefined;
    }
    const rest = path.slice(below.length);
    return recursive || !rest.includes('/') ? rest : undefined;
  };
  return (event) => {
    if (event.op === 'restore') {
      return [{ eventType: 'rename', filename: null }];
    }
    const above = (path: string | undefined) => path !== real && real.startsWith(`${path}/`);
    const changes = event.op === 'modify' || event.op === 'attributes';
    const eventType = changes ? 'change' : 'rename';
    const paths = [event.from, event.path].filter((path) => !(changes && above(path)));
    return paths.flatMap((path) => {
      const filename = relative(path);
      return filename === undefined ? [] : [{ eventType, filename: encoded(filename, encoding) }];
    });
  };
}

function rebuilt(error: unknown, path: string): unknown {
  const { code, kind } = error as { code?: string; kind?: string };
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return failure(code, kind ?? 'NotFound', { syscall: 'watch', path });
  }
  return rebuild(error);
}

/** `watch` of `fs.promises`: changes from now on, until the loop is left or the signal says so. */
export function watchLater(
  tree: Tree,
  watching: Watching,
  path: PathLike,
  options?: Options,
): AsyncGenerator<FileChange, undefined> {
  const { signal, persistent = true } = toOptions(options) as FileWatchOptions;
  let watcher: Watcher | undefined;
  let translate: Translate | undefined;
  let failed: { error: unknown } | undefined;
  try {
    check(signal);
    translate = target(tree, path, options);
    watcher = watching(signal ? { signal } : {});
    if (!persistent) {
      watcher.unref();
    }
  } catch (error) {
    failed = { error };
  }
  return changes(watcher, translate, failed);
}

async function* changes(
  watcher: Watcher | undefined,
  translate: Translate | undefined,
  failed: { error: unknown } | undefined,
): AsyncGenerator<FileChange, undefined> {
  if (failed !== undefined || watcher === undefined || translate === undefined) {
    throw failed?.error;
  }
  for await (const event of watcher) {
    yield* translate(event);
  }
}

/** What `fs.watch` gives: it emits `change`, `error` and `close`. */
export class FSWatcher extends EventEmitter {
  readonly #watcher: Watcher;

  /** @internal */
  constructor(watcher: Watcher, translate: Translate) {
    super();
    this.#watcher = watcher;
    this.#follow(translate);
  }

  async #follow(translate: Translate) {
    try {
      for await (const event of this.#watcher) {
        for (const { eventType, filename } of translate(event)) {
          // Out of here, so that what a listener throws is its own.
          process.nextTick(() => this.emit('change', eventType, filename));
        }
      }
    } catch (error) {
      // A signal that was given ends the watching, and that is no error.
      if ((error as Error).name !== 'AbortError') {
        process.nextTick(() => this.emit('error', error));
      }
    }
    process.nextTick(() => this.emit('close'));
  }

  close(): void {
    this.#watcher.close();
  }

  ref(): this {
    this.#watcher.ref();
    return this;
  }

  unref(): this {
    this.#watcher.unref();
    return this;
  }
}

/** `fs.watch`. */
export function watch(
  tree: Tree,
  watching: Watching,
  path: PathLike,
  options?: Options | WatchListener,
  listener?: WatchListener,
): FSWatcher {
  const [how, listen] = typeof options === 'function' ? [undefined, options] : [options, listener];
  const { signal, persistent = true } = toOptions(how) as FileWatchOptions;
  const translate = target(tree, path, how);
  const watcher = watching(signal ? { signal } : {});
  const made = new FSWatcher(watcher, translate);
  if (!persistent) {
    made.unref();
  }
  if (listen !== undefined) {
    made.on('change', listen);
  }
  return made;
}

type AnyStats = Stats | BigIntStats;

/** Is told what was found and what was before. */
export type StatListener<S extends AnyStats = AnyStats> = (found: S, before: S) => void;

/** How to watch a file's attributes. */
export interface StatWatchOptions {
  bigint?: boolean | undefined;
  persistent?: boolean | undefined;
  /** Node's time between two looks; a branch tells by itself. */
  interval?: number | undefined;
}

/** One watcher of a branch, with one thread, for all files that `watchFile` watches. */
class Hub {
  readonly #watching: Watching;
  #watcher?: Watcher;
  readonly #members = new Set<StatWatcher>();
  /** Those that keep the process alive. */
  readonly #persistent = new Set<StatWatcher>();

  constructor(watching: Watching) {
    this.#watching = watching;
  }

  add(member: StatWatcher) {
    this.#members.add(member);
    if (this.#watcher === undefined) {
      this.#watcher = this.#watching({});
      this.#follow(this.#watcher);
    }
    this.persist(member, true);
  }

  persist(member: StatWatcher, persistent: boolean) {
    if (persistent && this.#members.has(member)) {
      this.#persistent.add(member);
    } else {
      this.#persistent.delete(member);
    }
    if (this.#persistent.size > 0) {
      this.#watcher?.ref();
    } else {
      this.#watcher?.unref();
    }
  }

  remove(member: StatWatcher) {
    this.#members.delete(member);
    this.persist(member, false);
    if (this.#members.size === 0) {
      this.#watcher?.close();
      this.#watcher = undefined;
    }
  }

  async #follow(watcher: Watcher) {
    try {
      for await (const event of watcher) {
        for (const member of [...this.#members]) {
          member.notice(event);
        }
      }
    } catch {
      // As with Node's, which has no error: nothing more is told.
    }
    if (this.#watcher === watcher) {
      this.#watcher = undefined;
    }
  }
}

/** What `fs.watchFile` gives: it emits `change` with what was found and what was before. */
export class StatWatcher extends EventEmitter {
  readonly #hub: Hub;
  readonly #look: () => AnyStats;
  readonly #concerns: (event: StoreEvent) => boolean;
  #before: AnyStats;

  /** @internal */
  constructor(hub: Hub, look: () => AnyStats, concerns: (event: StoreEvent) => boolean) {
    super();
    this.#hub = hub;
    this.#look = look;
    this.#concerns = concerns;
    hub.add(this);
    this.#before = look();
    if (Number(this.#before.ctimeMs) === 0) {
      process.nextTick(() => this.emit('change', this.#before, this.#before));
    }
  }

  /** @internal */
  notice(event: StoreEvent): void {
    if (!this.#concerns(event)) {
      return;
    }
    const found = this.#look();
    const before = this.#before;
    if (differ(found, before)) {
      this.#before = found;
      process.nextTick(() => this.emit('change', found, before));
    }
  }

  /** Ends the watching. */
  stop(): void {
    this.#hub.remove(this);
  }

  ref(): this {
    this.#hub.persist(this, true);
    return this;
  }

  unref(): this {
    this.#hub.persist(this, false);
    return this;
  }
}

function differ(one: AnyStats, other: AnyStats): boolean {
  const names = ['mode', 'uid', 'gid', 'size', 'mtimeMs', 'ctimeMs'] as const;
  return names.some((name) => one[name] !== other[name]);
}

/** Makes `watchFile` and `unwatchFile` of a tree. */
export function fileWatching(tree: Tree, watching: Watching) {
  const watchers = new Map<string, StatWatcher>();
  const hub = new Hub(watching);

  function watchFile(file: PathLike, ...args: [StatListener] | [StatWatchOptions, StatListener]) {
    const listener = args.pop() as StatListener;
    const { bigint = false, persistent = true } = (args[0] as StatWatchOptions | undefined) ?? {};
    if (typeof listener !== 'function') {
      throw wrongType('listener', 'of type function', listener);
    }
    const name = toPath(file);
    const options = { bigint, throwIfNoEntry: false };
    const path = posix.resolve('/', name);
    // Of a path with links in it, or one that leads nowhere, any event may change where it leads.
    let straight = false;
    const concerns = ({ path: to, from }: StoreEvent) =>
      !straight ||
      to === undefined ||
      [to, from].some(
        (at) => at !== undefined && (`${path}/`.startsWith(`${at}/`) || posix.dirname(at) === path),
      );
    const look = () => {
      try {
        straight =
          now((later) => tree.exists(name, later)) &&
          now((later) => tree.canonicalize(name, later)) === path;
        return (stat(tree, false, name, options) as AnyStats | undefined) ?? none(bigint);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EBADF') {
          throw error;
        }
        return none(bigint);
      }
    };
    let watcher = watchers.get(name);
    if (watcher === undefined) {
      watcher = new StatWatcher(hub, look, concerns);
      watchers.set(name, watcher);
    }
    if (!persistent) {
      watcher.unref();
    }
    return watcher.addListener('change', listener);
  }

  function unwatchFile(path: PathLike, listener?: StatListener) {
    const name = toPath(path);
    const watcher = watchers.get(name);
    if (listener === undefined) {
      watcher?.removeAllListeners('change');
    } else {
      watcher?.removeListener('change', listener);
    }
    if (watcher?.listenerCount('change') === 0) {
      watcher.stop();
      watchers.delete(name);
    }
  }

  return { watchFile, unwatchFile };
}

/** What is told of a file that is not there. */
function none(bigint: boolean): AnyStats {
  const made = bigint ? new BigIntStats(new Array(9).fill(0)) : new Stats(new Array(9).fill(0));
  return Object.assign(made, bigint ? { mode: 0n, nlink: 0n } : { mode: 0, nlink: 0 });
}
