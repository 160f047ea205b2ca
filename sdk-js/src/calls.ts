/** One body for the synchronous and the promised form of every operation. */

import { aborted, type Call, rebuild } from './errors.js';
import type { Outcome } from './native.js';

/** One native call; its argument says whether it is to be a promise. */
export type Step<T> = (later: boolean) => Outcome<T>;

/** An operation of several steps. */
// biome-ignore lint/suspicious/noExplicitAny: what a generator is given back depends on the step.
export type Steps<R> = Generator<Step<unknown>, R, any>;

/** Takes one step, with errors in Node's shape. */
export function* step<T>(call: Call, native: Step<T>): Steps<T> {
  return yield (later) => run(later, call, native);
}

/** Makes one native call, with errors in Node's shape. */
export function run<T>(later: boolean, call: Call | undefined, native: Step<T>): Outcome<T> {
  try {
    const outcome = native(later);
    if (!later) {
      return outcome;
    }
    return (outcome as Promise<T>).catch((error) => {
      throw rebuild(error, call);
    });
  } catch (error) {
    throw rebuild(error, call);
  }
}

/** What a call that takes some microseconds may take, in milliseconds. */
const SMALL_MS = 1;

/** How many calls go to the pool after one that took longer. */
const AFTER_LONG = 100;

let pooled = 0;

/**
 * Makes a call that takes some microseconds, less than to hand it to a thread and back, on the
 * calling thread, for a promise too. When one has to wait for the disk, the next ones go to the
 * pool.
 */
export function runSmall<T>(call: Call | undefined, now: () => T, later: () => Promise<T>) {
  if (pooled > 0) {
    pooled -= 1;
    return run(true, call, later) as Promise<T>;
  }
  const start = performance.now();
  try {
    return Promise.resolve(now());
  } catch (error) {
    return Promise.reject<T>(rebuild(error, call));
  } finally {
    if (performance.now() - start > SMALL_MS) {
      pooled = AFTER_LONG;
    }
  }
}

/** Waits for a promise, or for the signal that says to wait no longer. */
export function until<T>(signal: AbortSignal | undefined, promise: Promise<T>): Promise<T> {
  if (signal === undefined || signal === null) {
    return promise;
  }
  return new Promise((resolve, reject) => {
    const abort = () => reject(aborted(signal));
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

/** Runs an operation on the calling thread, or as a promise. */
export function drive<R>(later: boolean, steps: Steps<R>): Outcome<R> {
  return later ? driveLater(steps) : driveNow(steps);
}

function driveNow<R>(steps: Steps<R>): R {
  let next = steps.next();
  while (!next.done) {
    let value: unknown;
    try {
      value = next.value(false);
    } catch (error) {
      next = steps.throw(error);
      continue;
    }
    next = steps.next(value);
  }
  return next.value;
}

async function driveLater<R>(steps: Steps<R>): Promise<R> {
  let next = steps.next();
  while (!next.done) {
    let value: unknown;
    try {
      value = await next.value(true);
    } catch (error) {
      next = steps.throw(error);
      continue;
    }
    next = steps.next(value);
  }
  return next.value;
}

/** Makes a native call on the calling thread; errors tell of what the store names. */
export function now<T>(native: Step<T>): T {
  return run(false, undefined, native) as T;
}

/** Makes a native call as a promise; errors tell of what the store names. */
export async function later<T>(native: Step<T>): Promise<T> {
  return run(true, undefined, native);
}
