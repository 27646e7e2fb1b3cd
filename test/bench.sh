#!/usr/bin/env bash
# CPU per request beside nginx and HAProxy, in one run. Usage: test/bench.sh ../shared/bench [rounds]
set -euo pipefail
cd "$(dirname "$0")/.."
bench=${1:?where is the bench folder?}/proxy/bench.py rounds=${2:-7}
[ -x "$bench" ] || { echo "no $bench: the bench is kept beside this repository"; exit 1; }
[ -x bin/weir-proxy ] || { echo "run make build first"; exit 1; }
root=$PWD
"$bench" http1 --rounds "$rounds" --max-ratio 1.0:nginx \
  --target "weir=8110:$root/bin/weir-proxy run -c $root/test/bench/http1.yaml --log-level error"

work=${BENCH_STATE:-/var/tmp/bench}
tls=$(mktemp); trap 'rm -f "$tls"' EXIT
sed "s|CERTS|$work/certs|" test/bench/tls.yaml > "$tls"
weir="env GOMAXPROCS=2 $root/bin/weir-proxy run -c $tls --workers 1 --log-level error"
"$bench" tls --rounds "$rounds" --max-ratio 0.9:nginx --target "weir=8210:$weir"
"$bench" handshake --rounds "$rounds" --max-ratio 0.85:nginx --target "weir=8310:$weir"
"$bench" memory --tls --target "weir=8210:$weir"

"$bench" tcp --rounds "$rounds" --max-ratio 1.1 \
  --target "weir=8510:$root/bin/weir-proxy run -c $root/test/bench/tcp.yaml --workers 1 --log-level error"

for streams in "4 25" "32 2"; do
  set -- $streams
  "$bench" http2 --rounds "$rounds" --conns "$1" --streams "$2" \
    --target "weir=8410:$root/bin/weir-proxy run -c $root/test/bench/http2.yaml --log-level error"
done
