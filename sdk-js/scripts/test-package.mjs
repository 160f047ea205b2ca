// Tests the package as a package: what would be published is packed and installed into an empty
// project, where programs in ECMAScript modules, in CommonJS and in TypeScript use it; and the
// folder itself is installed into another, which builds the native module.

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const work = join(root, 'build', 'package');
const packages = join(work, 'packages');
const programs = join(root, 'test', 'package');
const modules = join(root, 'node_modules');
const names = createRequire(import.meta.url)('../dist/native.js');
const [file, platform] = [names.file(), names.platform()];

function run(cwd, program, args, env) {
  console.log(`  ${basename(cwd)}: ${basename(program)} ${args.join(' ')}`);
  return execFileSync(program, args, {
    cwd,
    env: { ...process.env, ...env },
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    shell: process.platform === 'win32',
  });
}

const npm = (cwd, args, env) => run(cwd, 'npm', [...args, '--no-audit', '--no-fund'], env);
const node = (cwd, args) => run(cwd, process.execPath, args);

/** Makes a tarball of a folder and returns it. */
function pack(from) {
  const [{ filename, files }] = JSON.parse(
    npm(packages, ['pack', '--json', '--ignore-scripts', from]),
  );
  return { tarball: join(packages, filename), names: files.map(({ path }) => path) };
}

function project(name) {
  const folder = join(work, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  cpSync(programs, folder, { recursive: true });
  return folder;
}

function expect(holds, what) {
  if (!holds) {
    throw new Error(`the package is wrong: ${what}`);
  }
}

rmSync(work, { recursive: true, force: true });
mkdirSync(work, { recursive: true });

// Packed, and installed without asking a registry for anything.
node(root, ['scripts/packages.mjs', packages]);
const main = pack(join(packages, 'alknet-fs'));
const native = pack(join(packages, `fs-${platform}`));
const dependency = pack(join(modules, 'picomatch'));
expect(native.names.includes(file), `${file} is not in the package of ${platform}`);
expect(!main.names.some((name) => name.endsWith('.node')), 'it has a native module of its own');
for (const name of ['dist/index.js', 'dist/index.mjs', 'dist/index.d.ts', 'dist/index.d.mts']) {
  expect(main.names.includes(name), `${name} is not in it`);
}
const packed = project('packed');
npm(packed, ['install', '--offline', main.tarball, native.tarball, dependency.tarball]);
use(packed);

// The types, for each way that compilers look for them.
for (const resolution of ['node16', 'bundler']) {
  const tsc = join(modules, 'typescript', 'bin', 'tsc');
  node(packed, [tsc, '-p', `tsconfig.${resolution}.json`, '--typeRoots', join(modules, '@types')]);
}
for (const name of readdirSync(join(packed, 'out'))) {
  node(packed, [join('out', name)]);
}

// The folder as it is in a clone, where nothing is built.
const built = join(root, file);
rmSync(built, { force: true });
const linked = project('linked');
npm(linked, ['install', '--offline', root], {
  ALKNET_FS_PROFILE: process.env.ALKNET_FS_PROFILE ?? 'dev',
});
expect(existsSync(built), `npm install did not build ${built}`);
use(linked);

// Without a compiler, and with nothing that fits, the errors say what to do.
const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'prepare.mjs')], {
  env: { ...process.env, CARGO: 'no-such-cargo' },
  encoding: 'utf8',
});
expect(status === 1 && /Install Rust/.test(stderr), `a missing cargo is not explained: ${stderr}`);
rmSync(join(packed, 'node_modules', '@alknet'), { recursive: true });
const alone = spawnSync(process.execPath, ['commonjs.cjs'], { cwd: packed, encoding: 'utf8' });
expect(/has no native module/.test(alone.stderr), `it is not explained: ${alone.stderr}`);
console.log('  the package works as a package');

function use(folder) {
  for (const program of ['module.mjs', 'commonjs.cjs']) {
    const said = node(folder, [program]);
    expect(said === 'hello from the agent\n', `${program} printed ${JSON.stringify(said)}`);
  }
}
