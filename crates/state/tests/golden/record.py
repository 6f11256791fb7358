#!/usr/bin/env python3
"""Records what a real etcd makes of a random workload, for `tests/golden.rs` to compare with.

    record.py ETCD_BINARY SEED > etcd-3.5.30-seed-1.jsonl

Needs Python 3 and an etcd binary (3.5.16 or newer: older ones hash tombstones at the compacted revision differently). Starts it on free
loopback ports with its data in a temporary directory, and talks to its JSON gateway.

Each line is one request, and after "=>" what etcd answered:

    {"grant": [id, ttl]}  {"revoke": [id]}  {"compact": [revision]}  {"hash": [revision]} => [hash, compact_revision]
    {"put": [key, value, lease, flags]}     flags: 1 ignore_value, 2 ignore_lease
    {"delete": [key, range_end]}            {"txn": {"if": [[target, result, key, range_end, value]], "then": [..], "else": [..]}}

The answer of all but "hash" is the store's revision after it, or "error".
"""
import base64, json, os, random, socket, subprocess, sys, tempfile, time, urllib.error, urllib.request

KEYS = ["a", "b", "c", "d", "e", "f/1", "f/2", "f/3", "g" * 40, "z"]
TARGETS = {"version": "VERSION", "create": "CREATE", "mod": "MOD", "value": "VALUE", "lease": "LEASE"}
FIELDS = {"version": "version", "create": "create_revision", "mod": "mod_revision", "value": "value", "lease": "lease"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def b64(text):
    return base64.b64encode(text.encode()).decode()


class Etcd:
    def __init__(self, binary):
        self.dir = tempfile.TemporaryDirectory()
        client, peer = free_port(), free_port()
        self.url = f"http://127.0.0.1:{client}"
        peer_url = f"http://127.0.0.1:{peer}"
        self.process = subprocess.Popen(
            [binary, "--name=m", f"--data-dir={self.dir.name}/d", f"--listen-client-urls={self.url}",
             f"--advertise-client-urls={self.url}", f"--listen-peer-urls={peer_url}",
             f"--initial-advertise-peer-urls={peer_url}", f"--initial-cluster=m={peer_url}", "--log-level=error"])
        for _ in range(100):
            time.sleep(0.1)
            try:
                if self.call("kv/range", {"key": b64("x")}):
                    return
            except OSError:
                pass
        sys.exit("etcd does not answer")

    def call(self, path, body):
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise
            return None

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.dir.cleanup()

    def revision(self):
        return int(self.call("kv/range", {"key": b64("x")})["header"]["revision"])

    def run(self, op):
        (kind, args), = op.items()
        if kind == "hash":
            for path in ("maintenance/hashkv", "maintenance/hash"):
                try:
                    answer = self.call(path, {"revision": args[0]})
                    break
                except urllib.error.HTTPError:
                    answer = None
            if answer is None:
                return "error"
            return [int(answer.get("hash", 0)), int(answer.get("compact_revision", 0))]
        path, body = {
            "put": lambda: ("kv/put", request_of(op)["requestPut"]),
            "delete": lambda: ("kv/deleterange", request_of(op)["requestDeleteRange"]),
            "txn": lambda: ("kv/txn", request_of(op)["requestTxn"]),
            "compact": lambda: ("kv/compaction", {"revision": args[0], "physical": True}),
            "grant": lambda: ("lease/grant", {"ID": args[0], "TTL": args[1]}),
            "revoke": lambda: ("lease/revoke", {"ID": args[0]}),
        }[kind]()
        return "error" if self.call(path, body) is None else self.revision()


def request_of(op):
    (kind, args), = op.items()
    if kind == "put":
        key, value, lease, flags = args
        body = {"key": b64(key), "value": b64(value), "lease": lease}
        if flags & 1:
            body["ignore_value"] = True
        if flags & 2:
            body["ignore_lease"] = True
        return {"requestPut": body}
    if kind == "delete":
        return {"requestDeleteRange": {"key": b64(args[0]), "range_end": b64(args[1])}}
    compares = [
        {"target": TARGETS[target], "result": result, "key": b64(key), "range_end": b64(end),
         FIELDS[target]: b64(value) if target == "value" else value}
        for target, result, key, end, value in args["if"]]
    return {"requestTxn": {"compare": compares, "success": [request_of(o) for o in args["then"]],
                           "failure": [request_of(o) for o in args["else"]]}}


class Workload:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.leases, self.next_lease, self.compacted = [], 100, []

    def key(self):
        return self.random.choice(KEYS)

    def put(self, key):
        r = self.random
        flags = r.choice([0] * 8 + [1, 2, 3])
        lease = r.choice([0, 0, 0] + self.leases[-4:]) if not flags & 2 else 0
        value = "" if flags & 1 else r.choice(["", "x", "y", "v" * r.randrange(200)])
        return {"put": [key, value, lease, flags]}

    def delete(self, key):
        return {"delete": [key, self.random.choice(["", "", "", key + "\x7f", "\x00", "c"])]}

    def ops(self, keys, depth):
        ops = []
        while keys and self.random.random() < 0.8:
            pick = self.random.random()
            if depth < 2 and pick < 0.2:
                half = len(keys) // 2
                inner, keys = keys[:half], keys[half:]
                ops.append(self.txn(inner, depth + 1))
            elif pick < 0.8:
                ops.append(self.put(keys.pop()))
            else:
                ops.append({"delete": [keys.pop(), ""]})
        return ops

    def txn(self, keys, depth):
        r = self.random
        compare = []
        for _ in range(r.randrange(3)):
            target = r.choice(list(TARGETS))
            value = r.choice(["", "x"]) if target == "value" else r.randrange(4)
            compare.append([target, r.choice(["EQUAL", "NOT_EQUAL", "GREATER", "LESS"]), self.key(), r.choice(["", "", "z"]), value])
        return {"txn": {"if": compare, "then": self.ops(list(keys), depth), "else": self.ops(list(keys), depth)}}

    def next(self, revision, compacted):
        r, pick = self.random, self.random.random()
        if pick < 0.45:
            return self.put(self.key())
        if pick < 0.58:
            return self.delete(self.key())
        if pick < 0.80:
            keys = KEYS[:]
            r.shuffle(keys)
            return self.txn(keys, 0)
        if pick < 0.85:
            self.next_lease += 1
            self.leases.append(self.next_lease)
            return {"grant": [self.next_lease, 1000]}
        if pick < 0.88 and self.leases:
            return {"revoke": [self.leases.pop(r.randrange(len(self.leases)))]}
        if pick < 0.93:
            # Once it has compacted at 0, etcd answers HashKV at 0 (the newest) with the hash it took then.
            compacted = r.randint(max(compacted - 1, 1), revision + 1)
            self.compacted.append(compacted)
            return {"compact": [compacted]}
        # From a compaction that etcd remembers, from one that it has forgotten, or computed.
        past = r.choice(self.compacted[-14:] or [0])
        return {"hash": [r.choice([0, revision, revision - 1, max(compacted, 1) + 1, revision + 1, past, past])]}


def main():
    etcd, workload = Etcd(sys.argv[1]), Workload(int(sys.argv[2]))
    try:
        compacted = -1
        for _ in range(700):
            op = workload.next(etcd.revision(), compacted)
            answer = etcd.run(op)
            if "compact" in op and answer != "error":
                compacted = op["compact"][0]
            print(json.dumps(op), "=>", json.dumps(answer))
        print(json.dumps({"hash": [0]}), "=>", json.dumps(etcd.run({"hash": [0]})))
    finally:
        etcd.stop()


main()
