/** Packages that take a `node:fs`, with the one of a branch. */

import assert from 'node:assert/strict';
import * as nodefs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { after, test } from 'node:test';
import { createContext, runInContext } from 'node:vm';
import { createGunzip, createGzip } from 'node:zlib';

import { memory, open } from 'alknet-fs';
import * as git from 'isomorphic-git';
import { Parser } from 'tar';
import * as tarStream from 'tar-stream';
import { glob } from 'tinyglobby';
import { Union, ufs } from 'unionfs';
import { build } from 'vite';
import webpack from 'webpack';

const root = nodefs.mkdtempSync(join(tmpdir(), 'alknet-fs-'));
after(() => nodefs.rmSync(root, { recursive: true }));

const fresh = () => memory().bucket().branch();

test('isomorphic-git keeps a repository in a branch', async () => {
  const store = await open(join(root, 'git'), { durability: 'relaxed' });
  const { fs } = store.bucket().branch();
  const dir = '/repository';
  const author = { name: 'Ada', email: 'ada@example.org' };
  fs.mkdirSync(`${dir}/src`, { recursive: true });
  await git.init({ fs, dir, defaultBranch: 'main' });
  fs.writeFileSync(`${dir}/README.md`, 'one\n');
  fs.writeFileSync(`${dir}/src/main.js`, 'export {};\n');
  fs.symlinkSync('README.md', `${dir}/link`);
  await git.add({ fs, dir, filepath: ['README.md', 'src/main.js', 'link'] });
  const first = await git.commit({ fs, dir, author, message: 'first' });

  await git.branch({ fs, dir, ref: 'topic', checkout: true });
  fs.writeFileSync(`${dir}/README.md`, 'two\n');
  assert.equal(await git.status({ fs, dir, filepath: 'README.md' }), '*modified');
  await git.add({ fs, dir, filepath: 'README.md' });
  await git.remove({ fs, dir, filepath: 'src/main.js' });
  fs.unlinkSync(`${dir}/src/main.js`);
  const second = await git.commit({ fs, dir, author, message: 'second' });

  await git.checkout({ fs, dir, ref: 'main' });
  assert.equal(fs.readFileSync(`${dir}/README.md`, 'utf8'), 'one\n');
  assert.equal(fs.readFileSync(`${dir}/src/main.js`, 'utf8'), 'export {};\n');
  assert.equal(fs.readlinkSync(`${dir}/link`), 'README.md');
  await git.checkout({ fs, dir, ref: 'topic' });
  assert.equal(fs.readFileSync(`${dir}/README.md`, 'utf8'), 'two\n');
  assert.equal(fs.existsSync(`${dir}/src/main.js`), false);
  const log = await git.log({ fs, dir });
  assert.deepEqual(
    log.map((entry) => entry.oid),
    [second, first],
  );
  assert.deepEqual(await git.listBranches({ fs, dir }), ['main', 'topic']);
  const matrix = await git.statusMatrix({ fs, dir });
  assert.deepEqual(matrix, [
    ['README.md', 1, 1, 1],
    ['link', 1, 1, 1],
  ]);
});

test('unionfs lays a branch over a directory of the system', async () => {
  const { fs } = fresh();
  const at = join(root, 'union');
  nodefs.mkdirSync(at);
  nodefs.writeFileSync(`${at}/below`, 'system');
  nodefs.writeFileSync(`${at}/both`, 'system');
  fs.mkdirSync(at, { recursive: true });
  fs.writeFileSync(`${at}/above`, 'branch');
  fs.writeFileSync(`${at}/both`, 'branch');
  assert.ok(ufs instanceof Union);
  const union = new Union().use(nodefs).use(fs);
  assert.equal(union.readFileSync(`${at}/below`, 'utf8'), 'system');
  assert.equal(union.readFileSync(`${at}/above`, 'utf8'), 'branch');
  assert.equal(await union.promises.readFile(`${at}/both`, 'utf8'), 'branch');
  assert.deepEqual(union.readdirSync(at), ['above', 'below', 'both']);
  union.writeFileSync(`${at}/both`, 'written');
  assert.equal(fs.readFileSync(`${at}/both`, 'utf8'), 'written');
  assert.equal(nodefs.readFileSync(`${at}/both`, 'utf8'), 'system');
  assert.throws(() => union.readFileSync(`${at}/none`), { code: 'ENOENT' });
  const read = await union.createReadStream(`${at}/above`).toArray();
  assert.equal(Buffer.concat(read).toString(), 'branch');
});

test('tinyglobby finds files in a branch', async () => {
  const { fs } = fresh();
  fs.mkdirSync('/src/lib', { recursive: true });
  for (const path of ['/src/a.ts', '/src/lib/b.ts', '/src/lib/c.js']) {
    fs.writeFileSync(path, '');
  }
  const found = await glob('**/*.ts', { cwd: '/src', fs });
  assert.deepEqual(found.sort(), ['a.ts', 'lib/b.ts']);
});

const SOURCES = {
  '/app/main.js': `import { hello } from './lib/hello.js';\nglobalThis.said = hello('Ada');\n`,
  '/app/lib/hello.js': `import text from './text.json';\nexport const hello = (name) => text.hello + name;\n`,
  '/app/lib/text.json': '{ "hello": "hello, " }',
};

function sources(fs) {
  fs.mkdirSync('/app/lib', { recursive: true });
  for (const [path, text] of Object.entries(SOURCES)) {
    fs.writeFileSync(path, text);
  }
}

