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
check "how far predictions were off" grep -q '^- predicted from the fewest ranks: .*%; at worst' \
    "$tmp/made/demo.md"
check "how far parts and step are apart" grep -q '^- broken down: parts and step, each' \
    "$tmp/made/demo.md"
if command -v gnuplot >/dev/null; then
    check "a picture" grep -q '<svg' "$tmp/made/demo.svg"
    check "the same as PNG" test -s "$tmp/made/demo.png"
fi

# Where there is no gnuplot the picture is told of, and made later from the JSON alone, which says
# the same again.
mkdir "$tmp/bin" "$tmp/later"
for folder in ${PATH//:/ }; do
    ln -s "$folder"/* "$tmp/bin" 2>/dev/null
done
rm -f "$tmp/bin/gnuplot"
cp "$tmp/made/demo.json" "$tmp/later"
(PATH=$tmp/bin scale -g "$tmp/later/demo.json")
check "without gnuplot: a sentence" grep -q 'no gnuplot here, so no picture. Where there is one' \
    "$tmp/out"
check "and the table" grep -q '^## tg8 @ d100, batch 1' "$tmp/later/demo.md"
check "and no picture" test ! -e "$tmp/later/demo.svg"
if command -v gnuplot >/dev/null; then
    check "later, from the JSON" scale -g "$tmp/later/demo.json"
    check "the same table" cmp "$tmp/made/demo.md" "$tmp/later/demo.md"
    check "the same picture" cmp "$tmp/made/demo.svg" "$tmp/later/demo.svg"
fi

# Rows made up: what the report makes of them.
row() { # RANKS MS HASH [MS OF PRODUCTS, of a step of 2 ms]
    printf '{"model_filename":"%s","devices":"d","activation":"f32","type_k":"f32",' \
        "$root/models/demo"
    printf '"backends":"CPU","n_batch":64,"n_ubatch":64,"n_prompt":0,"n_gen":8,"n_depth":0,'
    printf '"n_seqs":1,"test":"tg8","tp_size":%s,"n_steps":8,"ms_per_step":%s,' "$1" "$2"
    printf '"avg_ts":600,"spread_ns":800000,"read_gb_per_s":10,"peak_tflop_per_s":1,"sum_rows":1,'
    [ "$1" -eq 1 ] || printf '"sum_us":5,"sum_us_one_row":5,'
    [ -z "${4:-}" ] || printf '"stages_ms_per_step":{"products":%s,"attention":0.1,"sums":0,
        "norms":0.05,"sampling":0.03,"gaps":0.01,"host":0.01},"stages_step_ms":2.0,' "$4"
    printf '"token_hash":"%s"}\n' "$3"
}
report() { "$build/bench/scale_report" "$tmp/rows" >"$tmp/out" 2>&1; }

{ row 1 1.5 00ff && row 2 1.5 00fe; } >"$tmp/rows"
report
check "wrong tokens: exit status 1" test $? -eq 1
check "wrong tokens: a sentence" grep -q 'tg8 of 2 ranks drew other tokens' "$tmp/out"
check "wrong tokens: no row" grep -q 'no other number was measured' "$tmp/out"

while read -r ms verdict; do
    { row 1 2.0 00ff && row 2 "$ms" 00ff; } >"$tmp/rows"
    report
    check "2.0 ms on one rank, $ms on two: $verdict" grep -q \
        "^- tg8, batch 1: 2.000 ms a step on 1 rank, the fewest here; $verdict, sums" "$tmp/out"
done <<'END'
3.0 2 ranks do not pay: they are slower (0.67x)
2.05 2 ranks make no difference beyond the spread (0.98x)
1.95 2 ranks make no difference beyond the spread (1.03x)
1.8 2 ranks hardly pay: 1.11x
1.1 2 ranks: 1.82x
END

# Two rounds each: of the two pairs one is further apart than 0.1 ms, which both printed.
{ row 1 2.0 00ff 1.8 && row 2 1.0 00ff && row 1 2.05 00ff && row 2 1.15 00ff; } >"$tmp/rows"
report
check "rounds that differ by more than their spread" \
    grep -q 'of 2 pairs of rounds 1 (50 %) differ by less' "$tmp/out"
check "parts that make the step" \
    grep -q 'differ by up to 0.0 % of the step, within 3 %' "$tmp/out"
check "a prediction that holds" grep -q 'tg8, batch 1 on 2 ranks .*, within 15 %' "$tmp/out"
{ row 1 2.0 00ff 1.7 && row 2 0.8 00ff; } >"$tmp/rows"
report
check "parts that do not" grep -q 'differ by up to 5.0 % of the step, more than 3 %' "$tmp/out"
check "nor does the table hide it" grep -q '| 1.900 | -5.0 %, too much |' "$tmp/out"
check "a prediction that does not hold" grep -q 'at worst [0-9.]* %, more than 15 %' "$tmp/out"

scale -o "$tmp/none"
check "no model" grep -q 'give a model with -m' "$tmp/out"
scale -m "$tmp" -o "$tmp/none"
check "not a model" grep -q 'has no config.json' "$tmp/out"
[ "$failed" -eq 0 ] || exit 1
