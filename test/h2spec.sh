#!/usr/bin/env bash
# h2spec against weir-proxy, in cleartext and over TLS. Usage: test/h2spec.sh [h2spec's arguments]
# The tool is built by Go outside of this module; it and everything made here goes to a folder that is removed.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
proxy=
trap '[ -z "$proxy" ] || kill "$proxy"; rm -rf "$work"' EXIT
go build -o "$work/weir-proxy" ./cmd/weir-proxy
h2spec=${H2SPEC:-$work/h2spec}
[ -x "$h2spec" ] || GOBIN=$work go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
(cd "$work" && go run "$(go env GOROOT)/src/crypto/tls/generate_cert.go" --host 127.0.0.1,localhost > /dev/null 2>&1)
sed "s|CERTS|$work|" test/conformance/h2spec.yaml > "$work/h2spec.yaml"
"$work/weir-proxy" run -c "$work/h2spec.yaml" --workers 1 --log-level error > "$work/log" 2>&1 &
proxy=$!
for port in 8490 8491 8492; do
  for _ in $(seq 100); do (: < /dev/tcp/127.0.0.1/$port) 2>/dev/null && break; sleep 0.1; done
done
failed=0
"$h2spec" -h 127.0.0.1 -p 8490 "$@" || failed=1
"$h2spec" -h 127.0.0.1 -p 8491 -t -k "$@" || failed=1
grep -E "panic|level=ERROR" "$work/log" && failed=1
exit $failed