/** Runs a script that a bundler made, and tells what it said. */
function run(script) {
  const context = createContext({});
  runInContext(script, context);
  return context.said;
}

test('Vite builds from a branch and into it', async () => {
  const { fs } = fresh();
  sources(fs);
  /** The inputs of a build that lie in the branch. */
  const inputs = {
    name: 'branch',
    enforce: 'pre',
    resolveId(id, importer) {
      const path = importer ? new URL(id, `file://${importer}`).pathname : id;
      return fs.existsSync(path) ? path : null;
    },
    load: (id) => fs.promises.readFile(id, 'utf8').catch(() => null),
  };
  const { output } = await build({
    configFile: false,
    logLevel: 'error',
    root,
    plugins: [inputs],
    build: { write: false, rollupOptions: { input: '/app/main.js' } },
  });
  fs.mkdirSync('/app/dist');
  for (const { fileName, code, source } of output) {
    await fs.promises.writeFile(`/app/dist/${fileName.replaceAll('/', '-')}`, code ?? source);
  }
  const [script] = fs.globSync('/app/dist/*.js');
  assert.equal(run(fs.readFileSync(script, 'utf8')), 'hello, Ada');
});

test('webpack reads from a branch and writes into it', async () => {
  const { fs } = fresh();
  sources(fs);
  const compiler = webpack({
    mode: 'production',
    context: '/app',
    entry: './main.js',
    output: { path: '/app/dist', filename: 'bundle.js' },
    performance: false,
  });
  compiler.inputFileSystem = fs;
  compiler.outputFileSystem = fs;
  compiler.intermediateFileSystem = fs;
  const compile = () =>
    new Promise((resolve, reject) =>
      compiler.run((error, stats) => (error ? reject(error) : resolve(stats))),
    );
  const stats = await compile();
  assert.deepEqual(stats.toJson().errors, []);
  assert.equal(run(fs.readFileSync('/app/dist/bundle.js', 'utf8')), 'hello, Ada');
  await new Promise((resolve) => compiler.close(resolve));
});

test('tar-stream and tar carry a tree from one branch to another', async () => {
  const [from, to] = [fresh().fs, fresh().fs];
  sources(from);
  from.writeFileSync('/app/large', Buffer.alloc(1 << 20, 'abcdefg'), { mode: 0o600 });
  from.symlinkSync('lib/text.json', '/app/link');
  from.utimesSync('/app/large', 0, 1_234);

  const pack = tarStream.pack();
  const archived = pipeline(pack, createGzip(), from.createWriteStream('/app.tar.gz'));
  for (const path of from.readdirSync('/app', { recursive: true })) {
    const stat = from.lstatSync(`/app/${path}`);
    const header = { name: path, mode: stat.mode & 0o7777, mtime: stat.mtime };
    if (stat.isDirectory()) {
      pack.entry({ ...header, type: 'directory' });
    } else if (stat.isSymbolicLink()) {
      pack.entry({ ...header, type: 'symlink', linkname: from.readlinkSync(`/app/${path}`) });
    } else {
      const entry = pack.entry({ ...header, size: stat.size });
      await pipeline(from.createReadStream(`/app/${path}`), entry);
    }
  }
  pack.finalize();
  await archived;

  // Each package reads what was made, into a branch of its own.
  const extract = tarStream.extract();
  const extracted = pipeline(from.createReadStream('/app.tar.gz'), createGunzip(), extract);
  for await (const entry of extract) {
    const { name, type, mode, mtime, linkname } = entry.header;
    await write(to, `/one/${name}`, { type, mode, mtime, linkname }, Readable.from(entry));
  }
  await extracted;

  const writes = [];
  const parser = new Parser({
    onReadEntry: (entry) => {
      const { path, type, mode, mtime, linkpath } = entry;
      const header = { type: type.toLowerCase().replace('symboliclink', 'symlink') };
      const rest = { mode, mtime, linkname: linkpath };
      writes.push(write(to, `/two/${path}`, { ...header, ...rest }, entry));
    },
  });
  from.createReadStream('/app.tar.gz').pipe(parser);
  await new Promise((resolve, reject) => parser.on('end', resolve).on('error', reject));
  await Promise.all(writes);

  for (const copy of ['/one', '/two']) {
    const paths = from.readdirSync('/app', { recursive: true });
    assert.deepEqual(to.readdirSync(copy, { recursive: true }), paths);
    for (const path of paths.filter((path) => from.statSync(`/app/${path}`).isFile())) {
      assert.deepEqual(to.readFileSync(`${copy}/${path}`), from.readFileSync(`/app/${path}`));
    }
    assert.equal(to.readlinkSync(`${copy}/link`), 'lib/text.json');
    const { mode, mtimeMs } = to.statSync(`${copy}/large`);
    assert.deepEqual([mode & 0o7777, mtimeMs], [0o600, 1_234_000]);
  }
});

/** Writes one entry of an archive. */
async function write(fs, path, { type, mode, mtime, linkname }, content) {
  if (type === 'directory') {
    fs.mkdirSync(path, { recursive: true, mode });
    content.resume();
    return;
  }
  fs.mkdirSync(path.replace(/\/[^/]*$/, ''), { recursive: true });
  if (type === 'symlink') {
    fs.symlinkSync(linkname, path);
    content.resume();
    return;
  }
  const file = fs.createWriteStream(path, { mode });
  content.pipe(file);
  await finished(file);
  await fs.promises.utimes(path, mtime, mtime);
}
