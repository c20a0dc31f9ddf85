#!/usr/bin/env bash
# The rooms and their one-way includes, checked by reading the source. What each rule is for stands
# in README.md ("The rooms").
#
#   tests/check_rooms.sh [ROOT]       check the tree at ROOT (default: this one)
#   tests/check_rooms.sh --self-test  plant a violation of every rule in a copy; each must be found
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
declare -A depth=([kernels]=0 [parallel]=1 [runtime]=2 [launch]=3) # includes go down, never up

# headers | the only files that may include them
owned_headers=(
    'mpi\.h                     | ^launch/world_mpi\.'
    'hwloc.*\.h                 | ^launch/topology_hwloc\.'
    'jansson\.h                 | ^(runtime|launch/verbs|launch/server)/'
    'microhttpd\.h              | ^launch/server/'
    'pcre2.*\.h                 | ^runtime/'
    'utf8proc\.h                | ^runtime/'
    'cu(da|blas).*\.h           | ^kernels/cuda/'
    'nccl.*\.h                  | ^parallel/comm_nccl'
    'kernels/backend\.h         | ^kernels/'
    'kernels/cpu/.*\.h          | ^kernels/'
    'kernels/cuda/.*\.h         | ^(kernels/|parallel/comm_nccl)'
    'parallel/comm_impl\.h      | ^parallel/comm'
    'launch/options_table\.h    | ^launch/options'
)

# words | the only files that may use them
owned_words=(
    'getenv|secure_getenv|setenv|environ|argv | ^launch/'
    'MPI_[A-Za-z]+                            | ^launch/world_mpi\.'
    'hwloc_[a-z_]+                            | ^launch/topology_hwloc\.'
    'exit|quick_exit                          | ^launch/main\.c$'
)

# Only parallel/shard_plan.c divides by the number of ranks. A plain `size` is taken for that in
# every room but kernels/, which knows no world. What looks like such a division and is not:
#   launch/placement.c  cores by the ranks of a node
#   launch/report.c     an average over ranks
by_ranks='[/%]=?[[:space:]]*\(?(\([a-z0-9_ ]+\))?[[:space:]]*' # an operator, perhaps a cast
by_ranks+='([A-Za-z_]+(->|\.))*((n_)?ranks?|(world_|node_)size|phx_shard_plan_size'
may_divide='^(parallel/shard_plan\.c|launch/(placement|report)\.c)$'

suspicious="$by_ranks|size)\\b"
for rule in "${owned_words[@]}"; do suspicious+="|\\b(${rule%%[[:space:]]*})\\b"; done

found=0
violation() # FILE:LINE sentence
{
    echo "$1: $2"
    found=1
}

# The code of a file: comments and the insides of strings blanked, lines kept.
code_of()
{
    awk '
    {
        out = ""
        n = length($0)
        for (i = 1; i <= n; i++) {
            c = substr($0, i, 1); two = substr($0, i, 2)
            if (comment) { if (two == "*/") { comment = 0; i++ } continue }
            if (quote != "") {
                if (c == "\\") i++
                else if (c == quote) { quote = ""; out = out c }
                continue
            }
            if (two == "//") break
            if (two == "/*") { comment = 1; i++; continue }
            if (c == "\"" || c == "\047") quote = c
            out = out c
        }
        if (quote != "" && substr($0, n, 1) != "\\") quote = ""
        print out
    }' "$1"
}

