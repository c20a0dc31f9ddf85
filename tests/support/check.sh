# For scripts that test a program: $tmp, a folder that goes when they end; how many checks $failed.
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0

check() { # NAME COMMAND...: what it printed, and $tmp/out and err, are shown if it fails
    local name=$1
    shift
    if "$@" >"$tmp/check" 2>&1; then
        echo "ok: $name"
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        tail -n 5 "$tmp/check" "$tmp/out" "$tmp/err" 2>/dev/null | cut -c1-300
    fi
}

fails() { # COMMAND...
    ! "$@"
}
