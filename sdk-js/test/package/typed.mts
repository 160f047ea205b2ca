import type * as nodefs from 'node:fs';

import { type AlkError, type Difference, memory, type StoreEvent } from 'alknet-fs';

const main = memory({ author: 'tester' }).bucket().branch();
await main.batch(async (batch) => {
  await batch.write('/a.txt', 'one');
  await batch.put('/b.txt', new Uint8Array(3), { mode: 0o600 });
});
const text: string = main.fs.readFileSync('/a.txt', 'utf8');
const bytes: Buffer = await main.fs.promises.readFile('/b.txt');
const differences: Difference[] = await main.diff('main');
const events: StoreEvent[] = await main.log({ limit: 10 });
try {
  main.entrySync('/none');
} catch (error) {
  const { code, kind }: AlkError = error as AlkError;
  if (code !== 'ENOENT' || kind !== 'NotFound') {
    throw error;
  }
}
// What takes Node's own takes these: but for the class of what `statfs` gives, which is in no branch.
const promises: typeof nodefs.promises = main.fs.promises;
const fs: Omit<typeof nodefs, 'StatsFs'> = main.fs;
const handle: nodefs.promises.FileHandle = await promises.open('/a.txt');
const whole: Buffer = await promises.readFile(handle);
await handle.close();
main.fs.watch('/', 'buffer', (_event, name: Buffer | null) => name?.length).close();
main.fs.watch('/', { encoding: 'utf8' }, (_event, name: string | null) => name?.length).close();
if (whole.length !== 3 || !fs.existsSync('/a.txt')) {
  throw new Error('that is not what was written');
}
if (text !== 'one' || bytes.length !== 3 || differences.length !== 0 || events.length !== 2) {
  throw new Error('that is not what was written');
}
