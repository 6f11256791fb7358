"""The differential tester against etcd 3.5.1, without the watches that a bug of 3.5.1 makes incomparable, they and all that follows on
their stream:

- From a negative revision. 3.5.1 makes such a watch; later ones refuse it, so that the next watch gets another id. It begins now.
- From a revision that was compacted. 3.5.1 has lost a deletion at exactly that revision (etcd #19179). It begins one later.
- With the id -1, which 3.5.1 also gives to a watch that it refuses: then the first one hears nothing more (etcd #14563). It gets any id.

    python against-3.5.1.py FOLDER_OF_THE_TESTER [what difftest.py takes]
"""
import sys

sys.path.insert(0, sys.argv.pop(1))
import difftest, gen


class Gen(gen.Gen):
    def __init__(self, *args):
        super().__init__(*args)
        self.compactions = {0}  # every episode begins with one

    def next(self):
        ops = super().next()
        for op in ops:
            if op["op"] == "compact":
                revision = op["m"].get("revision")
                if isinstance(revision, dict):
                    self.compactions.add(revision["rel"])
            elif op["op"] == "watch_open":
                if op["m"].get("watch_id") == -1:
                    del op["m"]["watch_id"]
                start = op["m"].get("start_revision", 0)
                if isinstance(start, int):
                    op["m"]["start_revision"] = max(start, 0)
                else:
                    while start["rel"] in self.compactions:
                        start["rel"] += 1
        return ops


gen.Gen = Gen
sys.exit(difftest.main())
