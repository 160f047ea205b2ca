// A Node process that shares a store with a test: it runs each line of its standard input as the
// body of an async function, and answers each with a line of JSON.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [, , sdk, path] = process.argv;
const alknet = createRequire(import.meta.url)(sdk);
const store = alknet.openSync(path, { create: false, author: 'node' });
const branch = store.bucket().branch();
// What lines leave for later lines.
const kept = {};

const AsyncFunction = (async () => {}).constructor;
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const body = new AsyncFunction('alknet', 'store', 'branch', 'kept', JSON.parse(line));
    answer = { value: (await body(alknet, store, branch, kept)) ?? null };
  } catch (error) {
    const { name, code, kind, message } = error;
    answer = { error: { name, code, kind, message } };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
