/** Does the work of the Node rows: a request a line, answered by the seconds it took. */

import * as fs from 'node:fs';
import { createInterface } from 'node:readline';

import { AgentFS } from 'agentfs-sdk';
import { openSync } from 'alknet-fs';

const BLOCK = 1024 * 1024;
const SMALL = 4096;

let branch;
let data;

/** Runs work and tells how many seconds it took. */
function time(work) {
  const start = process.hrtime.bigint();
  work();
  return seconds(start);
}

async function timeLater(work) {
  const start = process.hrtime.bigint();
  await work();
  return seconds(start);
}

function seconds(start) {
  return Number(process.hrtime.bigint() - start) / 1e9;
}

function check(right, path) {
  if (!right) {
    throw new Error(`${path} is not as it was written`);
  }
}

const each = (paths, right) =>
  time(() => {
    for (const path of paths) {
      check(right(path), path);
    }
  });

const eachLater = (paths, right) =>
  timeLater(async () => {
    for (const path of paths) {
      check(await right(path), path);
    }
  });

/** Cuts what was loaded into files. */
function files() {
  return Array.from({ length: data.length / SMALL }, (_, at) => [
    `/files/${String(at).padStart(4, '0')}`,
    data.subarray(at * SMALL, (at + 1) * SMALL),
  ]);
}

function blocks() {
  return Array.from({ length: Math.ceil(data.length / BLOCK) }, (_, at) =>
    data.subarray(at * BLOCK, (at + 1) * BLOCK),
  );
}

function readBlocks(from, path) {
  let size = 0;
  const taken = time(() => {
    const fd = from.openSync(path);
    const block = Buffer.allocUnsafeSlow(BLOCK);
    for (;;) {
      const n = from.readSync(fd, block);
      if (n === 0) {
        break;
      }
      size += n;
    }
    from.closeSync(fd);
  });
  check(size === data.length, path);
  return taken;
}

async function writesLater(round, write) {
  const all = files();
  return timeLater(async () => {
    for (const [path, bytes] of all) {
      await write(`${round}-${path.slice(7)}`, bytes);
    }
  });
}

function newBranch(store) {
  const made = openSync(store).bucket().branch();
  made.fs.mkdirSync('/files');
  return made;
}

function checkAll(made) {
  for (const [path, bytes] of files()) {
    check(made.fs.readFileSync(path).equals(bytes), path);
  }
}

const WORK = {
  open(store) {
    branch = openSync(store).bucket().branch();
  },
  chdir: (path) => process.chdir(path),
  load(path) {
    data = fs.readFileSync(path);
  },

  read: (paths) => each(paths, (path) => branch.fs.readFileSync(path).length === SMALL),
  stat: (paths) => each(paths, (path) => branch.fs.statSync(path).size === SMALL),
  exists: (paths) => each(paths, (path) => branch.fs.existsSync(path)),
  plain_read: (paths) => each(paths, (path) => fs.readFileSync(path).length === SMALL),
  plain_stat: (paths) => each(paths, (path) => fs.statSync(path).size === SMALL),

  read_later: (paths) =>
    eachLater(paths, async (path) => (await branch.fs.promises.readFile(path)).length === SMALL),
  stat_later: (paths) =>
    eachLater(paths, async (path) => (await branch.fs.promises.stat(path)).size === SMALL),
  plain_read_later: (paths) =>
    eachLater(paths, async (path) => (await fs.promises.readFile(path)).length === SMALL),
  plain_stat_later: (paths) =>
    eachLater(paths, async (path) => (await fs.promises.stat(path)).size === SMALL),

  write_later: (round) =>
    writesLater(round, (path, bytes) => branch.fs.promises.writeFile(path, bytes)),
  plain_write_later: (round) =>
    writesLater(round, (path, bytes) => fs.promises.writeFile(`plain-${path}`, bytes)),
  plain_write_durably: (round) =>
    writesLater(round, async (path, bytes) => {
      const file = await fs.promises.open('draft', 'w');
      await file.writeFile(bytes);
      await file.sync();
      await file.close();
      await fs.promises.rename('draft', path);
    }),

  write_whole: (path) => time(() => branch.fs.writeFileSync(path, data)),
  write_blocks(path) {
    const all = blocks();
    return time(() => {
      const fd = branch.fs.openSync(path, 'w');
      for (const block of all) {
        branch.fs.writeSync(fd, block);
      }
      branch.fs.closeSync(fd);
    });
  },
  read_whole(path) {
    let found;
    const taken = time(() => {
      found = branch.fs.readFileSync(path);
    });
    check(found.equals(data), path);
    return taken;
  },
  read_blocks: (path) => readBlocks(branch.fs, path),
  plain_read_blocks: (path) => readBlocks(fs, path),

  /** Files of 4 KiB, a commit each. */
  put(store) {
    const made = newBranch(store);
    const all = files();
    const taken = time(() => {
      for (const [path, bytes] of all) {
        made.fs.writeFileSync(path, bytes);
      }
    });
    checkAll(made);
    return taken;
  },
  /** Files of 4 KiB, all in one commit. */
  put_batch(store) {
    const made = newBranch(store);
    const all = files();
    const taken = time(() => {
      const batch = made.batch();
      for (const [path, bytes] of all) {
        batch.writeSync(path, bytes);
      }
      batch.commitSync();
    });
    checkAll(made);
    return taken;
  },
  /** Files of 4 KiB, through the SDK of AgentFS. */
  async put_agentfs(store) {
    const agent = await AgentFS.open({ path: store });
    await agent.fs.mkdir('/files');
    const all = files();
    const taken = await timeLater(async () => {
      for (const [path, bytes] of all) {
        await agent.fs.writeFile(path, bytes);
      }
    });
    for (const [path, bytes] of [all[0], all[all.length - 1]]) {
      check((await agent.fs.readFile(path)).equals(bytes), path);
    }
    await agent.close();
    return taken;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const taken = await WORK[request.do](request.with);
  process.stdout.write(`${JSON.stringify(taken ?? null)}\n`);
}
