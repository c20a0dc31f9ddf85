#!/usr/bin/env bash
# bench/scale.sh on the embedded model, from one command to its verdict; and what it refuses.
#   scale.sh BUILD_FOLDER CHECK_ROWS
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$1 check_rows=$2
. "$root/tests/support/check.sh"

scale() { "$root/bench/scale.sh" -b "$build" "$@" >"$tmp/out" 2>&1; }

check "one command" scale -m "$root/models/demo" -T 1,2 -q -a 3,9 -N 2,10,50 -o "$tmp/made/demo" \
    -x "--device cpu"
check "its JSON" "$check_rows" 6 0 "$tmp/made/demo.json"
check "a verdict in words" grep -q '^- tg8 @ d100, batch 1: .* 2 ranks.*predicted: 3 would give' \
    "$tmp/made/demo.md"
check "what is impossible is said" grep -q '9 ranks cannot share 4 KV heads' "$tmp/made/demo.md"
check "several nodes" grep -q '| 2 x 2 |' "$tmp/made/demo.md"
if command -v gnuplot >/dev/null; then
    check "a picture" grep -q '<svg' "$tmp/made/demo.svg"
    check "the same as PNG" test -s "$tmp/made/demo.png"
else
    check "no picture is told" grep -q 'no gnuplot here, so no picture' "$tmp/out"
fi

# A row whose tokens are not those of the other ranks does not count.
row() { # RANKS HASH
    printf '{"model_filename":"%s","devices":"d","activation":"f32","type_k":"f32",' \
        "$root/models/demo"
    printf '"backends":"CPU","n_batch":64,"n_ubatch":64,"n_prompt":0,"n_gen":8,"n_depth":0,'
    printf '"n_seqs":1,"test":"tg8","tp_size":%s,"n_steps":8,"ms_per_step":1.5,' "$1"
    printf '"avg_ts":600,"stddev_ns":8,"token_hash":"%s"}\n' "$2"
}
{ row 1 00ff && row 2 00fe; } >"$tmp/rows"
"$build/bench/scale_report" "$tmp/rows" >"$tmp/out" 2>&1
check "wrong tokens: exit status 1" test $? -eq 1
check "wrong tokens: a sentence" grep -q 'tg8 of 2 ranks drew other tokens' "$tmp/out"
check "wrong tokens: no row" grep -q 'no other number was measured' "$tmp/out"

scale -o "$tmp/none"
check "no model" grep -q 'give a model with -m' "$tmp/out"
scale -m "$tmp" -o "$tmp/none"
check "not a model" grep -q 'has no config.json' "$tmp/out"
[ "$failed" -eq 0 ] || exit 1
