/** The package in another context than Node's own modules, as under Jest. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, resolve } from 'node:path';
import { describe, it } from 'node:test';
import * as vm from 'node:vm';

type Package = typeof import('alknet-fs');
type Anything = unknown;

/** Loads the package as Jest does: its modules run in the context, all others outside. */
function load(context: vm.Context): Package {
  const modules = new Map<string, { exports: Anything }>();
  const loadFile = (file: string): Anything => {
    const known = modules.get(file);
    if (known !== undefined) {
      return known.exports;
    }
    const module = { exports: {} as Anything };
    modules.set(file, module);
    const outer = createRequire(file);
    const inner = (name: string) => {
      const found = outer.resolve(name);
      return name.startsWith('.') && found.endsWith('.js') ? loadFile(found) : outer(name);
    };
    const names = ['exports', 'require', 'module', '__filename', '__dirname'];
    const body = vm.compileFunction(readFileSync(file, 'utf8'), names, {
      filename: file,
      parsingContext: context,
    });
    body(module.exports, Object.assign(inner, outer), module, file, dirname(file));
    return module.exports;
  };
  return loadFile(resolve(__dirname, '../../dist/index.js')) as Package;
}

const globals = { process, Buffer, URL, TextDecoder, performance, setInterval, clearInterval };
const context = vm.createContext({ ...globals, AbortController, console });
const { memory } = load(context);

describe('in another context', () => {
  const branch = memory().bucket().branch();
  const { fs } = branch;
  const inside = <T>(code: string) => vm.runInContext(code, context) as T;

  it('errors are of that context, in the shape of those of Node', async () => {
    const InnerError = inside<ErrorConstructor>('Error');
    const seen: unknown[] = [];
    const calls = [
      () => fs.readFileSync('/none'),
      () => fs.promises.readFile('/none'),
      () => fs.promises.stat('/none'),
      () => branch.entry('/none'),
    ];
    for (const call of calls) {
      try {
        await call();
      } catch (error) {
        assert.ok(error instanceof InnerError);
        const { code, path } = error as NodeJS.ErrnoException;
        seen.push([code, path]);
      }
    }
    assert.deepEqual(
      seen,
      calls.map(() => ['ENOENT', '/none']),
    );
    const fd = fs.openSync('/f', 'w');
    fs.closeSync(fd);
    const reading = fs.openSync('/f', 'r');
    assert.throws(
      () => fs.ftruncateSync(reading),
      (error) => {
        return (error as NodeJS.ErrnoException).code === 'EINVAL';
      },
    );
    assert.throws(
      () => branch.view('none'),
      (error) => {
        return (error as NodeJS.ErrnoException).code === 'ENOENT';
      },
    );
  });

  it('takes values of this and of that', async () => {
    const bytes = inside<Uint8Array>('Uint8Array.of(97, 98)');
    for (const given of [bytes, Uint8Array.of(97, 98)]) {
      fs.writeFileSync('/a', given);
      assert.equal(fs.readFileSync('/a', 'utf8'), 'ab');
    }
    const path = inside<Uint8Array>('Uint8Array.of(47, 97)');
    assert.equal(fs.readFileSync(path as Buffer, 'utf8'), 'ab');
    const date = inside<Date>('new Date(5000)');
    fs.utimesSync('/a', date, date);
    assert.equal(fs.statSync('/a').mtimeMs, 5000);
    await branch.setAttributes('/a', { mtime: new Date(6000) });
    assert.equal(fs.statSync('/a').mtimeMs, 6000);
    class Foreign {
      readonly #url = new URL('file:///a');
      get href() {
        return this.#url.href;
      }
      get protocol() {
        return this.#url.protocol;
      }
      get hostname() {
        return this.#url.hostname;
      }
      get pathname() {
        return this.#url.pathname;
      }
    }
    assert.equal(fs.readFileSync(new Foreign() as unknown as URL, 'utf8'), 'ab');
    const signal = new AbortController().signal;
    await branch.bucket.sharing(['main'], { signal });
  });
});
