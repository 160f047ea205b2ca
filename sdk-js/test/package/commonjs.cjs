const { Branch, openSync } = require('alknet-fs');

const store = openSync('commonjs-store');
const main = store.bucket().branch();
main.fs.writeFileSync('/hello', 'hello');
const agent = main.forkSync(`agent-${Date.now()}`);
agent.fs.appendFileSync('/hello', ' from the agent');
if (!(agent instanceof Branch) || main.fs.readFileSync('/hello', 'utf8') !== 'hello') {
  throw new Error('the fork shows in its parent');
}
console.log(agent.fs.readFileSync('/hello', 'utf8'));
store.closeSync();
