#!/usr/bin/env bash
# What a mesh on a real API server costs the control plane. Usage: KUBECONFIG=… test/bench-kube.sh ../shared/bench [services [clients]]
# The cluster must have no mesh. Services, EndpointSlices (2 endpoints each, addresses only) and Istio's objects are written to it and taken away again;
# weir-control runs here. Eager clients take everything, as Istio's do; those on demand what 12 services need.
set -euo pipefail
cd "$(dirname "$0")/.."
bench=${1:?where is the bench folder?}/xds services=${2:-1000} clients=${3:-100}
[ -d "$bench" ] || { echo "no $bench: the bench is kept beside this repository"; exit 1; }
[ -x bin/weir-control ] || { echo "run make build first"; exit 1; }
[ -n "${KUBECONFIG:-}" ] || { echo "KUBECONFIG names no cluster: ../shared/kube/up.sh makes one"; exit 1; }
! kubectl get deployment -n istio-system istiod > /dev/null 2>&1 || { echo "the cluster has a mesh: weir uninstall"; exit 1; }

work=$(mktemp -d); control=
finish() {
  [ -z "$control" ] || { kill "$control"; wait "$control" || true; }
  kubectl delete --wait=false -f "$work/mesh/namespaces.yaml" > "$work/log" 2>&1 || true
  kubectl delete clusterrolebinding weir-bench >> "$work/log" 2>&1 || true
  kubectl delete --wait=false namespace istio-system >> "$work/log" 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT
(cd "$bench" && go build -o "$work/" ./meshgen ./xdsload)
go build -o "$work/" ./test/bench/xds
"$work/meshgen" -out "$work/mesh" -services "$services" -endpoints 2 -tcp-every 0 -mode kube
sed -i '/^ *clusterIP: /d' "$work"/mesh/config/*.yaml "$work"/mesh/templates/*.yaml # the cluster gives its own
kubectl apply --server-side -f install/chart/crds/istio.yaml > /dev/null
kubectl create namespace istio-system > /dev/null
kubectl -n istio-system create serviceaccount bench > /dev/null
kubectl create clusterrolebinding weir-bench --clusterrole=cluster-admin --serviceaccount=istio-system:bench > /dev/null
token=$(kubectl -n istio-system create token bench --duration=2h)
server=$(kubectl config view --minify -o 'jsonpath={.clusters[0].cluster.server}')
"$work/xdsload" -kube "$server" -kube-token "$token" "$work/mesh/namespaces.yaml" > /dev/null
"$work/xdsload" -kube "$server" -kube-token "$token" "$work"/mesh/config/*.yaml > /dev/null

xds=25910 http=25914
begin() {
  rm -rf "$work/state"; mkdir -m 700 "$work/state"
  local began; began=$(date +%s%N)
  bin/weir-control --kubeconfig "$KUBECONFIG" --namespace istio-system --state "$work/state" --http 127.0.0.1:$http --grpc "" --grpc-plaintext 127.0.0.1:$xds --log-level error &
  control=$!
  until curl -sf "http://127.0.0.1:$http/healthz/ready" > /dev/null; do kill -0 $control; sleep 0.02; done
  echo "# weir-control is ready $((($(date +%s%N) - began) / 1000000)) ms after it was started; $(cost)"
  sleep 3 # what starting costs is not the clients'
}
cost() { # of weir-control
  local ticks; ticks=$(awk '{print $14 + $15}' /proc/$control/stat)
  echo "$((ticks * 1000 / $(getconf CLK_TCK))) ms of CPU, $(awk '/VmRSS|RssAnon/ {printf "%s %d MB ", $1, $2 / 1024}' /proc/$control/status)"
}
end() { kill $control; wait $control || true; control=; }

begin
sleep 30; echo "# 30 s later, while the first status of each object is written: $(cost)"
# An edit's CPU is all there is until some seconds after it: not what writes thousands of statuses meanwhile. These are the last.
kubectl wait --for=condition=Reconciled peerauthentications --all -A --timeout=600s > /dev/null
sleep 2; echo "# all objects have their status: $(cost)"
"$work/xdsload" -addr 127.0.0.1:$xds -pid $control -services "$services" -clients "$clients" -delta -mesh "$work/mesh" -kube "$server" -kube-token "$token" -probes vs,eds,dr,newsvc -label "eager, $services services"
end
begin
"$work/xds" -addr 127.0.0.1:$xds -pid $control -services "$services" -clients "$((10 * clients))" -ondemand
end
