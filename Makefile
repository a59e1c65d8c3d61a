# The front door: every target is one script under tests/cluster or one cargo command, and says what it does.
# Always holds: no target leaves a process behind, `up` aside, which `down` ends.

.PHONY: help up down test attack bench lint

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## start everything on this machine (or in the cluster of KUBECONFIG with IMAGE) and try it
	@tests/cluster/up

down: ## end what `make up` started
	@tests/cluster/down

test: ## run every suite: unit, data plane, and the whole product on a fresh node
	@tests/cluster/test

attack: ## run every attack in full
	@cargo build --workspace --bins
	@ATTACK=whole cargo test --workspace --test attack
	@ATTACK=whole cargo test --workspace --test data_plane -- panics::

# Compiled as the image's programs are, and not as the tests': debug assertions would be measured too.
bench: ## measure recalls, stores, sockets and isolation (PART="sockets idle": some of it; BASELINE=COMMIT: beside its build)
	@tests/bench/run "$(BASELINE)" $(PART)

lint: ## check format, lints, scripts, the chart and the generated resources
	@tests/cluster/lint
