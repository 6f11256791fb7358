"""Python's etcd3 0.12.0 against a server: everything that its documentation shows.

Usage: etcd3_client.py HOST PORT. Prints what it did; exits 1 with a traceback at the first wrong answer.
"""

import queue
import sys
import threading
import time

import etcd3


def step(name):
    print("etcd3:", name, flush=True)


def wait(events, count, seconds=10):
    """The next `count` events of a queue."""
    return [events.get(timeout=seconds) for _ in range(count)]


def key_values(c):
    step("put, get, delete")
    assert c.get("missing") == (None, None)
    c.put("key", "dooot")
    value, meta = c.get("key")
    assert value == b"dooot" and meta.key == b"key" and meta.version == 1 and meta.lease_id == 0
    assert meta.create_revision == meta.mod_revision
    previous = c.put("key", "again", prev_kv=True)
    assert previous.prev_kv.value == b"dooot", previous
    assert c.get("key")[1].version == 2
    assert c.put_if_not_exists("key", "no") is False
    assert c.put_if_not_exists("new", "yes") is True
    assert c.replace("key", "again", "replaced") is True
    assert c.replace("key", "again", "wrong") is False
    assert c.get("key", serializable=True)[0] == b"replaced"
    assert c.delete("key") is True
    assert c.delete("key") is False
    c.put("bytes\x00\xff".encode("latin-1"), bytes(range(256)))
    assert c.get(b"bytes\x00\xff")[0] == bytes(range(256))

    step("prefixes and ranges")
    for i in range(20):
        c.put("/doot/%02d" % i, "i am a range")
    c.put("/doou", "outside")
    values = list(c.get_prefix("/doot/"))
    assert len(values) == 20 and all(value == b"i am a range" for value, _ in values)
    descending = [meta.key for _, meta in c.get_prefix("/doot/", sort_order="descend", sort_target="key")]
    assert descending == sorted(descending, reverse=True)
    assert len(list(c.get_range("/doot/05", "/doot/10"))) == 5
    keys_only = list(c.get_prefix("/doot/", keys_only=True))
    assert len(keys_only) == 20 and keys_only[0][0] == b""
    assert len(list(c.get_all())) >= 21
    assert c.delete_prefix("/doot/").deleted == 20
    assert list(c.get_prefix("/doot/")) == []


def transactions(c):
    step("transactions")
    c.put("a", "1")
    t = c.transactions
    ok, answers = c.transaction(
        compare=[t.value("a") == "1", t.version("a") > 0, t.create("none") == 0],
        success=[t.put("a", "2"), t.get("a"), t.delete("nothing")],
        failure=[t.put("a", "wrong")],
    )
    assert ok and answers[1][0][0] == b"2", answers
    ok, answers = c.transaction(compare=[t.mod("a") < 1], success=[], failure=[t.get("a")])
    assert not ok and answers[0][0][0] == b"2", answers
    ok, answers = c.transaction(
        compare=[],
        success=[t.txn(compare=[t.value("a") == "2"], success=[t.put("nested", "yes")], failure=[])],
        failure=[],
    )
    assert ok and c.get("nested")[0] == b"yes"


def watches(c):
    step("watches")
    events = queue.Queue()
    watch_id = c.add_watch_callback("watched", lambda response: [events.put(e) for e in response.events])
    for i in range(5):
        c.put("watched", str(i))
    c.put("not watched", "x")
    c.delete("watched")
    seen = wait(events, 6)
    assert [type(e).__name__ for e in seen] == ["PutEvent"] * 5 + ["DeleteEvent"], seen
    assert [e.value for e in seen[:5]] == [b"0", b"1", b"2", b"3", b"4"]
    c.cancel_watch(watch_id)

    first = seen[0].mod_revision
    iterator, cancel = c.watch("watched", start_revision=first)
    history = [next(iterator) for _ in range(6)]
    assert [e.mod_revision for e in history] == [e.mod_revision for e in seen]
    cancel()

    iterator, cancel = c.watch_prefix("pre/")
    threading.Thread(target=lambda: [c.put("pre/%d" % i, "v") for i in range(3)]).start()
    assert [next(iterator).key for _ in range(3)] == [b"pre/0", b"pre/1", b"pre/2"]
    cancel()

    threading.Timer(0.2, lambda: c.put("once", "seen")).start()
    assert c.watch_once("once", timeout=10).value == b"seen"

    c.put("old", "1")
    revision = c.get("old")[1].mod_revision
    c.put("old", "2")
    c.compact(revision + 1)
    failure = queue.Queue()
    c.add_watch_callback("old", failure.put, start_revision=revision)
    error = failure.get(timeout=10)
    assert isinstance(error, etcd3.exceptions.RevisionCompactedError), error
    assert error.compacted_revision == revision + 1


def leases(c):
    step("leases")
    lease = c.lease(600)
    c.put("leased", "x", lease=lease)
    assert c.get("leased")[1].lease_id == lease.id
    assert 590 <= lease.remaining_ttl <= 600 and lease.granted_ttl == 600 and lease.keys == [b"leased"]
    assert [answer.TTL for answer in lease.refresh()] == [600]
    lease.revoke()
    assert c.get("leased") == (None, None)
    short = c.lease(2)
    c.put("short", "x", lease=short)
    events, cancel = c.watch("short")
    assert type(next(events)).__name__ == "DeleteEvent"
    cancel()
    chosen = c.lease(100, lease_id=4711)
    assert chosen.id == 4711
    try:
        c.lease(100, lease_id=4711)
        raise AssertionError("a lease id was granted twice")
    except etcd3.exceptions.PreconditionFailedError:
        pass
    chosen.revoke()


def locks(c, host, port):
    step("locks")
    order = []

    def worker(name):
        own = etcd3.client(host=host, port=port, timeout=20)
        with own.lock("the-lock", ttl=20):
            order.append(name + " in")
            time.sleep(0.05)
            order.append(name + " out")

    threads = [threading.Thread(target=worker, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(order) == 8, order
    for i in range(0, 8, 2):
        assert order[i].split()[0] == order[i + 1].split()[0], order
    lock = c.lock("held", ttl=20)
    assert lock.acquire(timeout=5) and lock.is_acquired()
    assert c.lock("held", ttl=20).acquire(timeout=0.5) is False
    assert lock.release()


def cluster(c):
    step("members, status, alarms, snapshot")
    members = list(c.members)
    assert len(members) == 1 and members[0].name == "default" and members[0].client_urls, members
    status = c.status()
    assert status.leader.id == members[0].id and status.db_size > 0 and status.version.startswith("3."), status
    assert list(c.list_alarms()) == []
    assert c.hash() >= 0
    c.defragment()
    path = sys.argv[3] if len(sys.argv) > 3 else "/dev/null"
    with open(path, "wb") as file:
        c.snapshot(file)


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    c = etcd3.client(host=host, port=port, timeout=20)
    key_values(c)
    transactions(c)
    watches(c)
    leases(c)
    locks(c, host, port)
    cluster(c)

    step("done")


if __name__ == "__main__":
    main()
