#!/usr/bin/env bash
# Where ranks go on the GPUs of this machine, in the program as people start it: under mpirun, as
# srun starts tasks with a GPU each, and wrongly. Exit status 77 without a GPU: skipped.
#   gpus.sh PHALANX MPIRUN...
#   gpus.sh --pretended PHALANX MPIRUN...     with pretended_gpus.c, up to where it computes
set -u
pretended=false
if [ "$1" = --pretended ]; then
    pretended=true
    shift
    data=$(cd "$(dirname "$0")/../data" && pwd)
    export HWLOC_XMLFILE=$data/topology/four-nodes.xml
fi
phalanx=$1
shift
mpirun=("$@")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0
failed=0

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$1"
    tail -q -n 5 "$tmp/out" "$tmp/err" | cut -c1-400 | sed 's/^/    /'
}

# What ranks see, under srun and under mistakes: programs to put before the program.
cat >"$tmp/own" <<'END'
#!/bin/sh
CUDA_VISIBLE_DEVICES=$OMPI_COMM_WORLD_LOCAL_RANK exec "$@"
END
cat >"$tmp/same" <<'END'
#!/bin/sh
CUDA_VISIBLE_DEVICES=0 exec "$@"
END
cat >"$tmp/first" <<'END'
#!/bin/sh
[ "$OMPI_COMM_WORLD_LOCAL_RANK" = 0 ] || export CUDA_VISIBLE_DEVICES=
exec "$@"
END
chmod +x "$tmp/own" "$tmp/same" "$tmp/first"

# run RANKS VIEW ARGS...: VIEW is all, own, same or first.
run() {
    local ranks=$1 program=("$phalanx")
    [ "$2" = all ] || program=("$tmp/$2" "$phalanx")
    shift 2
    timeout 120 "${mpirun[@]}" -np "$ranks" "${program[@]}" "$@" >"$tmp/out" 2>"$tmp/err"
}

# seats: "ORDINAL UUID" of each rank, after a topology --json
seats() {
    grep -o '"gpu":[0-9]*,"uuid":"[^"]*"' "$tmp/out" | sed 's/"gpu":\(.*\),"uuid":"\(.*\)"/\1 \2/'
}
# different FIELD N: so many values of the ordinals (1) or the UUIDs (2)
different() { [ "$(seats | cut -d' ' -f"$1" | sort -u | wc -l)" -eq "$2" ]; }

# refuses NAME RANKS VIEW SENTENCE: told once, by the program itself.
refuses() {
    if run "$2" "$3" generate --temp 0 -n 3 -p x; then
        fail "$1: not refused"
    elif [ "$(grep '^phalanx' "$tmp/err" | grep -cF -- "$4")" -ne 1 ]; then
        fail "$1: \"$4\" is not told once"
    else
        pass
    fi
}

# continues NAME RANKS VIEW ARGS...: the text that is known.
speech="First Citizen:
Before we proceed any further, hear me speak."
continues() {
    local name=$1 ranks=$2 view=$3
    shift 3
    if "$pretended"; then return; fi
    if run "$ranks" "$view" generate --dtype float32 --temp 0 -n 20 --no-bos -p "$speech" "$@" &&
        grep -q "Takes it to torture" "$tmp/out"; then
        pass
    else
        fail "$name"
    fi
}

if ! run 1 all topology --device cuda; then
    cat "$tmp/err"
    exit 77
fi
cat "$tmp/out"
run 1 all topology --json
n_gpus=$(grep -o '"visible_gpus":[0-9]*' "$tmp/out" | cut -d: -f2)

if [ "$(seats | wc -l)" -eq 1 ] && seats | grep -qE '^0 GPU(-[0-9a-f]+){5}$'; then
    pass
else
    fail "one rank: GPU 0 with a UUID"