check_include() # FILE LINE OPENING HEADER
{
    local file=$1 line=$2 opening=$3 header=$4 rule pattern owner
    local room=${1%%/*} from=${4%%/*}
    if [[ $opening == '"' && ! -e $root/$header ]]; then
        violation "$file:$line" "\"$header\" is not a path from the root of the tree"
    elif [[ $opening == '"' && -n ${depth[$room]-} ]]; then
        if [[ -z ${depth[$from]-} ]]; then
            violation "$file:$line" "$room/ includes $header: nothing includes $from/"
        elif ((depth[$from] > depth[$room])); then
            violation "$file:$line" "$room/ includes $header: never leftwards"
        fi
    fi
    if [[ -z ${depth[$room]-} ]]; then return; fi
    for rule in "${owned_headers[@]}"; do
        read -r pattern _ owner <<<"$rule"
        if [[ $header =~ ^$pattern$ && ! $file =~ $owner ]]; then
            violation "$file:$line" "only files $owner include $header"
        fi
    done
}

check_includes() # FILE
{
    local line text
    local include='^[[:space:]]*#[[:space:]]*include[[:space:]]*(["<])([^">]+)[">]'
    while IFS=: read -r line text; do
        if [[ $text =~ $include ]]; then
            check_include "$1" "$line" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
        fi
    done < <(grep -nE '^[[:space:]]*#[[:space:]]*include' "$root/$1")
}

search_code() # FILE CODE PATTERN sentence: each line that matches is a violation
{
    local line text
    while IFS=: read -r line text; do
        violation "$1:$line" "$4: ${text#"${text%%[![:space:]]*}"}"
    done < <(grep -nE "$3" <<<"$2")
}

check_words() # FILE
{
    local file=$1 code rule words owner
    if ! grep -qE "$suspicious" "$root/$file"; then return; fi # most files: fast
    code=$(code_of "$root/$file")
    for rule in "${owned_words[@]}"; do
        read -r words _ owner <<<"$rule"
        if [[ $file =~ $owner ]]; then continue; fi
        search_code "$file" "$code" "\\b($words)\\b" "only files $owner use this"
    done
    if [[ $file =~ $may_divide ]]; then return; fi
    words="$by_ranks|size)\\b"
    if [[ $file == kernels/* ]]; then words="$by_ranks)\\b"; fi
    search_code "$file" "$code" "$words" "only parallel/shard_plan.c divides by the number of ranks"
}

list_sources() # the files of ROOT
{
    cd "$root"
    find "${!depth[@]}" tests bench -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort
}

check_tree() # ROOT
{
    root=$1
    found=0
    local file n=0
    while IFS= read -r file; do
        check_includes "$file"
        if [[ -n ${depth[${file%%/*}]-} ]]; then check_words "$file"; fi
        n=$((n + 1))
    done < <(list_sources)
    if ((n == 0)); then violation "$root" "no source files here"; fi
    if ((found == 0)); then echo "$n files keep to their rooms"; fi
    return "$found"
}

# FILE, a line to add to it, and what the answer must contain.
plant()
{
    local file=$1 line=$2 expected=$3 answer
    mkdir -p "$(dirname "$copy/$file")"
    if [[ -e $copy/$file ]]; then cp "$copy/$file" "$copy/saved"; fi
    printf '%s\n' "$line" >>"$copy/$file"
    if answer=$(check_tree "$copy"); then
        echo "self-test: not found in $file: $line"
        failed=1
    elif [[ $answer != *"$file:"*"$expected"* ]]; then
        echo "self-test: $file: $line: another answer: $answer"
        failed=1
    fi
    rm "$copy/$file"
    if [[ -e $copy/saved ]]; then mv "$copy/saved" "$copy/$file"; fi
}

keep() # FILE, a line that is fine there
{
    printf '%s\n' "$2" >"$copy/$1"
    if ! check_tree "$copy" >/dev/null; then
        echo "self-test: wrongly found in $1: $2"
        failed=1
    fi
    rm "$copy/$1"
}

self_test()
{
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    failed=0
    mkdir -p "$copy"/{kernels/cpu,parallel,runtime,launch,tests,bench}
    touch "$copy"/{kernels/ops.h,kernels/backend.h,kernels/cpu/pool.h,parallel/comm.h}
    touch "$copy"/{parallel/comm_impl.h,runtime/config.h,launch/options.h,tests/case.h,bench/time.h}
    plant kernels/a.c '#include "parallel/comm.h"' 'never leftwards'
    plant kernels/cpu/a.c '#include "pool.h"' 'not a path from the root'
    plant parallel/a.c '#include "runtime/config.h"' 'never leftwards'
    plant runtime/a.h '  #  include "launch/options.h"' 'never leftwards'
    plant launch/a.c '#include "tests/case.h"' 'nothing includes tests/'
    plant launch/a.c '#include "bench/time.h"' 'nothing includes bench/'
    plant tests/a.c '#include "case.h"' 'not a path from the root'
    plant launch/a.c '#include <mpi.h>' 'world_mpi'
    plant launch/placement.c '#include <hwloc.h>' 'topology_hwloc'
    plant launch/a.c '#include <hwloc/bitmap.h>' 'topology_hwloc'
    plant launch/a.c '#include <jansson.h>' '^(runtime|launch/verbs|launch/server)/'
    plant kernels/a.c '#include <pcre2.h>' '^runtime/'
    plant parallel/a.c '#include <utf8proc.h>' '^runtime/'
    plant runtime/a.c '#include <cuda_runtime.h>' '^kernels/cuda/'
    plant parallel/comm_host.c '#include <nccl.h>' 'comm_nccl'
    plant runtime/a.c '#include "kernels/backend.h"' '^kernels/'
    plant parallel/a.c '#include "kernels/cpu/pool.h"' '^kernels/'
    plant runtime/a.c '#include "parallel/comm_impl.h"' '^parallel/comm'
    plant runtime/a.c 'const char *x = getenv("X");' '^launch/'
    plant kernels/a.c 'int f(int argc, char **argv);' '^launch/'
    plant launch/a.c 'MPI_Init(0, 0);' 'world_mpi'
    plant launch/a.c 'hwloc_bitmap_free(x);' 'topology_hwloc'
    plant launch/run.c '    exit(1);' 'main'
    plant runtime/a.c 'int k = n / world->size;' 'divides by'
    plant runtime/a.c 'int k = n % size;' 'divides by'
    plant parallel/comm_host.c 'n /= (int64_t)comm->world->size;' 'divides by'
    plant runtime/a.c 'int k = n / phx_shard_plan_size(plan);' 'divides by'
    plant kernels/a.c 'int k = n / args->n_ranks;' 'divides by'
    keep kernels/a.c 'int k = n / size;'
    keep parallel/shard_plan.c 'int k = n / size;'
    keep launch/a.c '/* exit(1); MPI_Init; n / size */ int a; // exit(1)'
    keep launch/a.c 'puts("MPI_Init; exit(1); n / size");'
    keep runtime/a.c 'size_t bytes = n / sizeof(float); int exit_code = k / sized;'
    keep tests/a.c '#include "launch/options.h"'
    keep bench/a.c '#include "kernels/cpu/pool.h"'
    if ((failed == 0)); then echo "every planted violation was found"; fi
    return "$failed"
}

if [[ ${1:-} == --self-test ]]; then
    self_test
else
    check_tree "${1:-$here}"
fi
