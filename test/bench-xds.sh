#!/usr/bin/env bash
# What a mesh of many proxies costs the control plane. Usage: [FORMS="whole vhds ondemand"] test/bench-xds.sh ../shared/bench [services [clients [flags of test/bench/xds]]]
set -euo pipefail
cd "$(dirname "$0")/.."
bench=${1:?where is the bench folder?}/xds services=${2:-1000} clients=${3:-200}
shift $(($# < 3 ? $# : 3))
[ -d "$bench" ] || { echo "no $bench: the bench is kept beside this repository"; exit 1; }
[ -x bin/weir-control ] || { echo "run make build first"; exit 1; }

work=$(mktemp -d); control=
trap '[ -z "$control" ] || { kill "$control"; wait "$control" || true; }; rm -rf "$work"' EXIT
go build -o "$work/" ./test/bench/xds
(cd "$bench" && go build -o "$work/" ./meshgen)
xds=25910 http=25914

one() { # flags of test/bench/xds
  "$work/meshgen" -out "$work/mesh" -services "$services" -endpoints 6 > /dev/null
  rm -rf "$work/state"; mkdir -m 700 "$work/state"
  bin/weir-control --state "$work/state" -f "$work/mesh/config" --http 127.0.0.1:$http --grpc "" --grpc-plaintext 127.0.0.1:$xds --log-level warn &
  control=$!
  until curl -sf "http://127.0.0.1:$http/healthz/ready" > /dev/null; do kill -0 $control; sleep 0.1; done
  sleep 2 # what starting costs is not the clients'
  "$work/xds" -addr 127.0.0.1:$xds -pid $control -services "$services" -clients "$clients" -mesh "$work/mesh" "$@"
  kill $control; wait $control || true
  control=
}

for form in ${FORMS:-whole vhds ondemand}; do
  case $form in
  whole) echo "# $services services, $clients clients, whole route tables"; one "$@" ;;
  vhds) echo "# $services services, $clients clients, virtual hosts as resources of their own"; one -vhds "$@" ;;
  ondemand) echo "# $services services, $clients clients, on demand"; one -ondemand "$@" ;;
  *) echo "FORMS: $form is not one of whole, vhds, ondemand"; exit 1 ;;
  esac
done
