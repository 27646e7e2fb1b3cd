#!/usr/bin/env bash
# What can happen to a control plane, and how soon its proxies have the newest configuration afterwards.
# Usage: [FORM=vhds|ondemand] test/outage.sh ../shared/bench [services [clients [flags of test/bench/xds, for -outage]]]
set -euo pipefail
cd "$(dirname "$0")/.."
bench=${1:?where is the bench folder?}/xds services=${2:-200} clients=${3:-2000}
shift $(($# < 3 ? $# : 3))
[ -d "$bench" ] || { echo "no $bench: the bench is kept beside this repository"; exit 1; }
[ -x bin/weir-control ] || { echo "run make build first"; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go build -o "$work/" ./test/bench/xds
(cd "$bench" && go build -o "$work/" ./meshgen)
"$work/meshgen" -out "$work/mesh" -services "$services" -endpoints 6 > /dev/null
form=${FORM:-ondemand}
echo "# $services services, $clients clients over TLS, -$form"
"$work/xds" -control bin/weir-control -state "$work/state" -mesh "$work/mesh" -services "$services" -clients "$clients" -"$form" "${@:--outage}"
