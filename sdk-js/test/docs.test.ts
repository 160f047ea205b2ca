/** Every block of JavaScript in the README and in the pages of docs runs as it is written. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { promisify } from 'node:util';

import { open } from 'alknet-fs';

const root = mkdtempSync(join(tmpdir(), 'alknet-fs-'));
after(() => rmSync(root, { recursive: true }));
mkdirSync(join(root, 'node_modules'));
symlinkSync(process.cwd(), join(root, 'node_modules', 'alknet-fs'), 'junction');

/** The blocks of a page, with the heading that each is under. */
function blocks(page: string) {
  const found: { heading: string; code: string }[] = [];
  let heading = '';
  for (const part of page.split(/^(?=#|```)/m)) {
    if (part.startsWith('#')) {
      heading = part.slice(0, part.indexOf('\n')).replace(/^#+ /, '');
    } else if (part.startsWith('```js\n')) {
      found.push({ heading, code: part.slice('```js\n'.length) });
    }
  }
  return found;
}

/** What the comments say that is printed. */
function printed(code: string) {
  const said = code.matchAll(/^\s*console\.log\(.*\); \/\/ (.*)$/gm);
  return Array.from(said, ([, text]) => `${text}\n`).join('');
}

/** The Python half of what two languages do at once. */
async function other(at: string) {
  const store = await open(join(at, 'shared.store'));
  const main = store.bucket().branch();
  await main.fs.promises.writeFile('/question.txt', '6 * 7');
  for await (const _event of main.watch({ glob: 'answer.txt', after: 0 })) {
    break;
  }
  assert.equal(await main.fs.promises.readFile('/answer.txt', 'utf8'), '42');
}

let count = 0;

/** How many blocks each page has: one that is not found would not run. */
const pages = { 'README.md': 3, '../docs/recipes.md': 7, '../docs/sync-node.md': 5 };

for (const [page, blocksOf] of Object.entries(pages)) {
  describe(page, () => {
    const found = blocks(readFileSync(page, 'utf8'));
    assert.equal(found.length, blocksOf);
    for (const { heading, code } of found) {
      it(heading, { timeout: 60_000 }, async () => {
        const at = join(root, `block${count++}`);
        mkdirSync(at);
        writeFileSync(join(at, 'block.mjs'), code);
        const running = promisify(execFile)(process.execPath, ['block.mjs'], { cwd: at });
        const both = code.includes('shared.store') ? other(at) : undefined;
        const [{ stdout }] = await Promise.all([running, both]);
        assert.equal(stdout, printed(code));
      });
    }
  });
}
