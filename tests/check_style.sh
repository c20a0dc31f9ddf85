#!/usr/bin/env bash
# The look of the source.
#
#   tests/check_style.sh text [ROOT]   widths, lengths, blanks, words that do not belong here
#   tests/check_style.sh format [ROOT] what clang-format would change; exit status 77 (skipped) if
#                                      it is missing or of another major version than 14
#   tests/check_style.sh --self-test   plant each offence of `text` in a copy; it must be found
set -euo pipefail
export LC_ALL=C.UTF-8 # characters, not bytes

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
max_columns=100
max_function=70 # lines between its braces
clang_format_major=14

# Lines of a file. "About 500 a source and 150 a header": these are where about ends.
max_lines_c=550
max_lines_h=200
max_lines_test=750
# A header that is one contract may be longer.
declare -A max_lines=([kernels/ops.h]=390)

# Notes to oneself, and paths of one person's machine.
forbidden='\b(TO''DO|FIX''ME|XX''X|HA''CK)\b|(^|[^[:alnum:]_.])/(home|root|work|Users)/'

found=0
offence() # FILE[:LINE] sentence
{
    echo "$1: $2"
    found=1
}

# PATTERN sentence FILE ...: each line that matches is an offence
search()
{
    local pattern=$1 sentence=$2 file line text
    shift 2
    while IFS=: read -r file line text; do
        offence "$file:$line" "$sentence: ${text:0:80}"
    done < <(cd "$root" && grep -nHE "$pattern" -- "$@")
}

check_lengths() # FILE ...
{
    local file lines limit
    while read -r lines file; do
        case $file in
        total) continue ;;
        tests/*) limit=$max_lines_test ;;
        *_body.h) limit=$max_lines_c ;; # code that sources include
        *.h) limit=$max_lines_h ;;
        *) limit=$max_lines_c ;;
        esac
        limit=${max_lines[$file]-$limit}
        if ((lines > limit)); then offence "$file" "$lines lines, at most $limit"; fi
    done < <(cd "$root" && wc -l -- "$@")
}

check_functions() # FILE ...
{
    local where lines
    while read -r where lines; do
        offence "$where" "a function of $lines lines, at most $max_function"
    done < <(cd "$root" && awk -v most="$max_function" '
        /^\{/ { begin = FNR }
        /^\}/ && begin {
            if (FNR - begin - 1 > most) print FILENAME ":" begin, FNR - begin - 1
            begin = 0
        }' "$@")
}

list_files() # of ROOT that people write
{
    cd "$root"
    find . \( -path './.[!c]*' -o -path ./.cache -o -path ./build -o -path ./models \
        -o -path ./tests/data -o -path '*/corpus' -o -path ./bench/results \) -prune -o -type f \
        \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.sh' -o -name '*.md' \
        -o -name '*.cmake' -o -name CMakeLists.txt -o -path ./.ci/run \) -print |
        sed 's|^\./||' | sort
}

check_all() # ROOT
{
    root=$1
    found=0
    local file files sources code
    mapfile -t files < <(list_files)
    if ((${#files[@]} == 0)); then offence "$root" 'no files here'; fi
    mapfile -t sources < <(list_files | grep -vE '\.(md|cmake)$|CMakeLists.txt$')
    mapfile -t code < <(list_files | grep -E '\.(c|h|cu|cuh)$')
    search '[[:space:]]$' 'blanks at the end' "${files[@]}"
    search $'\r' 'a carriage return' "${files[@]}"
    search "$forbidden" 'does not belong here' "${files[@]}"
    search $'\t' 'a tab' "${sources[@]}"
    search "^.{$((max_columns + 1)),}" "more than $max_columns columns" "${sources[@]}"
    check_lengths "${code[@]}"
    check_functions "${code[@]}"
    for file in "${files[@]}"; do
        if [[ -n $(tail -c 1 "$root/$file") ]]; then offence "$file" 'no newline at its end'; fi
        if [[ $file == */utils.* ]]; then offence "$file" 'say in its name what it does'; fi
    done
    if ((found == 0)); then echo "${#files[@]} files look as they should"; fi
    return "$found"
}

check_format() # ROOT
{
    root=$1
    local program version files
    for program in "clang-format-$clang_format_major" clang-format; do
        if version=$("$program" --version 2>/dev/null | grep -oE '[0-9]+' | head -n 1) &&
            [[ $version == "$clang_format_major" ]]; then
            mapfile -t files < <(list_files | grep -E '\.(c|h|cu|cuh)$')
            cd "$root"
            "$program" --dry-run -Werror "${files[@]}" && echo "${#files[@]} files are formatted"
            return
        fi
    done
    echo "skipped: this needs clang-format $clang_format_major, other versions format differently"
    exit 77
}

plant() # FILE, its text, what the answer must contain
{
    local answer
    mkdir -p "$(dirname "$copy/$1")"
    printf '%b' "$2" >"$copy/$1"
    if answer=$(check_all "$copy"); then
        echo "self-test: not found in $1: $2"
        failed=1
    elif [[ $answer != *"$1"*"$3"* ]]; then
        echo "self-test: $1: another answer: $answer"
        failed=1
    fi
    rm "$copy/$1"
}

self_test()
{
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    failed=0
    local wide long
    wide=$(printf 'x%.0s' {1..101})
    long=$(printf '    a();\\n%.0s' {1..71})
    mkdir -p "$copy/kernels"
    printf 'int fine; /* %s */\n' "$(printf 'ö%.0s' {1..80})" >"$copy/kernels/fine.c"
    if ! check_all "$copy" >/dev/null; then echo 'self-test: found in kernels/fine.c'; failed=1; fi
    plant kernels/a.c "$wide\n" 'columns'
    plant kernels/a.c 'int a; \n' 'blanks at the end'
    plant kernels/a.c 'int a;\r\n' 'carriage return'
    plant kernels/a.c '\tint a;\n' 'a tab'
    plant kernels/a.c 'int a;' 'no newline'
    plant kernels/a.c '/* TO''DO: later */\n' 'does not belong'
    plant README.md 'cd /ho''me/me/src\n' 'does not belong'
    plant kernels/utils.c 'int a;\n' 'say in its name'
    plant kernels/a.c "void f(void)\n{\n$long}\n" 'a function of 71 lines'
    plant kernels/a.c "$(printf 'int a;\\n%.0s' {1..551})" '551 lines'
    plant kernels/a.h "$(printf 'int a;\\n%.0s' {1..201})" '201 lines'
    if ((failed == 0)); then echo 'every planted offence was found'; fi
    return "$failed"
}

case ${1:-} in
text) check_all "${2:-$here}" ;;
format) check_format "${2:-$here}" ;;
--self-test) self_test ;;
*)
    echo "usage: ${BASH_SOURCE[0]} text|format [ROOT] | --self-test" >&2
    exit 2
    ;;
esac
