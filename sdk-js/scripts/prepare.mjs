// Makes a clone of the repository usable as a package: npm runs this after it installed the folder,
// also where another project depends on it. A package from the registry has all this already.
//
// ALKNET_FS_PROFILE chooses the profile of cargo, otherwise `release`.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { buildNative, hasSources } from './native.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const modules = join(root, 'node_modules');

function npm(...args) {
  // What the npm around this was told is not meant for this one.
  const own = Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name));
  const { status, error } = spawnSync('npm', args, {
    cwd: root,
    env: Object.fromEntries(own),
    shell: process.platform === 'win32',
    stdio: 'inherit',
  });
  if (status !== 0) {
    throw new Error(`npm ${args.join(' ')} failed`, { cause: error });
  }
}

try {
  if (hasSources) {
    if (!['typescript', 'picomatch'].every((name) => existsSync(join(modules, name)))) {
      npm('ci', '--ignore-scripts', '--no-audit', '--no-fund');
    }
    npm('run', '--silent', 'build');
    buildNative(process.env.ALKNET_FS_PROFILE);
  }
} catch (error) {
  console.error(`\n${error.message}\n`);
  process.exitCode = 1;
}
