import { Branch, open } from 'alknet-fs';

const store = await open('module-store');
const main = store.bucket().branch();
await main.fs.promises.writeFile('/hello', 'hello');
const agent = await main.fork(`agent-${Date.now()}`);
await agent.fs.promises.appendFile('/hello', ' from the agent');
if (!(agent instanceof Branch) || main.fs.readFileSync('/hello', 'utf8') !== 'hello') {
  throw new Error('the fork shows in its parent');
}
console.log(await agent.fs.promises.readFile('/hello', 'utf8'));
await store.close();
