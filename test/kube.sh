#!/usr/bin/env bash
# Does weir understand objects as an API server writes them, with its defaults, status and managed fields?
# usage: kube.sh KUBE  (the folder ../shared/kube, whose scripts run a cluster on this machine)
# Needs root and a cluster that is built already (KUBE/build-all.sh takes minutes): otherwise it says so and succeeds.
# The mesh itself runs on no cluster yet (2026-11); the rest of the smoke test comes with it.
set -euo pipefail
kube=$1 built=${KUBE_STATE:-/var/tmp/kube}
skip() { echo "skipped: $*"; exit 0; }
[ -x "$kube/up.sh" ] || skip "there is no $kube/up.sh"
[ "$(id -u)" = 0 ] || skip "a cluster needs root"
for f in "$built/bin/hyperkube" "$built/bin/coredns"; do [ -x "$f" ] || skip "the cluster is not built ($f is missing): $kube/build-all.sh builds it"; done
ls "$built"/images/*.tar >/dev/null 2>&1 || skip "the cluster's images are not built: $kube/build-all.sh builds them"
for c in containerd runc conntrack; do command -v $c >/dev/null || skip "$c is not installed: $kube/build-all.sh installs it"; done
samples=$(dirname "$kube")/fixtures/istio-samples/bookinfo/platform/kube/bookinfo.yaml
[ -f "$samples" ] || skip "there is no $samples"

name=weir-ci index=9 # a name and number that nobody takes by default
[ ! -e "$built/clusters/$name/init.pid" ] || { echo "cluster $name is up already: somebody else's run? $kube/down.sh $name $index ends it"; exit 1; }
objects=$(mktemp)
trap 'rm -f "$objects"; "$kube/down.sh" "$name" "$index" --purge' EXIT
"$kube/up.sh" "$name" "$index"
kubectl() { KUBECONFIG="$built/clusters/$name/kc/admin.kubeconfig" "$built/bin/hyperkube" kubectl "$@"; }
kubectl get nodes
kubectl wait --for=condition=Ready node --all --timeout=60s
kubectl apply -f "$samples"
kubectl -n default get services,serviceaccounts,deployments -o yaml >"$objects"
bin/weir analyze -f "$objects"
