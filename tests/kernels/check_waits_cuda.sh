#!/usr/bin/env bash
# Every kernel waits for its predecessor (kernels/cuda/launch.cuh), read from the compiled code: in
# each kernel for sm_90 or later, the wait comes before the first access to memory, before the first
# way out, and no branch goes round it. Products (gemv.cu) may read their weight before: no other
# load of theirs is a streamed one. And no load goes through the cache for constants.
# Exit status 77 without such kernels or without cuobjdump: skipped.
#
#   tests/kernels/check_waits_cuda.sh CUOBJDUMP FILE    an object, a library or a program
set -euo pipefail

cuobjdump=$1 file=$2
if ! command -v "$cuobjdump" >/dev/null; then
    echo "skipped: cuobjdump is missing"
    exit 77
fi

"$cuobjdump" -sass "$file" | awk '
function offence(text) { print kernel " (" arch "): " text; found = 1 }
function number(hex,    n) {
    for (n = 0; hex != ""; hex = substr(hex, 2))
        n = 16 * n + index("123456789abcdef", substr(hex, 1, 1))
    return n
}
function finish() { if (kernel != "" && !waited) offence("never waits") }

/^arch = sm_/ { finish(); kernel = ""; arch = $3 }
/Function :/ {
    finish()
    kernel = substr(arch, 4) + 0 >= 90 ? $3 : ""
    waited = 0; furthest = 0
    n_kernels += (kernel != "")
}
kernel == "" { next }
match($0, /\/\*[0-9a-f]+\*\/ /) {
    address = number(substr($0, RSTART + 2, RLENGTH - 5))
    code = substr($0, RSTART + RLENGTH)
    sub(/^[ \t]+/, "", code)
    sub(/ *;.*/, "", code)
    sub(/^@!?U?P[0-9T]+ +/, "", code)
    if (code ~ /^LDG.*CONSTANT/ && kernel !~ /rope_table/) # sincosf has a table of its own
        offence("reads through the cache for constants: " code)
    if (waited) next
    if (code ~ /^ACQBULK/) {
        waited = 1
        if (furthest > address) offence("a branch goes round the wait")
    } else if (code ~ /^LDG\.E\.EF\./ && kernel ~ /4gemvI/) {
        next
    } else if (code ~ /^(LD|ST|LDG|STG|LDGSTS|ATOM|ATOMG|RED|REDG|UBLKCP|UTMA[A-Z]*)[ .]/) {
        offence("before its wait: " code)
        waited = 1
    } else if (code ~ /^(EXIT|RET)/) {
        offence("may end without waiting")
        waited = 1
    } else if (match(code, /^(BRA|BRX|JMP|CALL|BSSY)[^;]* 0x[0-9a-f]+/)) {
        target = substr(code, RSTART, RLENGTH)
        sub(/.* 0x/, "", target)
        if (number(target) > furthest) furthest = number(target)
    }
}
END {
    finish()
    if (n_kernels == 0) print "skipped: no kernels for sm_90 or later"
    else print n_kernels " kernels for sm_90 or later"
    exit n_kernels == 0 ? 77 : found
}'
