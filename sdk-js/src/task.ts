/** Long work that can be stopped and followed. */

import { toFunction, toSignal } from './attributes.js';
import { run } from './calls.js';
import { type AlkError, aborted } from './errors.js';
import { native, type Outcome, type Progress, type TaskHandle } from './native.js';

/** What long work may be given along. */
export interface TaskOptions {
  /** Stops the work, which then fails with an `AbortError`; what it had committed stays. */
  signal?: AbortSignal;
  /** Is told now and then how far the work has come, and once more at its end. */
  onProgress?: (progress: Progress) => void;
}

const EVERY_MS = 100;

/** Runs long work as a promise. */
export async function task<T>(
  options: TaskOptions,
  start: (task: TaskHandle, later: boolean) => Outcome<T>,
): Promise<T> {
  const { onProgress } = options;
  const signal = toSignal(options.signal);
  if (onProgress !== undefined) {
    toFunction(onProgress, 'options.onProgress');
  }
  const handle = new (native().TaskHandle)(onProgress !== undefined);
  const cancel = () => handle.cancel();
  let failure: { error: unknown } | undefined;
  const report = () => {
    const progress = handle.progress();
    if (progress === null || failure !== undefined) {
      return;
    }
    try {
      onProgress?.(progress);
    } catch (error) {
      failure = { error };
      cancel();
    }
  };
  if (signal?.aborted) {
    cancel();
  }
  signal?.addEventListener('abort', cancel, { once: true });
  const timer = onProgress && setInterval(report, EVERY_MS);
  try {
    return await run(true, undefined, (later) => start(handle, later));
  } catch (error) {
    if (signal?.aborted && (error as AlkError).kind === 'Cancelled') {
      throw aborted(signal);
    }
    throw error;
  } finally {
    clearInterval(timer);
    signal?.removeEventListener('abort', cancel);
    report();
    if (failure !== undefined) {
      // biome-ignore lint/correctness/noUnsafeFinally: what the caller's own function threw comes first.
      throw failure.error;
    }
  }
}
