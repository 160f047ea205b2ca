/** Watching events. */

import { now } from './calls.js';
import { aborted, isClosed, rebuild } from './errors.js';
import type { Delivery, EventFilter, StoreEvent, WatchHandle } from './native.js';

/** What to watch, and from where on. */
export interface WatchOptions extends EventFilter {
  /**
   * The {@link StoreEvent.cursor | cursor} of the last event already seen; 0 for all events from
   * the first. Without it, those from now on.
   */
  after?: number;
  /** Ends the watching: whoever waits for an event then gets an `AbortError`. */
  signal?: AbortSignal;
}

interface Waiter {
  resolve(result: IteratorResult<StoreEvent, undefined>): void;
  reject(error: unknown): void;
}

/** Gives events a form in JSON, where `at` is text: JSON has no integers of its size. */
export function withJson(events: StoreEvent[]): StoreEvent[] {
  for (const event of events) {
    Object.defineProperty(event, 'toJSON', { value: inJson, configurable: true, writable: true });
  }
  return events;
}

function inJson(this: StoreEvent) {
  return { ...this, at: String(this.at) };
}

/** The longest time that a timer takes. */
const LONG_MS = 2 ** 31 - 1;

/** Those that somebody waits for, who may hold nothing but the promise. */
const waiting = new Set<Watcher>();

/**
 * Events in order, each once, whichever process committed them.
 *
 * The events come through a thread of the watcher's own, which ends when the watcher or its store
 * is closed, when a loop over it is left, or when it is garbage-collected. While somebody waits for
 * an event, the process stays alive, unless {@link unref} says otherwise.
 *
 * ```ts
 * for await (const event of branch.watch({ glob: '*.md' })) {
 *   console.log(event.op, event.path);
 * }
 * ```
 */
export class Watcher implements AsyncIterableIterator<StoreEvent, undefined> {
  readonly #native: WatchHandle;
  readonly #signal?: AbortSignal;
  readonly #abort: () => void;
  #waiters: Waiter[] = [];
  #ready: StoreEvent[] = [];
  #cursor: number;
  /** The cursor after all that is ready. */
  #delivered: number;
  #failure?: { error: unknown };
  #ended = false;
  #referenced = true;
  #timer?: NodeJS.Timeout;

  /** @internal */
  constructor(
    start: (deliver: (delivery: Delivery) => void) => WatchHandle,
    signal: AbortSignal | undefined,
  ) {
    const deliver = Watcher.#delivering(new WeakRef(this));
    this.#native = now(() => start(deliver));
    this.#cursor = this.#native.cursor();
    this.#delivered = this.#cursor;
    this.#signal = signal;
    this.#abort = Watcher.#aborting(new WeakRef(this), signal);
    if (signal?.aborted) {
      this.#abort();
    } else {
      signal?.addEventListener('abort', this.#abort, { once: true });
    }
  }

  /** What the native half calls, which must not keep the watcher: it ends where nobody holds it. */
  static #delivering(self: WeakRef<Watcher>): (delivery: Delivery) => void {
    return (delivery) => {
      const watcher = self.deref();
      if (watcher !== undefined) {
        watcher.#deliver(delivery);
      }
    };
  }

  /** What a signal calls, which must not keep the watcher either. */
  static #aborting(self: WeakRef<Watcher>, signal: AbortSignal | undefined): () => void {
    return () => {
      const watcher = self.deref();
      if (watcher !== undefined) {
        watcher.#fail(aborted(signal));
      }
    };
  }

  /** The position after the last event taken: a watcher that starts after it goes on there. */
  get cursor(): number {
    return this.#cursor;
  }

  /** Waits for the next event. */
  next(): Promise<IteratorResult<StoreEvent, undefined>> {
    if (this.#failure !== undefined) {
      const { error } = this.#failure;
      this.#failure = undefined;
      return Promise.reject(error);
    }
    if (this.#ended) {
      return Promise.resolve({ done: true, value: undefined });
    }
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      if (this.#ready.length > 0) {
        this.#settle();
      } else if (this.#waiters.length === 1) {
        this.#wait();
      }
    });
  }

  /** Takes the next event that is committed already; nothing where there is none. */
  poll(): StoreEvent | undefined {
    if (this.#ready.length === 0 && !this.#ended && this.#waiters.length === 0) {
      const found = now(() => this.#native.poll());
      const [event] = withJson(found === null ? [] : [found]);
      this.#delivered = now(() => this.#native.cursor());
      this.#cursor = event === undefined ? this.#delivered : event.cursor;
      return event;
    }
    return this.#take();
  }

  /** Ends the watching; whoever waits gets the end. */
  close(): void {
    this.#end();
    for (const waiter of this.#waiters.splice(0)) {
      waiter.resolve({ done: true, value: undefined });
    }
  }

  /** Ends the watching, as leaving a loop does. */
  async return(): Promise<IteratorResult<StoreEvent, undefined>> {
    this.close();
    return { done: true, value: undefined };
  }

  /** Lets the process stay alive while somebody waits for an event, which is the default. */
  ref(): this {
    this.#referenced = true;
    this.#timer?.ref();
    return this;
  }

  /** Lets the process end although somebody waits for an event. */
  unref(): this {
    this.#referenced = false;
    this.#timer?.unref();
    return this;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  #wait() {
    try {
      now(() => this.#native.wait());
    } catch (error) {
      this.#fail(error);
      return;
    }
    waiting.add(this);
    this.#timer ??= setInterval(() => {}, LONG_MS);
    if (!this.#referenced) {
      this.#timer.unref();
    }
  }

  #rest() {
    waiting.delete(this);
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #deliver({ events, cursor, error }: Delivery) {
    if (this.#ended) {
      return;
    }
    if (error !== undefined) {
      const packed = new Error(error);
      if (isClosed(packed)) {
        this.close();
      } else {
        this.#fail(rebuild(packed));
      }
      return;
    }
    this.#ready.push(...withJson(events));
    this.#delivered = cursor;
    this.#settle();
  }

  #settle() {
    while (this.#waiters.length > 0) {
      const value = this.#take();
      if (value === undefined) {
        this.#wait();
        return;
      }
      this.#waiters.shift()?.resolve({ done: false, value });
    }
    this.#rest();
  }

  #take(): StoreEvent | undefined {
    const event = this.#ready.shift();
    if (event !== undefined) {
      this.#cursor = this.#ready.length === 0 ? this.#delivered : event.cursor;
    }
    return event;
  }

  /** Ends the watching with an error for one who waits, now or next. */
  #fail(error: unknown) {
    if (this.#ended) {
      return;
    }
    this.#end();
    const [first, ...others] = this.#waiters.splice(0);
    if (first === undefined) {
      this.#failure = { error };
    } else {
      first.reject(error);
    }
    for (const waiter of others) {
      waiter.resolve({ done: true, value: undefined });
    }
  }

  #end() {
    this.#ended = true;
    this.#ready = [];
    this.#failure = undefined;
    this.#signal?.removeEventListener('abort', this.#abort);
    this.#native.stop();
    this.#rest();
  }
}
