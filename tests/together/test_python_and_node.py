"""A Python process and a Node process on one store: each sees at once what the other commits."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import alknet_fs
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
SDK = HERE.parent.parent / "sdk-js"
DEADLINE = 20.0


class Node:
    """A Node process that has the store open and runs what it is given."""

    def __init__(self, store: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            ["node", HERE / "peer.mjs", SDK, store],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, body: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(body) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the Node process ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def run(self, body: str) -> Any:
        self.send(body)
        return self.answer()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[alknet_fs.Store]:
    with alknet_fs.create(tmp_path / "store", author="python") as store:
        yield store


@pytest.fixture
def branch(store: alknet_fs.Store) -> alknet_fs.Branch:
    return store.branch()


@pytest.fixture
def node(store: alknet_fs.Store) -> Iterator[Node]:
    assert store.path is not None
    node = Node(pathlib.Path(store.path))
    # Leaving the block ends the input, and with it the process.
    with node.process:
        yield node


def test_each_reads_at_once_what_the_other_wrote(branch: alknet_fs.Branch, node: Node) -> None:
    for n in range(100):
        branch.write_text("/from-python", f"{n}")
        read = "return branch.fs.readFileSync('/from-python', 'utf8')"
        assert node.run(read) == f"{n}"
        node.run(f"await branch.fs.promises.writeFile('/from-node', '{n}')")
        assert branch.read_text("/from-node") == f"{n}"
        # What is missing is seen to be missing, too.
        branch.remove("/from-python")
        assert node.run("return branch.fs.existsSync('/from-python')") is False
        node.run("branch.fs.unlinkSync('/from-node')")
        assert not branch.exists("/from-node")


def test_both_describe_a_tree_alike(branch: alknet_fs.Branch, node: Node) -> None:
    branch.makedirs("/dir/below")
    branch.write_bytes(
        "/dir/häßlich \U0001f600",
        b"\x00\xff" * 3000,
        mode=0o640,
        mtime_ns=1_500_000_000_123_456_789,
    )
    branch.symlink("below", "/dir/link")
    node.run("""
        await branch.fs.promises.appendFile('/dir/below/log', 'one\\n');
        await branch.fs.promises.appendFile('/dir/below/log', 'two\\n');
        await branch.fs.promises.chmod('/dir/below/log', 0o600);
    """)
    listed = node.run("""
        const found = [];
        for (const { path } of branch.walkSync('/')) {
          const stat = branch.fs.lstatSync(path, { bigint: true });
          found.push([path, Number(stat.mode) & 0o7777, Number(stat.size), String(stat.mtimeNs)]);
        }
        return found.sort();
    """)
    mine = []
    for folder, dirs, files in branch.walk("/"):
        for name in [*dirs, *files]:
            path = f"{folder.rstrip('/')}/{name}"
            entry = branch.lstat(path)
            mine.append([path, entry.st_mode & 0o7777, entry.st_size, str(entry.st_mtime_ns)])
    assert [row[0] for row in sorted(mine)] == [row[0] for row in listed]
    # A link's size and mode are what each language's own functions tell.
    plain = [row for row in sorted(mine) if row[0] != "/dir/link"]
    assert plain == [row for row in listed if row[0] != "/dir/link"]
    assert branch.read_text("/dir/below/log") == "one\ntwo\n"
    assert node.run("return branch.treeHashSync()") == branch.tree_hash()


def test_events_arrive_in_order_at_both(branch: alknet_fs.Branch, node: Node) -> None:
    node.run("""
        kept.watcher = branch.watch({ glob: ['*.py', '*.js'] });
        kept.seen = [];
        kept.loop = (async () => {
          for await (const event of kept.watcher) {
            kept.seen.push([event.op, event.path, event.author]);
            if (event.path === '/last.js') {
              return kept.seen;
            }
          }
        })();
    """)
    with branch.watch(["*.py", "*.js"], timeout=DEADLINE) as watch:
        for n in range(20):
            branch.write_text(f"/{n}.py", "text")
            node.run(f"branch.fs.writeFileSync('/{n}.js', 'text')")
            branch.write_text("/ignored", f"{n}")
        node.run("branch.fs.renameSync('/19.js', '/last.js')")
        seen = []
        for event in watch:
            seen.append([event.op, event.path, event.author])
            if event.path == "/last.js":
                break
    wanted = []
    for n in range(20):
        wanted.append(["create", f"/{n}.py", "python"])
        wanted.append(["create", f"/{n}.js", "node"])
    wanted.append(["rename", "/last.js", "node"])
    assert seen == wanted
    assert node.run("return await kept.loop") == wanted


def test_an_event_wakes_whoever_waits(branch: alknet_fs.Branch, node: Node) -> None:
    """One process waits and answers each event with a write, which the other waits for."""
    node.run("""
        kept.watcher = branch.watch({ glob: 'ping' });
        kept.loop = (async () => {
          for await (const event of kept.watcher) {
            const text = branch.fs.readFileSync(event.path, 'utf8');
            await branch.fs.promises.writeFile('/pong', text);
            if (text === '49') {
              return;
            }
          }
        })();
    """)
    with branch.watch("pong", timeout=DEADLINE) as watch:
        for n in range(50):
            branch.write_text("/ping", f"{n}")
            assert next(watch).path == "/pong"
            assert branch.read_text("/pong") == f"{n}"
    node.run("await kept.loop")


def test_both_write_at_once_and_nothing_is_lost(branch: alknet_fs.Branch, node: Node) -> None:
    node.send("""
        for (let n = 0; n < 150; n++) {
          await branch.fs.promises.writeFile(`/node-${n}`, `${n}`);
          if (n % 10 === 0) {
            await branch.batch((batch) => {
              batch.write('/both', `node ${n}`);
              batch.write(`/node-batch-${n}`, `${n}`);
            });
          }
        }
        return branch.fs.readdirSync('/').length;
    """)
    for n in range(150):
        branch.write_text(f"/python-{n}", f"{n}")
        if n % 10 == 0:
            with branch.batch() as batch:
                batch.write_bytes("/both", f"python {n}".encode())
                batch.write_bytes(f"/python-batch-{n}", f"{n}".encode())
    node.answer()
    names = set(branch.listdir("/"))
    for who in ["node", "python"]:
        assert {f"{who}-{n}" for n in range(150)} <= names
        assert {f"{who}-batch-{n}" for n in range(0, 150, 10)} <= names
    assert node.run("return branch.fs.readdirSync('/').length") == len(names)
    events = [event for event in branch.log(limit=10_000) if event.op == "create"]
    assert len(events) == 331


def test_a_path_that_one_has_locked_names_its_owner_to_the_other(
    branch: alknet_fs.Branch, node: Node
) -> None:
    node.run("""
        kept.session = await branch.openSession('/report', { exclusive: true, owner: 'the other' });
        await kept.session.write('half', 0);
    """)
    with pytest.raises(alknet_fs.Locked, match="the other"):
        branch.open_file("/report", write=True, create=True, exclusive=True)
    assert [session.owner for session in branch.sessions()] == ["the other"]
    assert not branch.exists("/report")
    node.run("await kept.session.close()")
    assert branch.read_bytes("/report") == b"half"
    with branch.open_file("/report", write=True, exclusive=True, owner="this one") as file:
        file.write(b"HALF")
        kind = node.run("""
            return branch.openSession('/report', { exclusive: true }).then(
              () => 'opened', (error) => [error.kind, /this one/.test(error.message)]);
        """)
        assert kind == ["Locked", True]
    assert node.run("return branch.fs.readFileSync('/report', 'utf8')") == "HALF"


def test_a_fork_and_a_snapshot_of_one_are_there_for_the_other(
    store: alknet_fs.Store, branch: alknet_fs.Branch, node: Node
) -> None:
    branch.write_text("/a", "1")
    node.run("""
        kept.fork = await branch.fork('agent');
        await kept.fork.fs.promises.writeFile('/a', '2');
        await branch.snapshot('before');
    """)
    assert store.branch("agent").read_text("/a") == "2"
    branch.write_text("/a", "3")
    assert branch.view("before").read_text("/a") == "1"
    assert node.run("return branch.view('before').fs.readFileSync('/a', 'utf8')") == "1"
    branch.restore("before")
    assert node.run("return branch.fs.readFileSync('/a', 'utf8')") == "1"
    found = node.run("return (await store.bucket().diff('main', 'agent')).map((d) => d.path)")
    assert found == [d.path for d in store.bucket().diff("main", "agent")] == ["/a"]


def test_a_killed_node_leaves_a_store_that_goes_on(
    store: alknet_fs.Store, branch: alknet_fs.Branch, node: Node
) -> None:
    node.run("branch.fs.writeFileSync('/acknowledged', 'yes')")
    node.run("kept.session = await branch.openSession('/half', { exclusive: true })")
    node.run("await kept.session.write('half', 0)")
    node.kill()
    assert branch.read_text("/acknowledged") == "yes"
    assert not branch.exists("/half")
    branch.write_text("/after", "text")
    [session] = branch.sessions()
    assert session.path == "/half"
    store.abort_session(session.id)
    branch.write_text("/half", "whole")
    assert store.fsck().problems == []
    assert os.path.isdir(str(store.path))


def test_two_nodes_share_a_bucket(tmp_path: pathlib.Path, store: alknet_fs.Store) -> None:
    bucket = store.create_bucket("notes")
    bucket.set_content_policy("eager")
    bucket.branch().write_text("/from-python", "one")
    alknet_fs.create(tmp_path / "other").close()
    other = Node(tmp_path / "other")
    with other.process, store.node(loopback=True) as here:
        key = other.run(f"""
            const node = await store.startNode({{ loopback: true }});
            kept.bucket = await store.join({store.share("notes")!r}, {{ name: 'joined' }});
            await kept.bucket.setContentPolicy('eager');
            return node.id;
        """)
        assert store.wait_until_synced(DEADLINE).synced
        read = "return kept.bucket.branch().fs.promises.readFile('/from-python', 'utf8')"
        assert other.run(read) == "one"
        with bucket.watch("from-node", timeout=DEADLINE) as watch:
            other.run("await kept.bucket.branch().fs.promises.writeFile('/from-node', 'two')")
            event = next(watch)
        assert event.peer is not None
        assert event.peer.id == key
        assert bucket.branch().read_text("/from-node") == "two"
        synced = "return (await store.untilSynced({ bucket: 'joined' })).synced"
        assert other.run(synced) is True
        peers = other.run("return (await kept.bucket.log()).map(({ peer }) => peer?.id ?? null)")
        assert peers == [None, here.id]
        # Both wrote without knowing of each other, and either may decide.
        here.stop()
        bucket.branch().write_text("/plan", "of python")
        other.run("await kept.bucket.branch().fs.promises.writeFile('/plan', 'of node')")
        with store.node(loopback=True):
            (conflict,) = other.run("""
                while ((await kept.bucket.conflicts()).length === 0) {
                  await new Promise((resolve) => setTimeout(resolve, 20));
                }
                const found = await kept.bucket.conflicts();
                return found.map(({ path, others }) => [path, others.length]);
            """)
            assert conflict == ["/plan", 1]
            (beside,) = other.run("return kept.bucket.branch().resolve('/plan', 'both')")
            assert store.wait_until_synced(DEADLINE).synced
            texts = {bucket.branch().read_text(path) for path in ("/plan", beside)}
            assert texts == {"of python", "of node"}
            assert bucket.conflicts() == []
