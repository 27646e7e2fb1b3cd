# Weir. `make help` lists what can be done.

GO        ?= go
# A release has its tag. What is built between releases has the next one's number (file VERSION), so that proxies and control planes can
# tell how far they are apart, and its commit; no +, which image tags cannot have.
COMMIT    := $(shell git describe --always --exclude '*' --dirty 2>/dev/null)
VERSION   ?= $(or $(shell git describe --exact-match --match 'v*' --dirty 2>/dev/null),$(shell cat VERSION)$(if $(COMMIT),.g$(COMMIT)))
LDFLAGS   := -s -w -X main.version=$(VERSION)
# grpcnotrace leaves out golang.org/x/net/trace, whose templates keep every method of every type in the program: weir-proxy
# has 21.2 MB without, 31.5 MB with it (2026-11).
STATIC    := -trimpath -tags grpcnotrace -ldflags '$(LDFLAGS)'
GOLANGCI  := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
BINARIES  := weir weir-control weir-proxy weir-cni weir-sample
FUZZTIME  ?= 10s
SOAK      ?= 10m
CONNECTIONS ?= 20000
FLIPS     ?= 100
LONG      ?= 3m
BENCH     ?= ../shared/bench
HUB       ?= weir
TAG       ?= $(VERSION)
ARCH      ?= amd64 arm64
SAMPLES   ?= $(wildcard ../shared/fixtures/istio-samples ../shared/fixtures/helloworld-v1.yaml ../shared/fixtures/helloworld-v2.yaml)

.DEFAULT_GOAL := help
export CGO_ENABLED = 0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/weir, bin/weir-control, bin/weir-proxy, bin/weir-cni, bin/weir-sample (static)
	@mkdir -p bin
	$(GO) build $(STATIC) -o bin/ $(addprefix ./cmd/,$(BINARIES))

# Versions of what `make generate` runs: the first lines of each generated file name them.
PROTOC      := 3.21.12
PROTOC_GO   := v1.36.12
PROTOC_GRPC := v1.6.2

.PHONY: generate
generate: ## the Go code of api/**/*.proto (needs protoc 3.21.12, Debian's protobuf-compiler; its plugins come from the Go module proxy)
	@[ "$$(protoc --version)" = 'libprotoc $(PROTOC)' ] || { echo "generate needs protoc $(PROTOC), so that what it writes is the same everywhere: apt-get install protobuf-compiler"; exit 1; }
	GOBIN='$(CURDIR)/bin/tools' $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GO)
	GOBIN='$(CURDIR)/bin/tools' $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GRPC)
	PATH="$(CURDIR)/bin/tools:$$PATH" protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative $$(find api -name '*.proto')

.PHONY: up
up: build ## build, then run the bookinfo demo at http://127.0.0.1:8080/productpage
	bin/weir up --demo bookinfo

.PHONY: test
test: ## the tests: no root, no network, no cluster
	$(GO) test ./...

.PHONY: race
race: ## the tests under the race detector (needs a C compiler), but translate, which has no goroutines, and tests of bytes that test/e2e races
	CGO_ENABLED=1 $(GO) test -race -short $$($(GO) list ./... | grep -vE '/(translate|test/wire|test/scripts|test/verdict)$$')

.PHONY: root-test
root-test: ## tests that need root or user namespaces: capture, namespaces, weir up; package by package, so that whole meshes do not slow each other
	WEIR_KERNEL_TESTS=require $(GO) test -p 1 -count=1 -short ./capture/... ./local/... ./test/acceptance ./test/tproxy

.PHONY: acceptance
acceptance: ## whole meshes, as users run them: minutes, with figures (root, or user namespaces)
	WEIR_KERNEL_TESTS=require $(GO) test -count=1 -v -timeout 20m ./test/acceptance

