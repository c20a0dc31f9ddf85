#!/usr/bin/env bash
# Every fault of TEST_FORMAT_FAULTS (fault.h) makes a test of GGUF models fail, and without one all
# of them pass.
#
#   formats.sh TEST_GGUF TEST_FIXTURES     both with faults planted in them
set -u
here=$(dirname "$0")

# passes FAULT: the tests pass with it; of the fixtures, those that another program wrote as GGUF.
passes() {
    PHX_FAULT=$1 PHX_TEST='*.gguf' "$fixtures" && PHX_FAULT=$1 PHX_TEST='*_*' "$gguf"
}

gguf=$1 fixtures=$2
if ! passes NONE; then
    echo "the tests fail without a fault"
    exit 1
fi
wrong=0
names='/define TEST_FORMAT_FAULTS/,/^$/s/^    X(\([A-Z_]*\),.*/\1/p'
for fault in $(sed -n "$names" "$here/fault.h"); do
    if passes "$fault" > /dev/null 2>&1; then
        echo "$fault is not found"
        wrong=1
    else
        echo "$fault is found"
    fi
done
exit $wrong
