#!/bin/sh
# Called by cargo in the place of rustc for the crates of this workspace, and no others: see planted-defects.sh.
exec "$@" --cfg planted
