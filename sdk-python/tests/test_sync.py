"""Real nodes on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest

import alknet_fs
from alknet_fs import aio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

LONGEST = 30.0


class Side(NamedTuple):
    """A store, and the bucket that is shared."""

    store: alknet_fs.Store
    bucket: alknet_fs.Bucket
    node: alknet_fs.Node

    @property
    def main(self) -> alknet_fs.Branch:
        return self.bucket.branch()


def until(what: Callable[[], T]) -> T:
    """Return what a function returns once that is true; a file may be missing until then."""
    deadline = time.monotonic() + LONGEST
    while True:
        with contextlib.suppress(alknet_fs.NotFound):
            if found := what():
                return found
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[[str], tuple[alknet_fs.Store, alknet_fs.Node]]]:
    """Make stores whose nodes run."""
    with contextlib.ExitStack() as opened:

        def make(name: str) -> tuple[alknet_fs.Store, alknet_fs.Node]:
            store = opened.enter_context(alknet_fs.create(tmp_path / name, author=name))
            return store, opened.enter_context(store.node(loopback=True))

        yield make


@pytest.fixture
def stores(
    nodes: Callable[[str], tuple[alknet_fs.Store, alknet_fs.Node]],
) -> Callable[[str], alknet_fs.Store]:
    return lambda name: nodes(name)[0]


@pytest.fixture
def here(nodes: Callable[[str], tuple[alknet_fs.Store, alknet_fs.Node]]) -> Side:
    store, node = nodes("here")
    return Side(store, store.create_bucket("notes"), node)


@pytest.fixture
def there(here: Side, nodes: Callable[[str], tuple[alknet_fs.Store, alknet_fs.Node]]) -> Side:
    store, node = nodes("there")
    return Side(store, store.join(here.store.share("notes")), node)


def conflicting(here: Side, there: Side, tmp_path: Path) -> alknet_fs.Conflict:
    """Have both write one path without knowing of each other; who was away wrote later."""
    here.main.write_text("/plan", "first")
    until(lambda: there.main.read_text("/plan") == "first")
    there.store.close()
    here.main.write_text("/plan", "ours")
    with alknet_fs.open(tmp_path / "there", author="there") as offline:
        offline.branch(bucket="notes").write_text("/plan", "theirs")
    with alknet_fs.open(tmp_path / "there", author="there") as store, store.node(loopback=True):
        bucket = store.bucket("notes")
        (conflict,) = until(bucket.conflicts)
        assert (conflict.branch, conflict.path) == ("main", "/plan")
        assert until(here.bucket.conflicts)[0].path == "/plan"
        return conflict


def test_what_one_writes_the_other_reads(here: Side, there: Side) -> None:
    here.main.write_text("/todo.txt", "milk")
    assert until(lambda: there.main.read_text("/todo.txt")) == "milk"
    there.main.write_text("/todo.txt", "milk and bread")
    until(lambda: here.main.read_text("/todo.txt") == "milk and bread")
    there.main.fork("draft").write_text("/idea.txt", "an idea")
    there.main.snapshot("monday")
    assert until(lambda: here.bucket.branch("draft").read_text("/idea.txt")) == "an idea"
    assert until(lambda: here.main.view("monday").read_text("/todo.txt")) == "milk and bread"


def test_status(here: Side, there: Side) -> None:
    for side in (here, there):
        side.bucket.set_content_policy("eager")
        assert side.bucket.content_settings().policy == "eager"
    here.main.write_text("/a", "one")
    status = here.store.wait_until_synced(LONGEST)
    assert status.synced
    # That was said of what was written before.
    assert there.main.read_text("/a") == "one"
    (peer,) = status.peers
    assert peer.peer == there.store.sync_status().id
    assert (peer.bucket, peer.shared, peer.access) == ("notes", True, "write")
    assert peer.connected
    assert peer.known
    assert peer.ended is None
    assert peer.in_step
    assert peer.synced
    assert peer.seen_ns is not None
    assert peer.behind_here == peer.behind_there == pickle.loads(pickle.dumps(peer.behind_here))
    assert (peer.behind_there.commits, peer.behind_there.contents) == (0, 0)
    assert here.store.wait_until_synced(LONGEST, bucket="notes").synced
    (joined,) = there.store.sync_status().peers
    assert not joined.shared
    # A peer that has not fetched it has not all.
    there.bucket.set_content_policy("on-read")
    here.main.write_text("/b", "two")
    status = here.store.wait_until_synced(1.5)
    assert not status.synced
    behind = until(lambda: here.store.sync_status().peers[0].behind_there.contents)
    assert behind == 1
    with pytest.raises(alknet_fs.NotFound):
        here.store.wait_until_synced(1, bucket="none")


def test_events_say_which_peer(
    here: Side, there: Side, stores: Callable[[str], alknet_fs.Store]
) -> None:
    third = stores("third")
    # Who has only a branch meets no other members.
    bucket = third.join(there.store.share("notes", branches="main"))
    with here.bucket.watch(timeout=LONGEST) as watch:
        there.main.write_text("/theirs", "x")
        here.main.write_text("/ours", "x")
        events = {event.path: event for event in (next(watch), next(watch))}
    key = there.store.sync_status().id
    assert events["/ours"].peer is None
    assert events["/ours"].author == "here"
    peer = events["/theirs"].peer
    assert peer is not None
    assert (peer.id, peer.name) == (key, None)
    assert pickle.loads(pickle.dumps(events["/theirs"])) == events["/theirs"]
    assert key is not None
    here.store.name_peer(key[:12], "laptop")
    (event,) = here.bucket.log(glob="theirs")
    assert event.peer is not None
    assert (event.peer.id, event.peer.name) == (key, "laptop")
    # What comes from a node by way of another names the replica, not the one that brought it.
    (brought,) = until(lambda: bucket.log(glob="ours"))
    assert brought.peer is None
    assert re.fullmatch("[0-9a-f]{32}", brought.author)
    (direct,) = until(lambda: bucket.log(glob="theirs"))
    assert direct.peer is not None
    assert direct.peer.id == key


def test_join_waits_for_the_answer(here: Side, there: Side) -> None:
    (peer,) = there.store.sync_status().peers
    assert (peer.connected, peer.refused) == (True, False)
    assert there.bucket.name == "notes"


def test_a_join_that_is_refused_leaves_nothing(
    here: Side, stores: Callable[[str], alknet_fs.Store]
) -> None:
    guest = stores("guest")
    ticket = here.store.share("notes")
    here.store.revoke_grant(here.store.grants()[0].id)
    with pytest.raises(alknet_fs.PermissionDenied, match="does not let this node in") as caught:
        guest.join(ticket, timeout=LONGEST)
    assert (caught.value.op, caught.value.path) == ("join", "notes")
    assert guest.buckets() == ["default"]
    assert guest.peers() == guest.sync_status().peers == []
    # A bucket that was there already stays, as it was.
    guest.create_bucket("notes").branch().write_text("/own", "x")
    with pytest.raises(alknet_fs.PermissionDenied, match="does not let this node in"):
        guest.join(ticket, merge=True, timeout=LONGEST)
    assert guest.branch(bucket="notes").read_text("/own") == "x"
    assert guest.peers() == []
    # A newer ticket is as good as any.
    bucket = guest.join(here.store.share("notes"), name="again", timeout=LONGEST)
    here.main.write_text("/a", "one")
    assert until(lambda: bucket.branch().read_text("/a")) == "one"


def test_a_join_that_nobody_answers(here: Side, tmp_path: Path) -> None:
    ticket = here.store.share("notes")
    here.main.write_text("/a", "one")
    here.node.stop()
    with alknet_fs.create(tmp_path / "other") as store:
        # No node runs here that could ask.
        begun = time.monotonic()
        assert store.join(ticket, name="offline", timeout=600).name == "offline"
        assert time.monotonic() - begun < LONGEST
        store.leave("offline")
        store.delete_bucket("offline")
        with store.node(loopback=True):
            for timeout in (0, 0.2):
                bucket = store.join(ticket, timeout=timeout)
                (peer,) = store.sync_status().peers
                assert not peer.connected
                assert not peer.known
            cancel = alknet_fs.Cancel()
            threading.Timer(0.1, cancel.cancel).start()
            with pytest.raises(alknet_fs.Cancelled):
                store.join(ticket, timeout=600, cancel=cancel)

            async def run() -> None:
                async with aio.open(tmp_path / "other") as other:
                    waiting = asyncio.create_task(other.join(ticket, timeout=600))
                    done, _ = await asyncio.wait([waiting], timeout=0.2)
                    assert not done
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await asyncio.wait_for(waiting, LONGEST)
                    assert (await (await other.join(ticket, timeout=0)).name()) == "notes"

            asyncio.run(run())
            # It stays joined, and comes once somebody answers.
            with here.store.node(loopback=True):
                assert until(lambda: bucket.branch().read_text("/a")) == "one"


def test_peers_and_grants(here: Side, there: Side) -> None:
    here.main.write_text("/a", "one")
    until(lambda: there.main.read_text("/a"))
    (peer,) = here.store.peers()
    (grant,) = here.store.grants()
    assert grant.peers == [peer.id]
    assert peer.grants == [grant]
    assert pickle.loads(pickle.dumps(peer)) == peer
    (joined,) = there.store.peers()[0].joined
    assert (joined.bucket, joined.access) == ("notes", "write")
    week = datetime.timedelta(days=7)
    here.store.share("notes", expires=week, branches="main", name="weekly", read_only=True)
    weekly = here.store.grants()[1]
    assert (weekly.name, weekly.access, weekly.branches) == ("weekly", "read", ["main"])
    assert weekly.expires_ns is not None
    assert weekly.expires_ns - weekly.created_ns == pytest.approx(7 * 86400e9, rel=1e-3)
    here.store.revoke_grant(weekly.id)
    assert here.store.grants()[1].revoked_ns is not None
    here.store.name_peer(peer.id, "laptop")
    assert here.store.revoke_peer("laptop") == 1
    assert here.store.sync_status().peers[0].ended == "revoked"
    until(lambda: "revoked" in (there.store.sync_status().peers[0].trouble or ""))
    assert there.store.sync_status().peers[0].refused
    here.store.forget_peer("laptop")
    assert here.store.peers() == []
    with pytest.raises(alknet_fs.PermissionDenied, match="leave that first"):
        there.store.forget_peer(str(there.store.peers()[0].id))
    assert there.main.read_text("/a") == "one"


def test_revoke_finds_what_is_meant(here: Side, there: Side) -> None:
    (peer,) = here.store.peers()
    for label in ("weekly", "weekly", "monthly"):
        here.store.share("notes", name=label)
    first, *others, monthly = here.store.grants()[1:]
    assert here.store.revoke("monthly") == 1
    with pytest.raises(alknet_fs.InvalidInput, match="several grants"):
        here.store.revoke("weekly")
    assert here.store.revoke(first.id[:8]) == 1
    assert here.store.revoke("weekly") == 1
    revoked = {grant.id for grant in here.store.grants() if grant.revoked_ns is not None}
    assert revoked == {first.id, *(grant.id for grant in others), monthly.id}
    here.store.name_peer(peer.id, "laptop")
    assert here.store.revoke("laptop") == 1
    assert here.store.peers()[0].grants == []
    assert here.store.revoke("laptop") == 0
    with pytest.raises(alknet_fs.NotFound, match="no grant of that label"):
        here.store.revoke("nobody")
    with pytest.raises(alknet_fs.InvalidInput, match="own node"):
        here.store.revoke(here.node.id)


def test_what_a_ticket_lets_out(here: Side, stores: Callable[[str], alknet_fs.Store]) -> None:
    reader = stores("reader")
    ticket = here.store.share("notes")
    assert reader.unsent(ticket) is None
    main = reader.join(here.store.share("notes", read_only=True)).branch()
    assert reader.unsent(ticket) is None
    main.write_text("/b", "mine")
    until(lambda: reader.sync_status().peers[0].stays_here == 1)
    unsent = reader.unsent(ticket)
    assert unsent is not None
    assert unsent.commits == 1
    assert pickle.loads(pickle.dumps(unsent)) == unsent
    assert reader.unsent(here.store.share("notes", read_only=True)) is None
    reader.join(ticket)
    assert reader.unsent(ticket) is None
    assert until(lambda: here.main.read_text("/b")) == "mine"
    with pytest.raises(alknet_fs.InvalidInput, match="that is no ticket"):
        reader.unsent("nonsense")


def test_a_reader_changes_only_its_own(
    here: Side, stores: Callable[[str], alknet_fs.Store]
) -> None:
    here.main.write_text("/a", "one")
    reader = stores("reader")
    bucket = reader.join(here.store.share("notes", read_only=True), name="readonly")
    main = bucket.branch()
    assert until(lambda: main.read_text("/a")) == "one"
    assert reader.peers()[0].joined[0].access == "read"
    main.write_text("/b", "mine")
    here.main.write_text("/c", "two")
    assert until(lambda: main.read_text("/c")) == "two"
    until(lambda: here.node.status().peers[0].in_step)
    assert here.main.listdir() == ["a", "c"]
    assert main.listdir() == ["a", "b", "c"]
    until(lambda: reader.sync_status().peers[0].stays_here == 1)
    assert here.store.sync_status().peers[0].stays_here is None


def test_a_branch_alone(here: Side, stores: Callable[[str], alknet_fs.Store]) -> None:
    here.main.write_text("/base", "shown")
    here.main.fork("draft").write_text("/idea", "x")
    here.main.fork("secret").write_text("/hidden", "x")
    guest = stores("guest")
    bucket = guest.join(here.store.share("notes", branches=["draft"]))
    assert until(lambda: bucket.branch("draft").read_text("/idea")) == "x"
    bucket.branch("draft").write_text("/answer", "y")
    assert until(lambda: here.bucket.branch("draft").read_text("/answer")) == "y"
    names = [info.name for info in bucket.branches()]
    assert "secret" not in names


def test_leave(here: Side, there: Side) -> None:
    here.main.write_text("/a", "one")
    until(lambda: there.main.read_text("/a"))
    there.store.leave("notes")
    until(lambda: not here.node.status().peers[0].connected)
    here.main.write_text("/b", "two")
    there.main.write_text("/c", "three")
    assert there.main.read_text("/a") == "one"
    assert there.main.listdir() == ["a", "c"]
    with pytest.raises(alknet_fs.NotFound, match="not joined"):
        there.store.leave("notes")
    assert here.store.grants()[0].open
    joined = there.store.join(here.store.share("notes"))
    with pytest.raises(alknet_fs.NotFound, match="no peer"):
        there.store.leave("notes", "nobody")
    there.store.leave("notes", here.node.id[:12])
    assert joined.name == "notes"
    with pytest.raises(alknet_fs.NotFound, match="not joined from that peer"):
        there.store.leave("notes", peer=here.node.id)
    here.store.revoke_peer(there.node.id)
    assert not here.store.grants()[0].open


def test_a_node_keeps_its_key(tmp_path: Path) -> None:
    with alknet_fs.create(tmp_path / "s") as store:
        node = store.node(loopback=True)
        key = node.id
        assert re.fullmatch("[0-9a-f]{64}", key)
        assert node.running
        assert node.status().id == key
        with pytest.raises(alknet_fs.Locked, match="runs the node"):
            store.node(loopback=True)
        node.stop()
        node.stop()
        assert not node.running
        assert repr(node) == f"<stopped alknet_fs.Node {key[:10]}>"
        with pytest.raises(alknet_fs.BadHandle):
            node.status()
        with store.node(loopback=True) as again:
            assert again.id == key
            store.close()
            assert not again.running
    with (
        alknet_fs.open(tmp_path / "s") as store,
        store.node(loopback=True, relays=(), mdns=False, gossip=False) as node,
    ):
        assert node.id == key
    with pytest.raises(alknet_fs.Unsupported), alknet_fs.memory() as memory:
        memory.node()


def test_a_node_that_nobody_holds_stops(tmp_path: Path) -> None:
    with alknet_fs.create(tmp_path / "s") as store:
        with pytest.warns(ResourceWarning, match="never stopped"):
            store.node(loopback=True)
            gc.collect()
        store.node(loopback=True).stop()


def test_an_interpreter_that_ends_stops_its_node(here: Side, tmp_path: Path) -> None:
    program = """
