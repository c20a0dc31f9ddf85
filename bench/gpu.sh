#!/usr/bin/env bash
# What the GPU backend reaches, beside PyTorch on the same machine, with made-up weights.
#
#   bench/gpu.sh [-s SETS] [-r ROUNDS] [-l SECONDS] [-b BUILD_FOLDER] [-o PREFIX] [-d cuda|cpu]
#
# Each run adds its rows to PREFIX.jsonl (default: bench/results/gpu) as they come and makes
# PREFIX.md anew of all that lies there: first the table of aims, whose ratios are each of one run.
# So sets can be run one at a time, and what a run that was cut off had measured is kept.
#
# SETS (default: attention,comm,decode,batch,prefill,70B,load), with the seconds of a round, about:
#   attention  one layer's attention, decoding and prompts of the 8B shape, and torch's SDPA   (60)
#   comm       sums between two GPUs, NCCL's and ours                                          (20)
#   decode     8B and 0.5B, batch 1, and a compiled decoder in PyTorch                        (250)
#   batch      8B: 64 sequences, and contexts of 8k and 128k                                  (120)
#   prefill    8B: a prompt of 8192                                                            (60)
#   70B        on two GPUs                                                                     (90)
#   load       a checkpoint of 16 GB, made in TMPDIR first, from the page cache                (60)
#   memory     what driver and NCCL take beside the plan                                       (30)
#   ops        every operation at every shape, and torch's                                    (300)
# What is compared takes turns within a round. Steps are broken down in the first round.
# -l SECONDS  nothing is begun that may not end in time, and what has begun is ended then
# -d cpu      the same commands on the CPU with shapes that it can do: to try this script
# PHX_COMMIT: what the result calls the commit where git does not know. PYTHON: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/gpu sets=attention,comm,decode,batch,prefill,70B,load rounds=2 limit=0 device=cuda
python=${PYTHON:-python3}
out=bench/results/gpu
command="bench/gpu.sh $*"
while getopts b:s:r:o:l:d: option; do
    case $option in
        b) build=$OPTARG ;;
        s) sets=$OPTARG ;;
        r) rounds=$OPTARG ;;
        o) out=$OPTARG ;;
        l) limit=$OPTARG ;;
        d) device=$OPTARG ;;
        *) sed -n '2,25s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
commit=${PHX_COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}
begun=$(date +%s)
failed=0
checkpoint=
trap 'rm -rf ${checkpoint:+"$checkpoint"}' EXIT

if [ "$device" = cuda ]; then
    n_gpus=$(nvidia-smi --list-gpus | wc -l)
    machine="$n_gpus x $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)"
    small=bench/shapes/qwen2.5-0.5b medium=bench/shapes/llama-3.1-8b
    large=bench/shapes/llama-3.1-70b
    words=(-b 8192 -ub 8192) depth=128 deep=8192 deepest=130944 many=64 each=1024 prompt=8192
    attention=(--match "8B T=1 attention B=1 C=") torch=()
    comm=(bench_comm_gpu -b 8K -e 512K)
else
    n_gpus=2 machine="CPU, to try the script"
    small=models/demo medium=models/demo large=models/demo
    words=(-t 1) depth=16 deep=64 deepest=128 many=4 each=32 prompt=64
    attention=(--match "0.5B T=1 attention B=1 C=128")
    torch=(--layers 2 --hidden 64 --ffn 160 --vocab 512 --heads 8 --kv-heads 4 --head-dim 8
        --tokens 4 --blocks 1 --device cpu)
    comm=(bench_comm -b 8K -e 512K)
fi

wanted() { [[ ",$sets," == *",$1,"* ]]; }
left() { echo $((limit > 0 ? limit - $(date +%s) + begun : 100000)); }

has_torch=1
"$python" -c 'import torch' 2>/dev/null || { has_torch=0; echo "no torch here: left out" >&2; }

