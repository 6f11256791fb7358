#!/usr/bin/env bash
# Plants known defects, one after the other, in the code that the simulator runs, and fails unless it notices each of them.
# With names, only these. The defects: crates/storage/src/planted.rs.
set -euo pipefail
cd "$(dirname "$0")/.."

# A wrapper instead of RUSTFLAGS: dependencies stay as they are built, and other builds of the workspace stay beside this one.
RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/rustc-planted.sh" cargo test --quiet --locked -p sim --test planted_defects -- "$@"