import alknet_fs, os, sys
store = alknet_fs.create(sys.argv[1])
node = store.node(loopback=True)
store.join(sys.argv[2])
while not store.sync_status().peers[0].connected: pass
if hasattr(os, "fork"):
    child = os.fork()
    if not child:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    ticket = here.store.share("notes")
    begun = time.monotonic()
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program]
    subprocess.run([*command, tmp_path / "other", ticket], check=True, timeout=60)
    assert time.monotonic() - begun < 20
    # It has said good-bye, so nobody waits for it to time out.
    until(lambda: not here.node.status().peers[0].connected)
    assert time.monotonic() - begun < 25


def test_contents_come_when_they_are_read(here: Side, there: Side) -> None:
    data = os.urandom(300_000)
    here.main.write_bytes("/large", data)
    here.main.write_text("/small", "x")
    until(lambda: there.main.exists("/small"))
    with pytest.raises(alknet_fs.ContentUnavailable) as caught:
        there.main.fetching(timeout=0).read_bytes("/large")
    assert caught.value.path == "/large"
    assert caught.value.content == here.main.stat("/large").hash
    assert caught.value.asked == ()
    assert there.main.read_bytes("/large") == data
    assert there.main.fetching(timeout=0).read_bytes("/large") == data
    with there.main.open("/small") as file:
        assert file.read() == "x"


