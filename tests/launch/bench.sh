#!/usr/bin/env bash
# `phalanx bench` as a user meets it: its four forms, its rows under mpirun, what it refuses.
#   bench.sh PHALANX CHECK_ROWS cpu|cuda MPIRUN...
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
phalanx=$1 check_rows=$2 device=(--device "$3")
if [ "$3" = cuda ]; then
    "$phalanx" --version | grep -q '^devices:.*, cuda' || { echo "no GPU here"; exit 77; }
    [ "$(nvidia-smi --list-gpus | wc -l)" -ge 2 ] || device+=(--share-gpu)
fi
shift 3
mpirun=("$@")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@" >"$tmp/check" 2>&1; then
        echo "ok: $name"
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        tail -n 5 "$tmp/check" "$tmp/out" "$tmp/err" | cut -c1-300
    fi
}

bench() { # RANKS ARGS...
    local ranks=$1
    shift
    timeout 100 "${mpirun[@]}" -np "$ranks" "$phalanx" bench "${device[@]}" -m "$root/models/demo" \
        "$@" >"$tmp/out" 2>"$tmp/err"
}

# 1 + 1 + 1 tests for each of 2 depths and 2 batches.
lists=(-p 40 -n 6 -pg 16,4 -d 0,70 --batch 1,3 -r 2 -t 1)

bench 1 "${lists[@]}" -o json
check "json: a list of rows" "$check_rows" 12 1 "$tmp/out"
bench 2 "${lists[@]}" -o jsonl
check "jsonl of two ranks: a row a line" "$check_rows" 12 2 "$tmp/out"
bench 2 "${lists[@]}" -o jsonl --fill noise --breakdown -ub 16
check "a breakdown, noise for keys, prompts in pieces" "$check_rows" 12 2 "$tmp/out"
bench 1 "${lists[@]}" -o csv
check "csv: a head and rows of as many columns" awk -F'","|",|,"|,' '
    { n = gsub(/,/, ",") } NR == 1 { head = n } END { exit !(NR == 13) }' "$tmp/out"
check "csv: the head names the columns" grep -q '^build_commit,cpu_info,.*,avg_ts,' "$tmp/out"
bench 1 "${lists[@]}" -o md
check "md: a table" awk -F'|' 'NF != 17 { bad = 1 } END { exit bad || NR != 14 }' "$tmp/out"
check "md: depths are named" grep -q 'pp16+tg4 @ d70' "$tmp/out"

# In float32 on the CPU the same tokens.
hashes() { sed 's/.*"token_hash":"\([0-9a-f]*\)".*/\1/' "$tmp/out"; }
if [ "${device[1]}" = cpu ]; then
    bench 1 "${lists[@]}" -o jsonl -t 2 # each test with 1 thread, then with 2
    hashes | sed -n 1,12p >"$tmp/hash.one"
    hashes | sed -n 13,24p >"$tmp/hash.two"
    check "tokens do not depend on threads" cmp "$tmp/hash.one" "$tmp/hash.two"
    bench 2 "${lists[@]}" -o jsonl
    hashes >"$tmp/hash.two"
    bench 1 "${lists[@]}" -o jsonl -ub 32
    hashes >"$tmp/hash.one"
    check "tokens do not depend on ranks and pieces" cmp "$tmp/hash.one" "$tmp/hash.two"
    for ranks in 1 2; do
        bench "$ranks" --test 0,6,100,3 --test 5,4,200,1 -r 1 -t 1 -o jsonl --fill noise
        hashes >"$tmp/hash.$ranks"
    done
    check "nor do they with made-up keys" cmp "$tmp/hash.1" "$tmp/hash.2"
fi

bench 1 --test 0,4,70,3 --test 8,0,0,1 -d 5 -r 1 -o jsonl
check "tests one by one" "$check_rows" 2 1 "$tmp/out"
bench 1 --test 0,4,70,3 -p 8 -r 1 -o jsonl
check "and beside the lists" "$check_rows" 3 1 "$tmp/out"
bench 1 -p 0 -n 0 && echo "exit status 0" >>"$tmp/err"
check "nothing to measure" grep -q 'nothing to measure: give -p, -n or -pg' "$tmp/err"
bench 1 -n 8 -p 0 -d 5000,0 -r 1 -o jsonl && echo "exit status 0" >>"$tmp/err"
check "a test that does not fit" \
    grep -q 'tg8 @ d5000 of 1 sequences takes 5010 positions' "$tmp/err"
check "the others are run" "$check_rows" 1 1 "$tmp/out"

[ "$failed" -eq 0 ] || exit 1
