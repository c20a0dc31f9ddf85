#!/usr/bin/env bash
# phalanx serve under mpirun for a service manager: SIGTERM (and SIGINT) to this script ends it in
# order, as to rank 0. A second one ends it at once.
#
#   serve.sh RANKS [ARGUMENTS OF phalanx serve ...]
#
# PHALANX names the program (default: the one beside this script's build, or of the PATH), MPIRUN
# the launcher with its options (default: mpirun --bind-to none).
set -euo pipefail

die()
{
    echo "${0##*/}: $*" >&2
    exit 2
}

[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || die "first the number of ranks, like serve.sh 2 -m MODEL"
ranks=$1
shift
[[ " $* " != *" --pid-file"* ]] || die "--pid-file is what this script uses itself"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
phalanx=${PHALANX:-$here/../build/release/launch/phalanx}
[[ -x $phalanx ]] || phalanx=$(command -v phalanx) || die "there is no phalanx: name it in PHALANX"
read -ra mpirun <<<"${MPIRUN:-mpirun --bind-to none}"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
launcher=
n_signals=0

stop()
{
    n_signals=$((n_signals + 1))
    # Before the file is there nothing is under way; a second signal does not wait for it either.
    if ((n_signals == 1)) && [[ -s $scratch/pid ]]; then
        kill -TERM "$(<"$scratch/pid")" 2>/dev/null || true
    else
        kill -TERM "$launcher" 2>/dev/null || true
    fi
}
trap stop TERM INT

"${mpirun[@]}" -np "$ranks" "$phalanx" serve "$@" --pid-file "$scratch/pid" &
launcher=$!
status=0
while kill -0 "$launcher" 2>/dev/null; do
    status=0
    wait "$launcher" || status=$? # a signal ends the wait, not the job
done
exit "$status"
