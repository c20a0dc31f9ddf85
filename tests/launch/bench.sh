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
. "$root/tests/support/check.sh"

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
bench 2 -p 40 -n 6 -pg 16,4 -d 70 --batch 1,3 -r 2 -t 1 -o jsonl --fill noise --breakdown -ub 16
check "a breakdown, noise for keys, prompts in pieces" "$check_rows" 6 2 "$tmp/out"

# The schema is one that rows can miss.
cp "$tmp/out" "$tmp/good"
while IFS='|' read -r name edit; do
    sed "$edit" "$tmp/good" >"$tmp/bad"
    check "a bad row is seen: $name" fails "$check_rows" 6 2 "$tmp/bad"
done <<'END'
a field is missing|3s/"n_ubatch":[0-9]*,//
a field that nobody knows|3s/"n_ubatch"/"n_ubatches":1,&/
a text for a number|3s/"n_gen":\([0-9]*\)/"n_gen":"\1"/
a mean that is none|3s/"avg_ns":/&1/
a step of another length|3s/"ms_per_step":/&1/
stages that are more than they say|3s/"products":/&1/
a stage is missing|3s/"norms":[-.0-9e]*,//
another number of ranks|3s/"tp_size":2/"tp_size":3/
no hash|3s/"token_hash":"[^"]*"/"token_hash":""/
a row is missing|3d
END

# The stages add up to the step, measured by itself: none that matters is left out. How well they do
# is for bench/scale.sh to say, which is run on a machine that nobody else uses.
if [ "${device[1]}" = cpu ] && [ "${PHX_TEST_SLOW:-1}" -eq 1 ]; then
    mkdir "$tmp/small"
    sed 's/128256/8192/; s/12800[01]/1/' "$root/tests/data/dummy/llama-1b-2layers/config.json" \
        >"$tmp/small/config.json"
    for _ in 1 2 3; do # a step may be of any length where others compute too
        timeout 100 "${mpirun[@]}" -np 1 "$phalanx" bench "${device[@]}" -m "$tmp/small" -r 10 \
            --load-format dummy --test 0,24,64,1 --breakdown -o jsonl >"$tmp/out" 2>"$tmp/err"
        ! "$check_rows" 1 1 "$tmp/out" 0.25 >"$tmp/judged" 2>&1 || break
    done
    check "stages add up to the step" "$check_rows" 1 1 "$tmp/out" 0.25
    sed 's/"spread_ns":[0-9]*/"spread_ns":0/; s/"stages_step_ms":/&1/' "$tmp/out" >"$tmp/bad"
    check "what does not add up is seen" fails "$check_rows" 1 1 "$tmp/bad" 0.25
fi

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
