#!/usr/bin/env bash
# One smoke test in a real cluster: images of what is here, installed, bookinfo as Istio publishes it, its page, and nothing left.
# usage: kube.sh KUBE  (the folder ../shared/kube, whose scripts run a cluster on this machine)
# Needs root and a cluster that is built already (KUBE/build-all.sh takes minutes): otherwise it says so and succeeds.
set -euo pipefail
kube=$1 built=${KUBE_STATE:-/var/tmp/kube}
skip() { echo "skipped: $*"; exit 0; }
[ -x "$kube/up.sh" ] || skip "there is no $kube/up.sh"
[ "$(uname -m)" = x86_64 ] || skip "the cluster is for x86-64"
[ "$(id -u)" = 0 ] || skip "a cluster needs root"
for f in "$built/bin/hyperkube" "$built/bin/coredns"; do [ -x "$f" ] || skip "the cluster is not built ($f is missing): $kube/build-all.sh builds it"; done
ls "$built"/images/*.tar >/dev/null 2>&1 || skip "the cluster's images are not built: $kube/build-all.sh builds them"
for c in containerd runc conntrack; do command -v $c >/dev/null || skip "$c is not installed: $kube/build-all.sh installs it"; done
samples=$(dirname "$kube")/fixtures/istio-samples
[ -d "$samples" ] || skip "there is no $samples"

name=weir-ci index=9 # a name and number that nobody takes by default
[ ! -e "$built/clusters/$name/init.pid" ] || { echo "cluster $name is up already: somebody else's run? $kube/down.sh $name $index ends it"; exit 1; }
make --no-print-directory images ARCH=amd64 TAG=ci
trap '"$kube/down.sh" "$name" "$index" --purge' EXIT
"$kube/up.sh" "$name" "$index"
"$kube/load.sh" "$name" dist/images/*-amd64.tar >/dev/null
KUBECONFIG="$built/clusters/$name/kc/admin.kubeconfig" WEIR_KUBE_IMAGES=weir:ci go test -count=1 -v -timeout 4m -run '^TestSmoke$' ./test/kube
