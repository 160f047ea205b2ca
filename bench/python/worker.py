"""Does the work of the Python rows: a request a line, answered by the seconds it took."""

import asyncio
import json
import os
import sys
import time

import alknet_fs
from agentfs_sdk import AgentFS, AgentFSOptions

BLOCK = 1024 * 1024


class Worker:
    """What the rows work on: a branch, and bytes that are made before the clock starts."""

    def open(self, store):
        self.branch = alknet_fs.open(store).branch()

    def chdir(self, path):
        os.chdir(path)

    def read(self, paths):
        read = self.branch.read_bytes
        start = time.perf_counter()
        for path in paths:
            if len(read(path)) != 4096:
                raise ValueError(path)
        return time.perf_counter() - start

    def stat(self, paths):
        stat = self.branch.stat
        start = time.perf_counter()
        for path in paths:
            if stat(path).st_size != 4096:
                raise ValueError(path)
        return time.perf_counter() - start

    def exists(self, paths):
        exists = self.branch.exists
        start = time.perf_counter()
        for path in paths:
            if not exists(path):
                raise ValueError(path)
        return time.perf_counter() - start

    def plain_read(self, paths):
        start = time.perf_counter()
        for path in paths:
            with open(path, "rb") as file:
                if len(file.read()) != 4096:
                    raise ValueError(path)
        return time.perf_counter() - start

    def plain_stat(self, paths):
        stat = os.stat
        start = time.perf_counter()
        for path in paths:
            if stat(path).st_size != 4096:
                raise ValueError(path)
        return time.perf_counter() - start

    def load(self, path):
        with open(path, "rb") as file:
            self.data = file.read()

    def write_whole(self, path):
        start = time.perf_counter()
        self.branch.write_bytes(path, self.data)
        return time.perf_counter() - start

    def write_blocks(self, path):
        data = memoryview(self.data)
        blocks = [bytes(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
        start = time.perf_counter()
        with self.branch.open(path, "wb") as file:
            for block in blocks:
                file.write(block)
        return time.perf_counter() - start

    def read_whole(self, path):
        start = time.perf_counter()
        data = self.branch.read_bytes(path)
        taken = time.perf_counter() - start
        if data != self.data:
            raise ValueError(path)
        return taken

    def read_blocks(self, path):
        size = 0
        start = time.perf_counter()
        with self.branch.open(path, "rb") as file:
            while block := file.read(BLOCK):
                size += len(block)
        taken = time.perf_counter() - start
        if size != len(self.data):
            raise ValueError(path)
        return taken

    def plain_read_blocks(self, path):
        size = 0
        start = time.perf_counter()
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                size += len(block)
        taken = time.perf_counter() - start
        if size != len(self.data):
            raise ValueError(path)
        return taken

    def put(self, store):
        """Write files of 4 KiB, a commit each."""
        branch = alknet_fs.create(store).branch()
        branch.mkdir("/files")
        files = self.files()
        start = time.perf_counter()
        for path, block in files:
            branch.write_bytes(path, block)
        taken = time.perf_counter() - start
        self.check(files, branch)
        return taken

    def put_batch(self, store):
        """Write files of 4 KiB, all in one commit."""
        branch = alknet_fs.create(store).branch()
        branch.mkdir("/files")
        files = self.files()
        start = time.perf_counter()
        with branch.batch() as batch:
            for path, block in files:
                batch.write_bytes(path, block)
        taken = time.perf_counter() - start
        self.check(files, branch)
        return taken

    def put_agentfs(self, store):
        """Write files of 4 KiB through the SDK of AgentFS."""
        return asyncio.run(self.agentfs(store))

    async def agentfs(self, store):
        async with await AgentFS.open(AgentFSOptions(path=store)) as agent:
            await agent.fs.mkdir("/files")
            files = self.files()
            start = time.perf_counter()
            for path, block in files:
                await agent.fs.write_file(path, block)
            taken = time.perf_counter() - start
            for path, block in (files[0], files[-1]):
                if await agent.fs.read_file(path, encoding=None) != block:
                    raise ValueError(path)
        return taken

    def files(self):
        """Cut what was loaded into files."""
        data = memoryview(self.data)
        parts = range(len(data) // 4096)
        return [(f"/files/{i:04}", bytes(data[i * 4096 : (i + 1) * 4096])) for i in parts]

    def check(self, files, branch):
        for path, block in files:
            if branch.read_bytes(path) != block:
                raise ValueError(path)


def main():
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        taken = getattr(worker, request["do"])(request["with"])
        print(json.dumps(taken), flush=True)


main()