fi
if ! "$pretended" && command -v nvidia-smi >/dev/null; then
    if nvidia-smi -L | grep -qF "$(seats | cut -d' ' -f2)"; then
        pass
    else
        fail "nvidia-smi knows another UUID"
    fi
fi
if [ "$n_gpus" -gt 1 ]; then
    run 2 all topology && cat "$tmp/out"
    run 2 all topology --json
    if different 1 2 && different 2 2 && grep -q '"problems":\[\]' "$tmp/out"; then
        pass
    else
        fail "two ranks that see all: ordinals or UUIDs are the same, or something is wrong"
    fi
    run 2 own topology --json
    if different 1 1 && different 2 2 && grep -q '"problems":\[\]' "$tmp/out"; then
        pass
    else
        fail "two ranks that see one each: both are number 0, UUIDs differ"
    fi
    continues "two ranks that see all" 2 all
    continues "two ranks that see one each" 2 own
fi

refuses "two ranks on one GPU" 2 same "ranks 0 and 1 have come to the same GPU"
refuses "more ranks than GPUs" $((n_gpus + 1)) all "have come to the same GPU"
refuses "a rank without a GPU" 2 first "but rank 0 computes on a GPU"
if run 2 same topology &&
    grep -q 'ranks 0-1: ranks 0 and 1 have come to the same GPU' "$tmp/out"; then
    pass
else
    fail "topology of two ranks on one GPU"
fi
if "$pretended"; then
    run 3 all topology && sed "s/^$(hostname)/HOST/; /^NCCL/d" "$tmp/out" >"$tmp/got"
    run 3 own topology && sed "s/$(hostname)/HOST/; /^NCCL/d" "$tmp/out" >>"$tmp/got"
    cat >"$tmp/expected" <<'END'
HOST: 8 cores on 4 NUMA nodes, 16 processors
  GPU           PCI id        NUMA     memory  name
  GPU-000000a0  0000:1B:00.0     0   80.0 GiB  Pretended GPU
  GPU-000000a1  0000:C3:00.0     3   80.0 GiB  Pretended GPU
  GPU-000000a2  0000:F1:00.0     -   80.0 GiB  Pretended GPU
  GPU-000000a0 - GPU-000000a1: direct access, native atomics (as over NVLink), performance rank 0
  GPU-000000a0 - GPU-000000a2: no direct access: data passes through the host
  GPU-000000a1 - GPU-000000a2: direct access, no native atomics (as over PCIe), performance rank 1
  rank  local  computes on          threads  NUMA  processors
     0      0  GPU 0 GPU-000000a0         -     0  0-3
     1      1  GPU 1 GPU-000000a1         -     3  12-15
     2      2  GPU 2 GPU-000000a2         -     -  0-15
nothing wrong is seen
HOST: 8 cores on 4 NUMA nodes, 16 processors
  GPU           PCI id        NUMA     memory  name
  GPU-000000a0  0000:1B:00.0     0   80.0 GiB  Pretended GPU
  GPU-000000a1  0000:C3:00.0     3   80.0 GiB  Pretended GPU
  GPU-000000a2  0000:F1:00.0     -   80.0 GiB  Pretended GPU
  between any two: not known, since no rank sees both
  rank  local  computes on          threads  NUMA  processors
     0      0  GPU 0 GPU-000000a0         -     0  0-3
     1      1  GPU 0 GPU-000000a1         -     3  12-15
     2      2  GPU 0 GPU-000000a2         -     -  0-15
nothing wrong is seen
END
    if cmp -s "$tmp/got" "$tmp/expected"; then
        pass
    else
        fail "what topology prints"
        diff "$tmp/expected" "$tmp/got"
    fi
fi
for ranks in 2 3 4; do
    continues "$ranks ranks share one GPU" "$ranks" same --share-gpu
    continues "$ranks ranks share what there is" "$ranks" all --share-gpu
done

printf '%d GPUs: %d passed, %d failed\n' "$n_gpus" "$passed" "$failed"
[ "$failed" -eq 0 ]
