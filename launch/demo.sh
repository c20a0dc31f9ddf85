#!/usr/bin/env bash
# From a fresh Debian or Ubuntu to text out of several ranks: packages, build, run.
#
#   launch/demo.sh                         two ranks, the embedded model, a prompt of its own
#   launch/demo.sh -p "JULIET:" -n 80      arguments go to `phalanx generate`
#   NP=4 launch/demo.sh                    four ranks
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

here=$PWD
np=${NP:-2}
[[ $np =~ ^[1-9][0-9]*$ ]] || phx_die "NP=$np: must be a number of ranks, like NP=2"

# Where there is no GPU, kernels for one would be most of the build.
[[ -e /dev/nvidiactl || -e /dev/dxg ]] || phx_cmake_options=(-DPHX_CUDA=OFF)

phx_install "${phx_build_needs[@]}"
phx_build release phalanx
cd "$here" # paths among the arguments are the caller's

command=(mpirun -np "$np" --bind-to none)
# mpirun counts cores; the smallest of what there is.
cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
((cores > 0 && cores < $(nproc))) || cores=$(nproc)
((np <= cores)) || command+=(--oversubscribe)
((EUID != 0)) || command+=(--allow-run-as-root)
# In a container ranks may not read each other's memory directly; Open MPI would say so each time.
if [[ -e /.dockerenv || -e /run/.containerenv ]]; then
    command+=(--mca btl_vader_single_copy_mechanism none)
fi
command+=("$(realpath --relative-to=. "$phx_root/build/release/launch/phalanx")" generate)

has_prompt=false
for argument in "$@"; do
    case ${argument%%=*} in
    -p | --prompt | -f | --file | --prompts | --prompt-ids | -h | --help) has_prompt=true ;;
    esac
done
$has_prompt || command+=(-p "ROMEO:")
command+=("$@")

printf '%q ' "${command[@]}" >&2
printf '\n\n' >&2
exec "${command[@]}"
