#!/bin/sh
# Runs a program of this folder in a guest, with our programs and the test library where it looks for them.
export WEFT_BIN=/host/bin PYTHONPATH=/host/tests:/host/tests/guest PYTHONDONTWRITEBYTECODE=1 RUST_BACKTRACE=1
name=$1
shift
exec python3 -u "/host/tests/guest/$name" "$@"