.PHONY: e2e
e2e: build ## the mesh in the cluster of KUBECONFIG; WEIR_LOAD='../shared/kube/load.sh k1' puts images into its nodes; LONG=1s: long ones are short
	@[ -n "$$KUBECONFIG" ] || { echo "e2e needs a cluster: set KUBECONFIG (../shared/kube/up.sh makes one)"; exit 1; }
	@[ -n "$$WEIR_LOAD" ] || echo "WEIR_LOAD is not set: the cluster has $(HUB)/weir-control:$(TAG) already, or can pull it"
	@[ -z "$$WEIR_LOAD" ] || { $(MAKE) --no-print-directory images ARCH=amd64 && $$WEIR_LOAD dist/images/*-amd64.tar >/dev/null; }
	WEIR_KUBE_IMAGES='$(HUB):$(TAG)' WEIR_KUBE_LONG='$(LONG)' $(GO) test -p 1 -count=1 -v -timeout 60m $(if $(RUN),-run '$(RUN)') ./test/kube/...
	$(if $(RUN),,$(MAKE) --no-print-directory skew)

.PHONY: skew
skew: ## proxies and control planes of the last versions, built from the history, with those of today: two minutes, three the first time
	WEIR_SKEW=1 $(GO) test -count=1 -v -run '^TestEarlierVersions$$' ./test/e2e

.PHONY: verdicts
verdicts: ## what is said of every rule against what calls do, for 10,000 random sets of objects (500 more by real proxies): three minutes
	VERDICT_SETS=10000 $(GO) test -count=1 -v -timeout 30m ./test/verdict

.PHONY: authorization
authorization: ## 20,000 random calls against 1,000 random sets of policies, decided by real proxies and by an evaluator of the tests' own: two minutes
	AUTHORIZATION_SETS=1000 $(GO) test -count=1 -v -timeout 40m -run '^TestARunningProxyDecidesAlike$$' ./test/authorization

.PHONY: matrix
matrix: ## rules for clients in every place against what servers take in every place, by four protocols, a sidecar and a gateway: 14,445 combinations, eight minutes
	WEIR_MATRIX=1 $(GO) test -count=1 -v -timeout 60m -run '^TestNoPlaceOfRulesContradictsItself$$' ./test/e2e

.PHONY: lint
lint: ## golangci-lint with .golangci.yml, and vet for darwin
	CGO_ENABLED=0 $(GOLANGCI) run ./...
	GOOS=darwin $(GO) vet ./cmd/...

.PHONY: fuzz
fuzz: ## each fuzz target, or those that FUZZ matches (FUZZ=FuzzLocated), for FUZZTIME (10s)
	@./test/fuzz.sh $(FUZZTIME) '$(FUZZ)'

.PHONY: fuzz-long
fuzz-long: ## each fuzz target for 3 minutes: an hour on two processors
	@./test/fuzz.sh 3m

.PHONY: differential
differential: ## the HTTP codecs against net/http and x/net on 1,000,000 generated inputs each: minutes
	WEIR_DIFFERENTIAL=1000000 $(GO) test -count=1 -v -timeout 60m -run '^TestDifferential$$' ./proxy/http/h1 ./proxy/http/h2 ./proxy/http/hpack

.PHONY: conformance
conformance: ## h2spec against the proxy, in cleartext and over TLS
	@./test/h2spec.sh

.PHONY: soak
soak: ## large bodies, and every kind of traffic, for SOAK (10m), on CONNECTIONS (20000) that stay: does anything grow, stall or get lost?
	SOAK=$(SOAK) CONNECTIONS=$(CONNECTIONS) $(GO) test -count=1 -v -timeout 0 ./test/soak

.PHONY: flips
flips: ## FLIPS (100) flips between PERMISSIVE and STRICT in every order proxies can hear of them, under 500 requests a second: half a minute
	FLIPS=$(FLIPS) $(GO) test -count=1 -v -run '^TestFlippingMutualTLSInEveryOrder' ./test/e2e

.PHONY: streams
streams: ## policies, certificates and the log's format change under STREAMS (10000) open WebSockets, over six processes: who may stay goes on, the others end with their reason; needs 16,000 descriptors a process (ulimit -n), fewer STREAMS fewer
	STREAMS=$(or $(STREAMS),10000) $(GO) test -count=1 -v -timeout 20m -run '^TestPoliciesChangeUnderOpenStreams$$' ./test/e2e

.PHONY: csr-flood
csr-flood: ## a control plane under as many certificate requests as 24 connections carry: refused how fast, and how soon others are served meanwhile; ten seconds
	WEIR_KERNEL_TESTS=require $(GO) test -count=1 -v -run '^TestFloodOfCertificateRequests$$' ./test/acceptance

# What a change need not pass, but a night should: each says by itself what it found, and all of them are run.
.PHONY: nightly
nightly: ## the long runs without a cluster, one after the other, two hours: authorization, verdicts, matrix, flips, csr-flood, skew, differential, conformance, acceptance, fuzz-long, soak
	@failed=; for run in authorization verdicts matrix flips csr-flood skew differential conformance acceptance fuzz-long soak; do \
	  echo "=== $$run"; $(MAKE) --no-print-directory $$run || failed="$$failed $$run"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

.PHONY: latency
latency: ## how soon a busy proxy answers, twenty in one process, from exec to ready, and what an idle one costs, against their bars (a machine with nothing else to do)
	LATENCY=1 $(GO) test -count=1 -v ./test/latency

.PHONY: bench
bench: build ## CPU per request beside nginx and HAProxy (needs ../shared/bench)
	@./test/bench.sh $(BENCH)

.PHONY: instructions
instructions: ## instructions that an exchange, a record of a failure, a TLS record and a relay cost the proxy, against test/instructions.txt: more than 10 % above fails (needs valgrind)
	@./test/instructions.sh

.PHONY: instructions-update
instructions-update: ## write test/instructions.txt anew
	@./test/instructions.sh update

.PHONY: bench-xds
bench-xds: build ## what many proxies cost the control plane (needs ../shared/bench)
	@./test/bench-xds.sh $(BENCH)

.PHONY: bench-kube
bench-kube: build ## the same on a real API server, KUBECONFIG's: 1,000 services of two endpoints (needs ../shared/bench)
	@./test/bench-kube.sh $(BENCH)

.PHONY: outage
outage: build ## what can happen to a control plane, with 2,000 proxies: minutes (needs ../shared/bench)
	@./test/outage.sh $(BENCH)

.PHONY: images
images: ## container images HUB/NAME:TAG as dist/images/NAME-ARCH.tar; samples also under the names that manifests in SAMPLES use
	@set -e; for arch in $(ARCH); do \
	  mkdir -p bin/linux-$$arch; \
	  GOOS=linux GOARCH=$$arch $(GO) build $(STATIC) -o bin/linux-$$arch/ ./cmd/weir-control ./cmd/weir-proxy ./cmd/weir-cni ./cmd/weir-sample; \
	  $(GO) run ./cmd/weir-images --bin bin/linux-$$arch --arch $$arch --hub '$(HUB)' --tag '$(TAG)' --version '$(VERSION)' \
	    --revision "$$(git rev-parse HEAD)" --epoch "$$(git log -1 --format=%ct)" --out dist/images $(SAMPLES); \
	done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
