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
