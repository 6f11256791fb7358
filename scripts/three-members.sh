#!/usr/bin/env bash
# Three members on this machine, to try a cluster: they serve clients on 127.0.0.1:2379, :22379 and :32379 until Ctrl-C.
#
#   scripts/three-members.sh [folder]
#
# Data and logs go to the folder (default: target/three-members) and stay there; the next call goes on with them.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-target/three-members}
quorate=${QUORATE_BIN:-target/release/quorate}
[[ -n ${QUORATE_BIN:-} ]] || cargo build --release --locked -p quorate
mkdir -p "$folder"

names=(alpha beta gamma)
clients=(2379 22379 32379)
peers=(2380 22380 32380)
initial=
for i in 0 1 2; do
  initial+="${initial:+,}${names[i]}=http://127.0.0.1:${peers[i]}"
done

pids=()
stop() {
  trap - INT TERM EXIT
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
}
trap stop INT TERM EXIT

for i in 0 1 2; do
  "$quorate" --name "${names[i]}" --data-dir "$folder/${names[i]}" \
    --listen-client-urls "http://127.0.0.1:${clients[i]}" --advertise-client-urls "http://127.0.0.1:${clients[i]}" \
    --listen-peer-urls "http://127.0.0.1:${peers[i]}" --initial-advertise-peer-urls "http://127.0.0.1:${peers[i]}" \
    --initial-cluster "$initial" --initial-cluster-token try-quorate \
    >>"$folder/${names[i]}.log" 2>&1 &
  pids+=($!)
  echo "${names[i]}: pid $!, clients on 127.0.0.1:${clients[i]}, log in $folder/${names[i]}.log"
done

endpoints=127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379
echo
echo "  export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$endpoints"
echo "  etcdctl endpoint status -w table    # who leads"
echo "  kill -9 PID                         # and see that the other two go on"
echo
echo "Ctrl-C stops all three."
# A member that ends, or is killed to see what happens, leaves the others alone.
wait
