#!/usr/bin/env bash
# bench/gpu.sh where there is no GPU: its commands, its rows, its table, and what it leaves out.
#   bench_gpu.sh BUILD_FOLDER
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$1
. "$root/tests/support/check.sh"
command -v python3 >/dev/null || { echo "no python3 here"; exit 77; }
# Where torch is, this test does without it: what runs there is of this project all the same.
printf '#!/bin/sh\n[ "$2" != "import torch" ] && exec python3 "$@"\n' >"$tmp/python"
chmod +x "$tmp/python"

gpu() { # WORDS...
    PYTHON=$tmp/python timeout 300 "$root/bench/gpu.sh" -d cpu -b "$build" -r 1 -o "$tmp/gpu" \
        "$@" >"$tmp/out" 2>&1
}
row() { # TEXT OF A ROW'S BEGINNING, REST: of the table of aims
    grep -q "^| $1.* | $2" "$tmp/gpu.md"
}

check "some sets" gpu -s decode,prefill
check "torch is left out, and told" grep -q '^no torch here: left out' "$tmp/out"
check "a ratio of two numbers of ranks" row 'T = 2 over T = 1' '[0-9.]* | [^ ]* | 1 |'
check "of the peak" row 'prefill 8k of 8B, T = 1' '[0-9.]* | [^ ]* | 1 |'
check "what was not measured" row 'load of a 16 GB checkpoint' '-, - | not measured |'
check "where a step goes" grep -q '^| 1 | 8B | 2 | 1 | tg64 @ d16 | [0-9.]* | ' "$tmp/gpu.md"
check "another run adds to the first" gpu -s load
check "its figures" row 'load of a 16 GB checkpoint' '[0-9.e+]*, [0-9.e+]* | [^ ]* | 2 |'
check "and those of before" row 'T = 2 over T = 1' '[0-9.]* | [^ ]* | 1 |'
lines=$(wc -l <"$tmp/gpu.jsonl")
check "no time: nothing is begun" gpu -s decode,load -l 1
check "and that is told" grep -q '^left out, for want of time (. of 25 s): decode: model 0.5B' \
    "$tmp/out"
check "nothing but the run's head is new" test "$(wc -l <"$tmp/gpu.jsonl")" -eq $((lines + 1))
[ "$failed" -eq 0 ] || exit 1
