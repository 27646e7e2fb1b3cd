#!/bin/sh
# instructions.sh [update]: how many instructions the proxy's own code needs for an exchange, a TLS record sealed and opened, and
# bytes relayed there and back, counted by valgrind, against those in test/instructions.txt. More than 10 % above a figure fails. A
# count does not depend on what else the machine does, unlike any time; it says nothing about caches, the kernel and waiting.
# What a record of a failure costs is the difference of two counts, which is little beside either: half as much again fails.
#
# A benchmark is run twice, with N and 2N rounds: the difference is rounds alone, without what starts and ends a process. One
# processor, no collector and no preemption by signals: so two runs differ by less than 1 %.
#
# It exits with 1 if something costs more, or fails by itself, with 2 if valgrind cannot run here what runs without it (it knows
# fewer processors than Go).
set -e
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "instructions.sh needs valgrind (Debian: apt-get install valgrind)" >&2; exit 1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# bench PACKAGE BENCHMARK TIMES [UNDER...]: a run of one benchmark; what it says is in $out/log
bench() {
  dir=proxy/$1 program=$out/$1 pattern="^Benchmark$(echo "$2" | sed 's,/,$/^,g')\$" times=$3
  shift 3
  (cd "$dir" && GOMAXPROCS=1 GOGC=off GODEBUG=asyncpreemptoff=1 "$@" "$program" \
    -test.run '^$' -test.bench "$pattern" -test.benchtime "${times}x" -test.cpu 1) >"$out/log" 2>&1
}

# count PACKAGE BENCHMARK TIMES: the instructions of a whole run
count() {
  if ! bench "$@" valgrind --tool=callgrind --callgrind-out-file=/dev/null; then
    cat "$out/log" >&2
    exit 2
  fi
  awk '/Collected :/ { print $4; told = 1 } END { exit !told }' "$out/log"
}

# each PACKAGE BENCHMARK TIMES: the instructions of one round
each() {
  if ! bench "$1" "$2" $((2 * $3)) env || ! grep -q '^Benchmark' "$out/log"; then
    cat "$out/log" >&2
    echo "Benchmark$2 of proxy/$1 fails without valgrind, or is not there" >&2
    exit 1
  fi
  once=$(count "$1" "$2" "$3")
  twice=$(count "$1" "$2" $((2 * $3)))
  echo $(((twice - once) / $3))
}

for package in http tls tcp; do
  CGO_ENABLED=0 ${GO:-go} test -trimpath -c -o "$out/$package" ./proxy/$package # valgrind does not know the stacks of cgo
done
status=0
: >"$out/new"
while read -r package name n less; do
  each=$(each "$package" "$name" "$n")
  allowed=10
  if [ -n "$less" ]; then
    without=$(each "$package" "$less" "$n")
    each=$((each - without))
    name=$name-less-${less##*/} allowed=50
  fi
  known=$(awk -v name="$name" '$1 == name { print $2 }' test/instructions.txt 2>/dev/null || true)
  printf '%s %d\n' "$name" "$each" >>"$out/new"
  if [ -z "$known" ]; then
    printf '%-31s %7d instructions, not in test/instructions.txt\n' "$name" "$each"
    [ "$1" = update ] || status=1
    continue
  fi
  verdict=ok
  if [ "$each" -gt $((known + known * allowed / 100)) ]; then
    verdict="MORE than $allowed % above"
    [ "$1" = update ] || status=1
  fi
  printf '%-31s %7d instructions, known %7d: %s\n' "$name" "$each" "$known" "$verdict"
done <<'COUNTED'
http Exchange/GET 2000
http Exchange/POST 2000
http Exchange/chunked 2000
http Exchange/inbound 2000
http Exchange/policies 2000
http Exchange2/h2-h2 2000
http Exchange2/h2-h1 2000
http Exchange2/h1-h2 2000
http Failure/recorded 10000 Failure/forgotten
tls Records/1024/own 20000
tcp Relay 2000
COUNTED
if [ "$1" = update ]; then
  cp "$out/new" test/instructions.txt
elif [ $status -ne 0 ]; then
  echo "understood and worth it? make instructions-update writes test/instructions.txt; its diff is for the review" >&2
fi
exit $status
