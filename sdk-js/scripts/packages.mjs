// Lays out what is published: the package itself, and one package for each platform with nothing
// but its native module, of which npm installs the one that fits.
//
//   node scripts/packages.mjs FOLDER [NATIVE]
//
// FOLDER gets `alknet-fs` and `fs-PLATFORM` for every target that package.json lists, each ready
// for `npm pack` or `npm publish`. NATIVE is a folder with built modules `alknet-fs.PLATFORM.node`,
// otherwise that of the package; platforms of which it has none are laid out without it, and said.

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
if (process.argv[2] === '--instead') {
  console.error('Publish what `npm run packages` lays out, and not this folder.');
  process.exit(1);
}
const [folder, native = root] = process.argv.slice(2).map((path) => resolve(path));
if (folder === undefined) {
  throw new Error('usage: node scripts/packages.mjs FOLDER [NATIVE]');
}

const { napi, scripts, devDependencies, ...manifest } = JSON.parse(
  readFileSync(join(root, 'package.json'), 'utf8'),
);

const SYSTEMS = { linux: 'linux', apple: 'darwin', pc: 'win32' };
const CPUS = { x86_64: 'x64', aarch64: 'arm64' };

/** What npm and Node call a target of Rust. */
function named(target) {
  const [cpu, vendor, system, abi] = target.split('-');
  const os = SYSTEMS[vendor] ?? SYSTEMS[system];
  const platform = [os, CPUS[cpu], abi].filter(Boolean).join('-');
  const libc = { gnu: 'glibc', musl: 'musl' }[abi];
  return { platform, os: [os], cpu: [CPUS[cpu]], ...(libc && { libc: [libc] }) };
}

function write(path, value) {
  writeFileSync(path, typeof value === 'string' ? value : `${JSON.stringify(value, null, 2)}\n`);
}

function licences(to) {
  for (const name of ['LICENSE-MIT', 'LICENSE-APACHE']) {
    cpSync(join(root, '..', name), join(to, name));
  }
}

rmSync(folder, { recursive: true, force: true });
const optionalDependencies = {};
for (const target of napi.targets) {
  const { platform, ...fits } = named(target);
  const name = `${napi.packageName}-${platform}`;
  const file = `${napi.binaryName}.${platform}.node`;
  const to = join(folder, `fs-${platform}`);
  mkdirSync(to, { recursive: true });
  optionalDependencies[name] = manifest.version;
  const { version, license, engines } = manifest;
  const description = `The native module of ${manifest.name} for ${platform}`;
  write(join(to, 'package.json'), {
    name,
    version,
    description,
    license,
    main: file,
    files: [file],
    ...fits,
    engines,
  });
  write(
    join(to, 'README.md'),
    `# ${name}\n\n${description} (${target}). Install \`${manifest.name}\`.\n`,
  );
  licences(to);
  if (existsSync(join(native, file))) {
    cpSync(join(native, file), join(to, file));
    // Line numbers are most of it. Where there is no such program, it stays large.
    spawnSync('strip', ['-S', join(to, file)], { stdio: 'ignore' });
    console.log(to);
  } else {
    console.log(`${to}: ${file} is not built`);
  }
}

const main = join(folder, manifest.name);
mkdirSync(main);
write(join(main, 'package.json'), { ...manifest, files: ['dist'], optionalDependencies });
for (const name of ['dist', 'README.md']) {
  if (existsSync(join(root, name))) {
    cpSync(join(root, name), join(main, name), { recursive: true });
  }
}
licences(main);
console.log(main);
