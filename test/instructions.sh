#!/bin/sh
# instructions.sh [update]: how many instructions the proxy's own code needs for an exchange, counted by valgrind, against those
# in test/instructions.txt. More than 10 % above a figure fails. A count does not depend on what else the machine does, unlike
# any time; it says nothing about caches, the kernel and waiting.
#
# The benchmark is run twice, with N and 2N exchanges: the difference is exchanges alone, without what starts and ends a
# process. One processor, no collector and no preemption by signals: so two runs differ by less than 1 %.
#
# It exits with 1 if something costs more, with 2 if valgrind cannot run the benchmark here (it knows fewer processors than Go).
set -e
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "instructions.sh needs valgrind (Debian: apt-get install valgrind)" >&2; exit 1; }
n=2000
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
CGO_ENABLED=0 ${GO:-go} test -trimpath -c -o "$out/bench" ./proxy/http # valgrind does not know the stacks of cgo

# count BENCHMARK TIMES: the instructions of a whole run
count() {
  if ! (cd proxy/http && GOMAXPROCS=1 GOGC=off GODEBUG=asyncpreemptoff=1 valgrind --tool=callgrind --callgrind-out-file=/dev/null \
    "$out/bench" -test.run '^$' -test.bench "$1" -test.benchtime "$2x" -test.cpu 1 >"$out/log" 2>&1); then
    cat "$out/log" >&2
    exit 2
  fi
  awk '/Collected :/ { print $4 }' "$out/log"
}

status=0
: >"$out/new"
for name in Exchange/GET Exchange/POST Exchange/chunked Exchange/inbound Exchange2/h2-h2 Exchange2/h2-h1 Exchange2/h1-h2; do
  once=$(count "^Benchmark${name%/*}\$/^${name#*/}\$" $n)
  twice=$(count "^Benchmark${name%/*}\$/^${name#*/}\$" $((2 * n)))
  each=$(((twice - once) / n))
  known=$(awk -v name="$name" '$1 == name { print $2 }' test/instructions.txt 2>/dev/null || true)
  printf '%s %d\n' "$name" "$each" >>"$out/new"
  if [ -z "$known" ]; then
    printf '%-20s %7d instructions, not in test/instructions.txt\n' "$name" "$each"
    [ "$1" = update ] || status=1
    continue
  fi
  verdict=ok
  if [ "$each" -gt $((known + known / 10)) ]; then
    verdict="MORE than 10 % above"
    [ "$1" = update ] || status=1
  fi
  printf '%-20s %7d instructions, known %7d: %s\n' "$name" "$each" "$known" "$verdict"
done
if [ "$1" = update ]; then
  cp "$out/new" test/instructions.txt
elif [ $status -ne 0 ]; then
  echo "understood and worth it? make instructions-update writes test/instructions.txt; its diff is for the review" >&2
fi
exit $status
