#!/usr/bin/env bash
# Taps that nobody uses cost nothing: the instructions of a generation's steps, counted by
# callgrind, are as many as in the same program without taps, to 0.1 %. Exit status 77 without
# valgrind.
#
#   tests/faults/taps_cost.sh PHALANX PHALANX_WITHOUT_TAPS
set -euo pipefail

command -v valgrind >/dev/null || { echo "skipped: valgrind is not installed"; exit 77; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

count() # PROGRAM: instructions within phx_engine_step(), prompt and 24 tokens
{
    PHX_CPU_ISA=avx2 valgrind --tool=callgrind --collect-atstart=no \
        --toggle-collect=phx_engine_step --callgrind-out-file="$out/counts" \
        "$1" generate -p ROMEO: -s 7 -n 24 -t 1 >"$out/text" 2>"$out/errors" ||
        { cat "$out/errors" >&2; return 1; }
    awk '/^totals:/ {print $2}' "$out/counts"
}

with=$(count "$1")
cp "$out/text" "$out/first"
without=$(count "$2")
cmp "$out/first" "$out/text"
awk -v with="$with" -v without="$without" 'BEGIN {
    part = with / without - 1
    printf "instructions in steps: %d with taps, %d without, %+.4f %%\n", with, without, 100 * part
    exit !(without > 1e6 && part < 1e-3)}'
