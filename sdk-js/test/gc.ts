/** Collecting garbage where a test says so. */

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Collects until something is so, which must not take long. */
export async function collected(so: () => boolean): Promise<boolean> {
  for (const end = Date.now() + 10_000; Date.now() < end; ) {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 5));
    if (so()) {
      return true;
    }
  }
  return false;
}