def test_fetch_pin_and_evict(here: Side, there: Side) -> None:
    here.main.makedirs("/docs")
    for n in range(3):
        here.main.write_text(f"/docs/{n}", f"text {n}")
    here.main.write_text("/other", "other")
    until(lambda: there.main.exists("/other"))
    seen: list[alknet_fs.Progress] = []
    report = there.main.fetch("/docs", progress=seen.append)
    assert (report.contents, report.bytes, report.failed) == (3, 18, [])
    assert seen[-1].files == seen[-1].total_files == 3
    assert pickle.loads(pickle.dumps(report)) == report
    quick = there.main.fetching(timeout=0)
    assert quick.read_text("/docs/1") == "text 1"
    with pytest.raises(alknet_fs.ContentUnavailable):
        quick.read_text("/other")
    assert there.bucket.fetch().contents == 1
    assert quick.read_text("/other") == "other"
    assert there.store.cached_bytes() == 18 + len("other")
    there.bucket.pin("/docs/1")
    assert there.bucket.has_match("/docs/1")
    assert not there.bucket.has_match("/none")
    with pytest.raises(alknet_fs.InvalidInput):
        there.bucket.has_match("a[")
    assert there.bucket.content_settings().pins == ["/docs/1"]
    evicted = there.store.evict()
    assert evicted.contents == 3
    assert (evicted.promised, evicted.promised_bytes, evicted.promised_until_ns) == (0, 0, None)
    assert evicted.bytes_here == there.store.cached_bytes() == len("text 1")
    # The other node keeps for this one what it said to have; what is pinned here can go there.
    kept = here.store.evict()
    assert (kept.contents, kept.promised, kept.promised_bytes) == (1, 3, 17)
    assert kept.promised_until_ns is not None
    assert kept.promised_until_ns > time.time_ns()
    assert pickle.loads(pickle.dumps(kept)) == kept
    assert quick.read_text("/docs/1") == "text 1"
    with pytest.raises(alknet_fs.ContentUnavailable):
        quick.read_text("/docs/0")
    there.bucket.unpin("/docs/1")
    with pytest.raises(alknet_fs.NotFound):
        there.bucket.unpin("/docs/1")
    assert there.store.cache_limit() is None
    there.store.set_cache_limit(1 << 30)
    assert there.store.cache_limit() == 1 << 30
    there.store.set_cache_limit(None)
    there.bucket.set_content_timeout(2.5)
    assert there.bucket.content_settings().timeout == 2.5


