#!/usr/bin/env bash
# CPU per request, and memory, beside nginx and HAProxy, each row in one run. Usage: test/bench.sh ../shared/bench [rounds [rows]]
# rows: http1 post large large-post tls tls-large tls-post handshake memory tcp http2 grpc latency records policy; all of them by default. policy is of two
# sidecars (test/bench/policy): mutual TLS between them, tokens checked, 50 policies in force, beside the same without; GET,
# POST of 1 and 64 KB, HTTP/2, gRPC (calls, streams), TCP, and how soon paced calls are answered. One of its rows: go run ./test/bench/policy -bin bin -rows NAME (their names: load.go).
# records is what decision records cost (weir why), over HTTP/1.1, TLS and HTTP/2: beside a proxy of the same tree that keeps none.
# A row with --max-ratio fails above it: the bar of docs/performance.md, and 0.05 to 0.25 more for the noise of a shared machine.
set -euo pipefail
cd "$(dirname "$0")/.."
bench=${1:?where is the bench folder?}/proxy/bench.py rounds=${2:-7} rows=${3:-}
[ -x "$bench" ] || { echo "no $bench: the bench is kept beside this repository"; exit 1; }
[ -x bin/weir-proxy ] || { echo "run make build first"; exit 1; }

root=$PWD work=${BENCH_STATE:-/var/tmp/bench}; export BENCH_STATE=$work
made=$(mktemp -d); trap 'rm -rf "$made"' EXIT
certs=$made/tls.yaml
sed "s|CERTS|$work/certs|" test/bench/tls.yaml > "$certs"
one="env GOMAXPROCS=2 $root/bin/weir-proxy run --workers 1 --log-level error -c"
http1="weir=8110:$one $root/test/bench/http1.yaml" tls="weir=8210:$one $certs"
failed=

row() { # name, then the bench's arguments
  local name=$1; shift
  [ -z "$rows" ] || [[ " $rows " == *" $name "* ]] || return 0
  "$bench" "$@" || failed+=" $name"
}
each() { row "$@" --rounds "$rounds"; }

each http1      http1 --target "$http1" --max-ratio 0.95
each post       http1 --target "$http1" --max-ratio 0.95 --post-bytes 1024
each large      http1 --target "$http1" --max-ratio 0.9 --size 65536
each large-post http1 --target "$http1" --max-ratio 0.9 --post-bytes 65536
each tls        tls --target "$tls" --max-ratio 0.9
each tls-large  tls --target "$tls" --max-ratio 0.9 --size 65536
each tls-post   tls --target "$tls" --max-ratio 0.9 --post-bytes 65536
each handshake  handshake --target "weir=8310:$one $certs" --max-ratio 0.85
row  memory     memory --target "$http1"
row  memory     memory --tls --target "$tls"
each tcp        tcp --target "weir=8510:$one $root/test/bench/tcp.yaml" --max-ratio 1.1
for streams in "4 25" "32 2"; do
  set -- $streams
  each http2 http2 --conns "$1" --streams "$2" --target "weir=8410:$one $root/test/bench/http2.yaml" --max-ratio 1.0:haproxy
done
# Unary calls as gRPC's are on the wire: POST, a message of 128 bytes, as many streams as above. (With 100 streams a connection HAProxy
# 2.6 fails some of the warm-up's requests, and nothing is measured.)
for streams in "4 25" "32 2"; do
  set -- $streams
  each grpc http2 --conns "$1" --streams "$2" --post-bytes 128 --target "weir=8410:$one $root/test/bench/http2.yaml" --max-ratio 1.0:haproxy
done
row latency latency --target "$http1"

# The product has no switch for records: the other proxy is built with one line of it changed. Both are built here, in the same way.
if [ -z "$rows" ] || [[ " $rows " == *" records "* ]]; then
  sed 's/Records: w\.records, //' proxy/worker.go > "$made/worker.go"
  ! cmp -s proxy/worker.go "$made/worker.go" || { echo "proxy/worker.go hands no records over any more: say here what to change instead"; exit 1; }
  echo "{\"Replace\": {\"$root/proxy/worker.go\": \"$made/worker.go\"}}" > "$made/overlay.json"
  for name in with without; do
    CGO_ENABLED=0 go build $([ $name = with ] || echo "-overlay $made/overlay.json") -trimpath -o "$made/$name" ./cmd/weir-proxy
  done
  for protocol in http1:8110 tls:8210 http2:8410; do
    port=${protocol#*:} protocol=${protocol%:*} file=test/bench/$protocol.yaml
    [ $protocol != tls ] || file=$certs
    cp "$file" "$made/with.yaml"
    sed 's/port_value: 8\(.\)10/port_value: 8\119/' "$file" > "$made/without.yaml"
    each records $protocol --peers none --max-ratio 1.1:without \
      --target "with=$port:env GOMAXPROCS=2 $made/with run --workers 1 --log-level error -c $made/with.yaml" \
      --target "without=$((port + 9)):env GOMAXPROCS=2 $made/without run --workers 1 --log-level error -c $made/without.yaml"
  done
fi
if [ -z "$rows" ] || [[ " $rows " == *" policy "* ]]; then
  go run ./test/bench/policy -bin "$root/bin" -tools "$work/bin" -rounds "$rounds" || failed+=" policy"
fi
[ -z "$failed" ] || { echo "over the limit:$failed"; exit 1; }
