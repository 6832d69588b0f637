# ark's own commands. Tools are pinned here and run with `go run tool@version`, outside go.mod.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GOLANGCI_LINT  := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
CONTROLLER_GEN := sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0
GOVULNCHECK    := golang.org/x/vuln/cmd/govulncheck@v1.9.0

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X arkonis.dev/ark/cmd.version=$(VERSION)
FUZZTIME ?= 20s
NODES    ?= 2

# The image: its name, for which platforms, and where its archive goes.
IMAGE     ?= arkonis.dev/ark:$(VERSION)
PLATFORMS ?= linux/$(shell go env GOARCH)
ARCHIVE   ?= dist/ark-image.tar

# Modules of their own: what only tests and images need stays out of ark's go.mod.
MODULES := $(patsubst %/go.mod,%,$(wildcard e2e/*/go.mod))

.PHONY: help
help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/ark.
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ark .

.PHONY: image
image: ## Build the image as an OCI archive, for PLATFORMS; needs no container daemon.
	go -C e2e/image run . build -version '$(VERSION)' -name '$(IMAGE)' -platforms '$(PLATFORMS)' -o '$(abspath $(ARCHIVE))'

.PHONY: test
test: cluster-build ## Run all tests; those of clusters are skipped where nodes cannot run.
	go test -timeout 60m ./...
	@set -e; for m in $(MODULES); do echo "go test ./... in $$m"; (cd $$m && go test -timeout 60m ./...); done

.PHONY: race
race: ## Run all tests of ark's own module under the race detector.
	CGO_ENABLED=1 go test -race -timeout 60m ./...

.PHONY: lint
lint: ## Run the linters; borders between packages are among them.
	go run $(GOLANGCI_LINT) run ./...
	@set -e; for m in $(MODULES); do echo "go vet ./... in $$m"; (cd $$m && go vet ./...); done

.PHONY: cluster-build
cluster-build: ## Build what test clusters consist of, once, into the user's cache (15 minutes on two cores).
	@go run ./e2e/cluster/ctl build

.PHONY: cluster
cluster: ## Start a cluster (NODES=2) that stays, and print its kubeconfig; needs Linux and root.
	@go run ./e2e/cluster/ctl up -nodes $(NODES)

.PHONY: cluster-down
cluster-down: ## End the cluster that `make cluster` started.
	@go run ./e2e/cluster/ctl down

.PHONY: vuln
vuln: ## Check dependencies against the Go vulnerability database (needs the network).
	go run $(GOVULNCHECK) ./...

.PHONY: fmt
fmt: ## Format the code.
	go run $(GOLANGCI_LINT) fmt ./...

.PHONY: generate
generate: ## Generate deep copies, CRDs and their schemas from pkg/apis, and the plain manifests from the chart.
	go run $(CONTROLLER_GEN) object crd paths=./pkg/apis/v1alpha1 output:crd:dir=crds
	go run ./pkg/apis/crdfinish crds pkg/apis/v1alpha1/zz_generated.schema.go
	rm -rf deploy/chart/files/crds && cp -r crds deploy/chart/files/crds
	go -C e2e/chart run ./generate ../../deploy/chart ../../deploy/manifests

.PHONY: verify
verify: ## Fail when generated files or go.mod differ from what is committed.
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	go run $(CONTROLLER_GEN) object paths=./pkg/apis/v1alpha1 output:object:dir=$$tmp/deepcopy && \
	go run $(CONTROLLER_GEN) crd paths=./pkg/apis/v1alpha1 output:crd:dir=$$tmp/crds && \
	go run ./pkg/apis/crdfinish $$tmp/crds $$tmp/zz_generated.schema.go && \
	diff -u pkg/apis/v1alpha1/zz_generated.deepcopy.go $$tmp/deepcopy/zz_generated.deepcopy.go && \
	diff -u pkg/apis/v1alpha1/zz_generated.schema.go $$tmp/zz_generated.schema.go && \
	diff -ru crds $$tmp/crds && \
	diff -ru crds deploy/chart/files/crds && \
	go -C e2e/chart run ./generate ../../deploy/chart $$tmp/manifests && \
	diff -ru deploy/manifests $$tmp/manifests && \
	go mod tidy -diff && echo "generated files are up to date"

.PHONY: fuzz
fuzz: ## Run every fuzzer for FUZZTIME (20s each).
	@set -e; for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

.PHONY: bench
bench: build cluster-build ## Measure ark beside its raw references; the cluster takes up to 20 minutes.
	go run ./e2e/bench -ark bin/ark
	go run ./e2e/bench/cluster -ark bin/ark
	go test -run '^$$' -bench 'Step|Runs' -benchtime 5x ./pkg/local
	go test -run '^$$' -bench . -benchtime 1s ./pkg/queue ./pkg/work ./pkg/runtime ./pkg/pipeline
