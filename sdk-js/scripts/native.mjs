// Builds the native module with cargo and puts it where the package looks for it.
//
//   node scripts/native.mjs [--profile PROFILE]
//
// The profile is one of cargo's, otherwise `release`. The command of napi-rs would do no more than
// this, and make a loader and types of its own besides, which the TypeScript layer replaces.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, renameSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const manifest = join(root, '..', 'bindings', 'node', 'Cargo.toml');

/** Tells whether the sources of the native module are here, as in a clone of the repository. */
export const hasSources = existsSync(manifest);

/** Builds the native module; returns its file. */
export function buildNative(profile = 'release') {
  const cargo = process.env.CARGO ?? 'cargo';
  const what = ['build', '--locked', '--manifest-path', manifest, '--profile', profile];
  const result = spawnSync(cargo, [...what, '--message-format', 'json-render-diagnostics'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const names = createRequire(import.meta.url)('../dist/native.js');
  const [file, platform] = [names.file(), names.platform()];
  if (result.error?.code === 'ENOENT') {
    throw new Error(
      `alknet-fs builds its native module for ${platform} with Rust's cargo, which is not here. ` +
        'Install Rust 1.91 or later (https://rustup.rs) and a C compiler, and run this again.',
    );
  }
  if (result.error !== undefined || result.status !== 0) {
    throw new Error(`cargo could not build the native module of alknet-fs for ${platform}`, {
      cause: result.error,
    });
  }
  const built = result.stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))
    .filter(({ reason, target }) => {
      return reason === 'compiler-artifact' && target.name === 'alknet_fs_node';
    })
    .flatMap(({ filenames }) => filenames)
    .find((name) => /\.(so|dylib|dll)$/.test(name));
  // A process may still have the old file mapped; a new one takes its name.
  const target = join(root, file);
  copyFileSync(built, `${target}.new`);
  renameSync(`${target}.new`, target);
  return target;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { profile: { type: 'string' } } });
  console.log(buildNative(values.profile));
}
