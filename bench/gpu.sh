#!/usr/bin/env bash
# What the GPU backend reaches, beside PyTorch on the same machine: operations, decoders and whole
# models with made-up weights. One file under bench/results/: a table, then the JSON lines.
#
#   bench/gpu.sh [-b BUILD_FOLDER] [-s SETS] [-r ROUNDS] [-o RESULT_FILE]
#
# SETS: of gemv,gemm,decode,prefill,small (each of ours, then torch's), comm (two GPUs), model,
# decoder, load (a checkpoint of 16 GB, made in TMPDIR, from the page cache); default: all. The
# rounds of model and decoder alternate.
# PHX_COMMIT: what the result calls the commit where git does not know. PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/gpu sets=gemv,gemm,decode,prefill,small,comm,model,decoder,load rounds=2
python=${PYTHON:-python3}
out=bench/results/gpu.md
command="bench/gpu.sh $*"
while getopts b:s:r:o: option; do
    case $option in
        b) build=$OPTARG ;;
        s) sets=$OPTARG ;;
        r) rounds=$OPTARG ;;
        o) out=$OPTARG ;;
        *) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
commit=${PHX_COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
n_gpus=$(nvidia-smi --list-gpus | wc -l)
machine="$n_gpus x $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)"
lines=$(mktemp)
checkpoint=
trap 'rm -rf "$lines" ${checkpoint:+"$checkpoint"}' EXIT
failed=0

wanted() { [[ ",$sets," == *",$1,"* ]]; }

keep() { # COMMAND...: its JSON lines, each of which begins with {; a failure does not end the rest
    echo "$*" >&2
    "$@" | { grep '^{' || true; } | tee -a "$lines" || { echo "failed: $*" >&2; failed=1; }
}

under_mpi() { # T PROGRAM...
    local options=(-np "$1" --bind-to none)
    [ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
    mpirun "${options[@]}" "${@:2}"
}

model() { # SHAPE T CONTEXT MODEL: a token of a text, past a prompt of CONTEXT tokens
    local ids
    ids=$(seq -s, 100 $((99 + $3)))
    under_mpi "$2" "$build/launch/phalanx" generate -m "$4" --load-format dummy --device cuda \
        --prompt-ids "$ids" -n 128 --ignore-eos --temp 0 -c $(($3 + 192)) --json |
        "$python" -c '
import json, sys
for line in sys.stdin:
    t = json.loads(line)["timings"]
    n = t["predicted_n"]
    print(json.dumps({"set": "model", "by": "phalanx", "shape": sys.argv[1], "tp": int(sys.argv[2]),
                      "batch": 1, "context": int(sys.argv[3]), "prompt_ms": t["prompt_ms"],
                      "ms_per_token": t["predicted_ms"] / n}))' "$1" "$2" "$3"
}

models() { # T
    [ "$1" -eq 2 ] || keep model 0.5B 1 128 bench/shapes/qwen2.5-0.5b
    keep model 8B "$1" 128 bench/shapes/llama-3.1-8b
    keep model 8B "$1" 8192 bench/shapes/llama-3.1-8b
    [ "$1" -eq 1 ] || keep model 70B "$1" 128 bench/shapes/llama-3.1-70b
}

decoder() { # T
    if [ "$1" -eq 1 ]; then
        keep "$python" bench/peers/torch_decoder.py
    else
        keep torchrun --nproc-per-node "$1" bench/peers/torch_decoder.py
    fi
}

load() { # T
    under_mpi "$1" "$build/launch/phalanx" generate -m "$checkpoint" --device cuda -v -c 64 -n 1 \
        --prompt-ids 1,2,3 2>&1 >/dev/null |
        sed -nE "s/.* ([0-9.]+) GB\/s read per rank.*/{\"set\": \"load\", \"by\": \"phalanx\", \
\"shape\": \"8B\", \"tp\": $1, \"gb_per_s\": \1}/p"
}

table() { # of the JSON lines
    "$python" -c '
import json, sys
columns = ("set", "by", "shape", "tp", "op", "rows", "batch", "context", "us", "ms_per_token",
           "gb_per_s", "of_read", "tflop_per_s")
print("|", " | ".join(columns), "|")
print("|" + "---|" * len(columns))
for line in open(sys.argv[1]):
    row = json.loads(line)
    if "set" in row:
        cells = [row.get(c, "") for c in columns]
        print("|", " | ".join(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells), "|")
' "$lines"
}

for set in gemv gemm decode prefill small; do
    wanted "$set" || continue
    keep "$build/bench/bench_ops" --device cuda --set "$set" --commit "$commit" --json
    [ "$set" = small ] || keep "$python" bench/peers/torch_ops.py --set "$set"
done
comm=""
if wanted comm && [ "$n_gpus" -ge 2 ]; then
    comm=$(under_mpi 2 "$build/bench/bench_comm_gpu" $((4 << 20))) || failed=1
fi
for _ in $(seq "$rounds"); do
    for ranks in 1 2; do
        [ "$ranks" -le "$n_gpus" ] || continue
        ! wanted model || models "$ranks"
        ! wanted decoder || decoder "$ranks"
    done
done
if wanted load; then
    checkpoint=$(mktemp -d)
    "$python" bench/write_checkpoint.py bench/shapes/llama-3.1-8b "$checkpoint" >&2
    for _ in $(seq "$rounds"); do
        for ranks in 1 2; do
            [ "$ranks" -gt "$n_gpus" ] || keep load "$ranks"
        done
    done
fi
mkdir -p "$(dirname "$out")"
{
    printf '# Measured on a GPU\n\n- machine: %s\n- date: %s\n- commit: %s\n- command: %s\n\n' \
        "$machine" "$(date -u +%F)" "$commit" "$command"
    table
    [ -z "$comm" ] || printf '\n```\n%s\n```\n' "$comm"
    printf '\n```json\n'
    printf '{"machine": "%s", "date": "%s", "commit": "%s", "command": "%s"}\n' \
        "$machine" "$(date -u +%F)" "$commit" "$command"
    cat "$lines"
    printf '```\n'
} >"$out"
echo "$out" >&2
exit "$failed"
