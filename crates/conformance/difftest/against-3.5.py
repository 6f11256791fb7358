"""The differential tester against etcd 3.5, without the few operations after which the two sides can't be compared any more,
because 3.5 then holds something else and not only answers something else:

- A transaction with puts in a nested one, while there is no space. 3.5 does not see those puts and takes them; 3.6.14 and 3.7 refuse
  (etcd #22139). The nested transactions are left out.

And against 3.5.1 (its name comes first), for bugs that 3.5.30 has not, these watches, they and all that follows on their stream:

- From a negative revision. 3.5.1 makes such a watch; later ones refuse it, so that the next watch gets another id. It begins now.
- From a revision that was compacted. 3.5.1 has lost a deletion at exactly that revision (etcd #19179). It begins one later.
- With the id -1, which 3.5.1 also gives to a watch that it refuses: then the first one hears nothing more (etcd #14563). It gets any id.

What the tester remembers of a watch, to judge the order of its events, is forgotten when the stream makes a new watch with that id. An
id is free again once its watch is cancelled, and the new watch begins wherever it is told to, so it may well repeat older revisions.

    python against-3.5.py REFERENCE FOLDER_OF_THE_TESTER [what difftest.py takes]
"""
import sys

IS_3_5_1 = sys.argv.pop(1) == "etcd-3.5.1"
sys.path.insert(0, sys.argv.pop(1))
import difftest, gen


class Gen(gen.Gen):
    def __init__(self, *args):
        super().__init__(*args)
        self.compactions = {0}  # every episode begins with one

    def next(self):
        ops = super().next()
        # An alarm is raised and taken back within one list.
        is_full = any(op["op"] == "alarm" and op["m"].get("action") == 1 for op in ops)
        for op in ops:
            if op["op"] == "txn" and is_full:
                for branch in ("success", "failure"):
                    if branch in op["m"]:
                        op["m"][branch] = [o for o in op["m"][branch] if "request_txn" not in o]
            elif op["op"] == "compact":
                revision = op["m"].get("revision")
                if isinstance(revision, dict):
                    self.compactions.add(revision["rel"])
            elif op["op"] == "watch_open" and IS_3_5_1:
                self.mend(op["m"])
        return ops

    def mend(self, watch):
        if watch.get("watch_id") == -1:
            del watch["watch_id"]
        start = watch.get("start_revision", 0)
        if isinstance(start, int):
            watch["start_revision"] = max(start, 0)
        else:
            while start["rel"] in self.compactions:
                start["rel"] += 1


class WStream(difftest.WStream):
    def on(self, answer):
        if answer.get("created") and not answer.get("canceled"):
            with self.lock:
                self.last.pop(answer.get("watch_id", 0), None)
                self.frag.pop(answer.get("watch_id", 0), None)
        super().on(answer)


gen.Gen = Gen
difftest.WStream = WStream
sys.exit(difftest.main())
