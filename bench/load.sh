#!/usr/bin/env bash
# A second load, out of the page cache, beside plain copies by as many threads: a Llama-3.2-1B shape
# in bf16 (2.5 GB) and in Q8_0, one rank with all cores, two ranks with half each, interleaved.
# Writes bench/results/cpu-load.jsonl. Needs 4 GB of disk and 8 GB of memory.
#   bench/load.sh [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3}
build=${BUILD:-build/release}
out=bench/results/cpu-load.jsonl
cores=$(nproc)
commit=$(git describe --always --dirty) # before the result file changes
if [ ! -x "$build/bench/bench_load" ]; then
    echo "$build/bench/bench_load is missing; build it first, see CONTRIBUTING.md" >&2
    exit 1
fi
mpirun=(mpirun --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none)
[ "$(id -u)" -eq 0 ] && mpirun+=(--allow-run-as-root)
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
bench/write_checkpoint.py tests/data/dummy/llama-3.2-1b "$models/1b" >&2
"$build/launch/phalanx" convert -m "$models/1b" -o "$models/1b-q8_0.gguf" --type q8_0 >&2
{
    printf '{"machine": "%s, %s processors", "date": "%s", "commit": "%s", "command": "%s", %s}\n' \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$cores" "$(date -u +%F)" \
        "$commit" "bench/load.sh $rounds" "\"load_average\": \"$(cut -d' ' -f1-3 /proc/loadavg)\""
    for _ in $(seq "$rounds"); do
        for model in 1b 1b-q8_0.gguf; do
            "${mpirun[@]}" -np 1 "$build/bench/bench_load" -m "$models/$model" -t "$cores"
            "${mpirun[@]}" -np 2 "$build/bench/bench_load" -m "$models/$model" -t "$((cores / 2))"
        done
    done
    "${mpirun[@]}" -np 2 "$build/bench/bench_load" -m "$models/1b" -t "$((cores / 2))" \
        --load-mode read
} | tee "$out"