# keep SECONDS SET COMMAND...: its JSON lines, each of which begins with {; a failure does not end
# the rest, nor does what there is no time for.
keep() {
    if [ "$(left)" -lt "$1" ]; then
        echo "left out, for want of time ($(left) of $1 s): $2: ${*:3}" >&2
        return
    fi
    echo "$(date +%T) $2: ${*:3}" >&2
    within=(timeout -k 5 "$(left)")
    "${@:3}" | { grep '^{' || true; } | sed "s/^{/{\"item\": \"$2\", \"round\": $round, /" |
        cat >>"$out.jsonl" || { echo "failed: ${*:3}" >&2; failed=1; }
}
run() { "${within[@]}" "$@"; }
torch() { # SCRIPT WORDS...
    [ "$has_torch" -eq 0 ] || run "$python" "$@" --device "$device"
}
under_mpi() { # T PROGRAM...
    local options=(-np "$1" --bind-to none --mca btl_vader_single_copy_mechanism none)
    [ "$device" = cuda ] || options+=(--oversubscribe)
    [ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
    run mpirun "${options[@]}" "${@:2}"
}
model() { # NAME T FOLDER WORDS...: rows of phalanx bench
    local more=()
    [ "$round" -gt 1 ] || more=(--breakdown)
    PHX_COMMIT=$commit under_mpi "$2" "$build/launch/phalanx" bench -m "$3" --load-format dummy \
        --device "$device" -o jsonl -r 5 "${words[@]}" "${more[@]}" "${@:4}" |
        sed "s/^{/{\"by\": \"phalanx\", \"shape\": \"$1\", /"
}
ops() { # SET WORDS...
    run "$build/bench/bench_ops" --device "$device" --set "$1" --commit "$commit" --json "${@:2}"
}
decoder() { # T
    [ "$has_torch" -eq 1 ] || return 0
    local start=("$python")
    [ "$1" -eq 1 ] || start=("$python" -m torch.distributed.run --nproc-per-node "$1")
    run "${start[@]}" bench/peers/torch_decoder.py --context "$depth" "${torch[@]}"
}
load() { # T
    PHX_COMMIT=$commit under_mpi "$1" "$build/launch/phalanx" bench -m "$checkpoint" \
        --device "$device" -o jsonl -r 1 --test 0,1,0,1 | sed "s/^{/{\"by\": \"phalanx\", /"
}
memory() { # T
    under_mpi "$1" "$build/bench/bench_memory" -m "$medium"
}
on_each() { # COMMAND... with RANKS in it: for as many ranks as there are GPUs, one and two
    for ranks in 1 2; do
        [ "$ranks" -gt "$n_gpus" ] || "${@//RANKS/$ranks}"
    done
}

measure_ops() {
    for set in gemv gemm decode prefill small; do
        keep 40 ops ops "$set"
        [ "$set" = small ] || keep 40 ops torch bench/peers/torch_ops.py --set "$set"
    done
}
measure_load() {
    if [ -z "$checkpoint" ]; then
        [ "$(left)" -ge 60 ] || return 0
        checkpoint=$(mktemp -d)
        "$python" bench/write_checkpoint.py "$medium" "$checkpoint" >&2
    fi
    on_each keep 15 load load RANKS
}
measure() { # one round
    for set in decode prefill; do
        wanted attention || break
        keep 15 attention ops "$set" "${attention[@]}"
        keep 20 attention torch bench/peers/torch_ops.py --set "$set" "${attention[@]}"
    done
    ! wanted comm || [ "$n_gpus" -lt 2 ] ||
        keep 20 comm under_mpi 2 "$build/bench/${comm[0]}" -j "${comm[@]:1}"
    if wanted decode; then
        keep 25 decode model 0.5B 1 "$small" --test "0,64,$depth,1"
        for ranks in 1 2; do
            [ "$ranks" -le "$n_gpus" ] || continue
            keep 40 decode model 8B "$ranks" "$medium" --test "0,64,$depth,1"
            keep 100 decode decoder "$ranks"
        done
    fi
    ! wanted batch || on_each keep 60 batch model 8B RANKS "$medium" --fill noise \
        --test "0,32,$each,$many" --test "0,32,$deep,1" --test "0,32,$deepest,1"
    ! wanted prefill || on_each keep 30 prefill model 8B RANKS "$medium" --test "$prompt,0,0,1"
    ! wanted 70B || [ "$n_gpus" -lt 2 ] ||
        keep 90 70B model 70B 2 "$large" --test "0,32,$depth,1"
    ! wanted load || measure_load
    ! wanted memory || on_each keep 20 memory memory RANKS
    ! wanted ops || measure_ops
}

mkdir -p "$(dirname "$out")"
printf '{"run": {"machine": "%s", "date": "%s", "commit": "%s", "command": "%s"}}\n' \
    "$machine" "$(date -u +%FT%TZ)" "$commit" "$command" >>"$out.jsonl"
for ((round = 1; round <= rounds; round++)); do
    measure
done
"$python" bench/gpu_report.py "$out.jsonl" >"$out.md" || failed=1
echo "$out.md" >&2
exit "$failed"
