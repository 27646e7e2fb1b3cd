#!/usr/bin/env bash
# Runs every fuzz target of the module, or those that a regular expression matches, for the given time.
# Usage: test/fuzz.sh 10s, test/fuzz.sh 60s 'FuzzLocated|FuzzApplyListeners'
# An instrumented test takes a minute or two to build on a busy machine, in which it has nothing to say.
# FUZZ_AT_ONCE of them run at once, by default one on each processor. A package's instrumented test is built once for all its targets
# (`go test -fuzz` would build, vet and link it again for each: half the time of a run with 65 targets, 2026-11).
# From FUZZ_UNTIL (seconds since the epoch) on nothing is begun: what is left is named.
set -euo pipefail
export TIME=${1:-10s}
cd "$(dirname "$0")/.."
export WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export CORPUS="$(go env GOCACHE)/fuzz"
module=$(go list -m)
one() { # a target's output stays together
  local dir=$1 target=$2 binary=$3 package=$4 out
  if out=$(cd "$dir" && "$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$TIME" -test.parallel 1 -test.fuzzminimizetime 10x \
    -test.fuzzcachedir "$CORPUS/$package" 2>&1); then
    printf '== %s %s (%s)\n%s\n' "$dir" "$target" "$TIME" "$(tail -n 1 <<<"$out")"
  elif grep -q '^    context deadline exceeded$' <<<"$out" && ! grep -q 'Failing input' <<<"$out"; then
    # Go's own: the time was over in the middle of an input (as of Go 1.26). Nothing was found.
    printf '== %s %s (%s)\nno failure, ended in the middle of an input\n' "$dir" "$target" "$TIME"
  else
    printf '== %s %s (%s) FAILED\n%s\n' "$dir" "$target" "$TIME" "$out"
    return 1
  fi
}
export -f one
grep -rlE '^func Fuzz[A-Za-z0-9_]+\(' --include='*_test.go' . | xargs -r -n1 dirname | sort -u | while read -r dir; do
  if [ "$(date +%s)" -ge "${FUZZ_UNTIL:-9999999999}" ]; then
    echo "not fuzzed, there is no time left: $dir" >&2
    continue
  fi
  targets=$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | sort -u | grep -E "${2:-.}") || continue
  binary="$WORK/$(tr / _ <<<"${dir#./}").test"
  echo "building $dir" >&2
  go test -c -fuzz . -o "$binary" "$dir" >&2
  while read -r target; do
    echo "$dir $target $binary $module/${dir#./}"
  done <<<"$targets"
done | xargs -r -P "${FUZZ_AT_ONCE:-$(getconf _NPROCESSORS_ONLN)}" -L 1 bash -c 'one "$@"' one