def test_contents_of_a_node_that_is_away(
    here: Side, there: Side, stores: Callable[[str], alknet_fs.Store]
) -> None:
    third = stores("third")
    bucket = third.join(there.store.share("notes"))
    here.main.write_text("/a", "one")
    until(lambda: bucket.branch().exists("/a"))
    here.store.close()
    until(lambda: not any(p.connected for p in there.node.status().peers if not p.shared))
    there.bucket.set_content_timeout(0.5)
    with pytest.raises(alknet_fs.ContentUnavailable, match="not here") as caught:
        there.main.read_text("/a")
    assert isinstance(caught.value, OSError)
    assert (caught.value.path, caught.value.code) == ("/a", "EHOSTUNREACH")
    # Who could be asked first did not have it either.
    key = there.store.sync_status().id
    third.name_peer(str(key), "middle")
    with pytest.raises(alknet_fs.ContentUnavailable, match="middle") as caught:
        bucket.branch().fetching(timeout=5).read_text("/a")
    assert caught.value.asked[0] == "middle"
    report = bucket.fetch()
    assert [unfetched.path for unfetched in report.failed] == ["/a"]
    assert "middle" in report.failed[0].why or "not reachable" in report.failed[0].why


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_a_signal_ends_the_wait_for_a_content(here: Side, tmp_path: Path) -> None:
    here.main.write_text("/a", "one")
    program = """
import alknet_fs, signal, sys, threading, time
# Whoever runs the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Says when the main thread stands still in a call.
def say_when_it_waits():
    main, stands, last = threading.main_thread().ident, 0, None
    while stands < 20:
        time.sleep(0.01)
        frame = sys._current_frames()[main]
        place = "alknet_fs" in frame.f_code.co_filename and (frame.f_code, frame.f_lasti)
        stands, last = stands + 1 if place and place == last else 0, place
    print("waits", flush=True)

store = alknet_fs.create(sys.argv[1])
node = store.node(loopback=True)
bucket = store.join(sys.argv[2])
while not bucket.branch().exists("/a"): time.sleep(0.01)
print("there", flush=True)
while node.status().peers[0].connected: time.sleep(0.01)
print("away", flush=True)
try:
    threading.Thread(target=say_when_it_waits).start()
    bucket.branch().fetching(timeout=600).read_text("/a")
except KeyboardInterrupt:
    print("interrupted", flush=True)
try:
    threading.Thread(target=say_when_it_waits).start()
    store.wait_until_synced(600)
except KeyboardInterrupt:
    print("again", flush=True)
node.stop()
"""
    other = str(tmp_path / "other")
    command = [sys.executable, "-c", program, other, here.store.share("notes")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        here.store.close()
        assert process.stdout.readline() == "away\n"
        for said in ("interrupted\n", "again\n"):
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == said
        assert process.wait(timeout=LONGEST) == 0


@pytest.mark.skipif(os.name == "nt", reason="a file in use can be replaced on POSIX")
def test_a_node_that_cannot_go_on(tmp_path: Path) -> None:
    with alknet_fs.create(tmp_path / "store") as store, store.node(loopback=True) as node:
        assert node.running
        shutil.copy(tmp_path / "store" / "store.db", tmp_path / "copy")
        (tmp_path / "copy").replace(tmp_path / "store" / "store.db")
        until(lambda: not node.running)
        with pytest.raises(alknet_fs.AlkError, match=r"store\.db was replaced"):
            node.status()
        assert "stopped" in repr(node)


def test_conflicts(here: Side, there: Side, tmp_path: Path) -> None:
    conflict = conflicting(here, there, tmp_path)
    assert pickle.loads(pickle.dumps(conflict)) == conflict
    assert len(conflict.others) == 1
    (found,) = here.bucket.conflicts()
    assert here.main.conflicts() == [found]
    sides = [found.shown, found.others[0]]
    (ours,) = [side for side in sides if side.here]
    (theirs,) = [side for side in sides if not side.here]
    assert ours.peer is None
    assert theirs.peer is not None
    assert theirs.peer.id == here.store.peers()[0].id
    assert theirs.replica != ours.replica
    assert ours.entry is not None
    assert theirs.entry is not None
    assert (ours.entry.size, theirs.entry.size) == (len("ours"), len("theirs"))
    shown = ours.entry if found.shown.here else theirs.entry
    assert here.main.stat("/plan").hash == shown.hash
    with pytest.raises(alknet_fs.InvalidInput):
        here.main.resolve("/plan", 7)
    with pytest.raises(alknet_fs.InvalidInput):
        here.main.resolve("/plan", "neither")  # type: ignore[arg-type]
    with pytest.raises(alknet_fs.NotFound):
        here.main.resolve("/none")
    (beside,) = here.main.resolve("/plan", "both")
    assert "conflict" in beside
    assert here.bucket.conflicts() == []
    with alknet_fs.open(tmp_path / "there") as store, store.node(loopback=True):
        until(lambda: not store.bucket("notes").conflicts())
        found_texts = {here.main.read_text(path) for path in ("/plan", beside)}
        assert found_texts == {"ours", "theirs"}


def test_a_conflict_is_decided_for_the_other(here: Side, there: Side, tmp_path: Path) -> None:
    other = conflicting(here, there, tmp_path).others[0].entry
    assert here.main.resolve("/plan", 0) == []
    with alknet_fs.open(tmp_path / "there") as store, store.node(loopback=True):
        bucket = store.bucket("notes")
        until(lambda: not bucket.conflicts())
        assert other is not None
        for branch in (here.main, bucket.branch()):
            assert branch.stat("/plan").hash == other.hash
            assert len(branch.read_text("/plan")) == other.size


def test_conflicts_of_names(here: Side, stores: Callable[[str], alknet_fs.Store]) -> None:
    other = stores("other")
    own = other.create_bucket("notes")
    for bucket, text in ((here.bucket, "a"), (own, "b")):
        bucket.branch().write_text("/base", text)
        bucket.branch().snapshot("monday")
    other.join(here.store.share("notes"), merge=True)
    (conflict,) = until(own.name_conflicts)
    assert (conflict.branch, conflict.name) == ("main", "monday")
    assert conflict.snapshot is not None
    assert re.fullmatch("monday~[0-9a-f]{8}", conflict.snapshot)
    assert pickle.loads(pickle.dumps(conflict)) == conflict
    assert conflict.at_ns is not None
    assert abs(conflict.at_ns - time.time_ns()) < 600e9
    assert conflict.replica is not None
    assert re.fullmatch("[0-9a-f]{32}", conflict.replica)
    # Whose it is can be seen in it, too.
    with own.view(f"main@{conflict.snapshot}") as view:
        text = until(lambda: view.read_text("/base"))
    assert conflict.here == (text == "b")
    peer = None if conflict.peer is None else conflict.peer.id
    assert peer == (None if conflict.here else here.node.id)
    own.branch().rename_snapshot(conflict.snapshot, "tuesday")
    assert own.name_conflicts() == []
    names = {"monday", "tuesday"}
    until(lambda: {snapshot.name for snapshot in here.main.snapshots()} == names)


def test_clear_errors(here: Side, stores: Callable[[str], alknet_fs.Store]) -> None:
    other = stores("other")
    ticket = here.store.share("notes")
    with pytest.raises(alknet_fs.InvalidInput, match="that is no ticket"):
        other.join("nonsense")
    for altered in (ticket[:-1], ticket[:40] + ("a" if ticket[40] != "a" else "b") + ticket[41:]):
        with pytest.raises(alknet_fs.InvalidInput, match="incomplete or was altered"):
            other.join(altered)
    with pytest.raises(alknet_fs.InvalidInput, match="this store gave out the ticket"):
        here.store.join(ticket)
    with pytest.raises(alknet_fs.InvalidInput, match="for no time"):
        here.store.share("notes", expires=0)
    other.create_bucket("notes")
    with pytest.raises(alknet_fs.AlreadyExists, match="another name"):
        other.join(ticket)
    assert other.join(f" {ticket[:50]}\n{ticket[50:].upper()} ", name="n2").name == "n2"
    with pytest.raises(alknet_fs.NotFound):
        here.store.share("none")
    with pytest.raises(alknet_fs.NotFound):
        here.store.share("notes", branches=["none"])
    with pytest.raises(alknet_fs.NotFound):
        here.store.revoke_peer("nobody")
    with pytest.raises(alknet_fs.NotFound):
        here.store.revoke_grant("0" * 32)
    for grant in ("", "x", "+" + "0" * 31):
        with pytest.raises(alknet_fs.InvalidInput, match="32 hexadecimal digits"):
            here.store.revoke_grant(grant)
    with pytest.raises(alknet_fs.NotFound):
        here.store.name_peer("", "x")
    anything: Any = here.store
    with pytest.raises(TypeError):
        anything.join(7)
    with pytest.raises(TypeError):
        anything.share(7)
    with pytest.raises(TypeError):
        anything.share("notes", branches=[7])
    with pytest.raises(ValueError, match="expires"):
        here.store.share("notes", expires=-1)
    with pytest.raises(ValueError, match="timeout"):
        here.store.wait_until_synced(float("nan"))
    with pytest.raises(ValueError, match="timeout"):
        other.join(ticket, timeout=-1)
    with pytest.raises(ValueError, match="eager"):
        here.bucket.set_content_policy("always")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seconds"):
        here.bucket.set_content_timeout(-1)
    with pytest.raises(alknet_fs.InvalidInput):
        here.bucket.pin("a[")
    with pytest.raises(OverflowError):
        here.store.set_cache_limit(-1)


def test_clear_errors_of_a_node(tmp_path: Path) -> None:
    with alknet_fs.create(tmp_path / "s") as store:
        with pytest.raises(OverflowError):
            store.node(port=70_000)
        with pytest.raises(alknet_fs.InvalidInput, match="no address of a relay"):
            store.node(relays=["nonsense"])
        with pytest.raises(alknet_fs.InvalidInput, match="no address of a relay"):
            store.node(relays="n1")
        anything: Any = store
        with pytest.raises(TypeError):
            anything.node(relays=[7])
        with pytest.raises(alknet_fs.ContentUnavailable, match="alkfs node"):
            store.evict()


def test_with_await(here: Side, tmp_path: Path) -> None:
    here.main.write_text("/a", "one")
    ticket = here.store.share("notes")

    async def run() -> None:
        async with aio.create(tmp_path / "other") as store, store.node(loopback=True) as node:
            assert node.running
            bucket = await store.join(ticket)
            main = await bucket.branch()
            while not await main.exists("/a"):
                await asyncio.sleep(0.01)
            seen: list[alknet_fs.Progress] = []
            report = await bucket.fetch(progress=seen.append)
            assert report.contents == 1
            assert await main.read_text("/a") == "one"
            await main.write_text("/b", "two")
            await bucket.set_content_policy("eager")
            here.bucket.set_content_policy("eager")
            assert (await store.wait_until_synced(LONGEST)).synced
            assert (await node.status()).id == node.id
            assert [peer.id for peer in await store.peers()] == [here.store.sync_status().id]
            assert await bucket.conflicts() == []
            here.main.write_text("/c", "three")
            async for event in main.watch("c", after=0):
                assert event.peer is not None
                break
            assert await main.read_text("/c") == "three"
            await store.leave("notes")
        assert not node.running

    asyncio.run(run())


def test_tasks_that_wait_hold_up_nobody(here: Side, tmp_path: Path) -> None:
    for n in range(40):
        here.main.write_text(f"/{n}", str(n))
    ticket = here.store.share("notes")

    async def run() -> None:
        async with aio.create(tmp_path / "other") as store, store.node(loopback=True) as node:
            bucket = await store.join(ticket)
            main = await bucket.branch()
            while not await main.exists("/39"):
                await asyncio.sleep(0.01)
            here.store.close()
            while (await node.status()).peers[0].connected:
                await asyncio.sleep(0.01)
            patient = await main.fetching(timeout=600)

            async def open_it() -> str:
                async with patient.open("/39") as file:
                    return await file.read()

            waiting = [asyncio.create_task(patient.read_text(f"/{n}")) for n in range(39)]
            waiting.append(asyncio.create_task(open_it()))
            await asyncio.sleep(0.2)
            begun = time.monotonic()
            await main.write_text("/own", "x")
            assert await main.read_text("/own") == "x"
            assert time.monotonic() - begun < 5
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
            assert time.monotonic() - begun < 10

    asyncio.run(run())
