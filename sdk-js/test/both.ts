/** A real directory and a branch with the same paths, to do the same in both. */

import assert from 'node:assert/strict';
import * as nodefs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, it } from 'node:test';

import { memory } from 'alknet-fs';

export type Node = typeof nodefs;
// biome-ignore lint/suspicious/noExplicitAny: arguments are right and wrong ones of any function.
export type Anything = any;

process.umask(0o022);
// A disk would make this slow.
const parent = nodefs.existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
export const root = nodefs.mkdtempSync(join(parent, 'alknet-fs-'));
after(() => nodefs.rmSync(root, { recursive: true }));

export const ours = memory().bucket().branch().fs as unknown as Node;
ours.mkdirSync(root, { recursive: true });

let count = 0;

/** A new directory, in both. */
export function fresh(): string {
  const at = join(root, `case${count++}`);
  ours.mkdirSync(at);
  nodefs.mkdirSync(at);
  return at;
}

/** What of an error is Node's. */
export function shape(error: unknown) {
  const { name, message, code, errno, syscall, path, dest } = error as Anything;
  return { error: { name, message, code, errno, syscall, path, dest } };
}

/** Gives the error that an operation throws or rejects with, or what it gives. */
export async function caught(operation: () => unknown): Promise<unknown> {
  try {
    return await operation();
  } catch (error) {
    return shape(error);
  }
}

/** Does the same in both, with a file of seven bytes and a directory, and compares. */
export function same(name: string, scenario: (fs: Node, at: string) => unknown) {
  it(name, async () => {
    const at = fresh();
    const seen = [];
    for (const fs of [ours, nodefs]) {
      fs.writeFileSync(`${at}/file`, 'content');
      fs.mkdirSync(`${at}/dir`);
      seen.push(await caught(() => scenario(fs, at)));
    }
    assert.deepEqual(seen[0], seen[1]);
  });
}
