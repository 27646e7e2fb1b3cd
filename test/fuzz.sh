#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time, one on each processor. Usage: test/fuzz.sh 10s
set -euo pipefail
export TIME=${1:-10s}
cd "$(dirname "$0")/.."
one() { # a target's output stays together
  local out
  if out=$(go test -run '^$' -fuzz "^$2\$" -fuzztime "$TIME" -parallel 1 -fuzzminimizetime 10x "$1" 2>&1); then
    printf '== %s %s (%s)\n%s\n' "$1" "$2" "$TIME" "$(tail -n 1 <<<"$out")"
  else
    printf '== %s %s (%s) FAILED\n%s\n' "$1" "$2" "$TIME" "$out"
    return 1
  fi
}
export -f one
grep -rlE '^func Fuzz[A-Za-z0-9_]+\(' --include='*_test.go' . | xargs -r -n1 dirname | sort -u | while read -r dir; do
  grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | sort -u | while read -r target; do
    echo "$dir $target"
  done
done | xargs -P "$(getconf _NPROCESSORS_ONLN)" -L 1 bash -c 'one "$0" "$1"'
