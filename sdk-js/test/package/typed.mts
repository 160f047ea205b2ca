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
if (text !== 'one' || bytes.length !== 3 || differences.length !== 0 || events.length !== 2) {
  throw new Error('that is not what was written');
}
