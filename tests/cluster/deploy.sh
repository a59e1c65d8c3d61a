# shellcheck shell=bash
# The steps from a cluster to tenants that answer, shared by `make up` and the end-to-end tests, so that
# what is tested is what a user does. Sourced after lib.sh; KUBECONFIG is exported, kubectl and helm are
# on PATH.
# Always holds: a key goes from its Secret to curl through a file that only this user reads, never
# through a process argument or an output.

NAMESPACE=stellar-system
RELEASE=stellar-memory
CHART=$REPO_DIR/charts/stellar-memory

scratch=$(mktemp -d)
chmod 700 "$scratch"
on_exit() { rm -rf "$scratch"; }
trap on_exit EXIT

# step WHAT COMMAND…: a command that says nothing unless it fails; one line with its duration.
step() {
  local what=$1 began=$SECONDS
  shift
  printf '%-48s' "$what" >&2
  # Not in an "if": bash would ignore every failure but the last inside.
  set +e
  (set -e; "$@") >"$scratch/step.log" 2>&1 </dev/null
  local code=$?
  set -e
  if ((code == 0)); then
    printf ' %s\n' "$(duration $((SECONDS - began)))" >&2
    return
  fi
  printf ' failed after %s\n' "$(duration $((SECONDS - began)))" >&2
  tail -n 25 "$scratch/step.log" >&2
  diagnose >&2 || true
  die "'$what' failed; what it said is above${STEP_HINT:+, $STEP_HINT}."
}

# The same for a command that shows its own progress.
loud_step() {
  local what=$1 began=$SECONDS
  shift
  "$@" </dev/null >&2 || die "'$what' failed after $(duration $((SECONDS - began))); what it said is above."
  printf '%-48s %s\n' "$what" "$(duration $((SECONDS - began)))" >&2
}

# What a person would look at first when the product does not get ready.
diagnose() {
  command -v kubectl >/dev/null && kubectl --request-timeout=5s version >/dev/null 2>&1 || return 0
  local namespace pod ready reason shown=0
  echo "--- pods that are not ready"
  while read -r namespace pod ready reason; do
    [[ $ready != True && $reason != Succeeded ]] || continue
    echo "$namespace/$pod ($reason)"
    ((++shown <= 4)) || continue
    kubectl -n "$namespace" get pod "$pod" -o \
      'jsonpath={range .status.containerStatuses[*]}{.name}{": "}{.state.waiting.reason}{" "}{.state.waiting.message}{.state.terminated.reason}{"\n"}{end}' | sed 's/^/    /' || true
    kubectl -n "$namespace" logs "$pod" --all-containers --tail=12 2>/dev/null | sed 's/^/    | /' || true
  done < <(kubectl get pods -A --no-headers -o \
    'custom-columns=N:.metadata.namespace,P:.metadata.name,R:.status.conditions[?(@.type=="Ready")].status,S:.status.phase')
  echo "--- warnings"
  kubectl get events -A --field-selector type=Warning --sort-by=.lastTimestamp --no-headers 2>/dev/null | tail -n 8
  if kubectl get crd tenants.stellar-memory.dev >/dev/null 2>&1; then
    echo "--- tenants"
    kubectl get tenants -A -o wide
  fi
}

# What the installation's programs warned of lately: a failing test tells only what its client saw.
tell_warnings() {
  local pod
  for pod in $(kubectl -n "$NAMESPACE" get pods -o name); do
    echo "--- warnings of ${pod#pod/}"
    kubectl -n "$NAMESPACE" logs "$pod" --all-containers --since=15m 2>/dev/null |
      grep -E '"level":"(WARN|ERROR)"|(ERROR|FATAL|PANIC): ' | tail -n 25 || true
  done
}

# Values of the chart for images that are already on the node, or that the cluster can pull.
image_values() { # REPOSITORY:TAG POSTGRES_REPOSITORY:TAG|""
  printf '%s\n' --set "image.repository=${1%:*}" --set-string "image.tag=${1##*:}"
  [[ -z ${2:-} ]] || printf '%s\n' --set "postgres.image.repository=${2%:*}" --set-string "postgres.image.tag=${2##*:}"
}

install_chart() { # HELM_ARGUMENT…
  helm upgrade --install "$RELEASE" "$CHART" --namespace "$NAMESPACE" --create-namespace --wait --wait-for-jobs --timeout 5m "$@"
}

# A helm that was killed leaves a revision that is "pending" for ever, and refuses every later one. For a node of
# our own, where no other helm can be at work: the lock of `make up` says so.
forget_pending() {
  kubectl --namespace "$NAMESPACE" delete secret --ignore-not-found \
    --selector "owner=helm,name=$RELEASE,status in (pending-install, pending-upgrade, pending-rollback)"
}

# The chart's migrate Job makes the CRDs, because helm never upgrades those in crds/.
wait_for_crds() {
  kubectl wait --for=create crd/tenants.stellar-memory.dev --timeout=60s
  kubectl wait --for=condition=Established crd/tenants.stellar-memory.dev --timeout=60s
}

apply_samples() { wait_for 30 "the API server to take Tenants" kubectl apply -f "$CHART/samples/"; }

wait_for_tenants() { kubectl wait --for=condition=Ready tenant --all --all-namespaces --timeout=180s; }

sample_tenants() { kubectl get -f "$CHART/samples/" -o name | sed -n 's|^tenant\.stellar-memory\.dev/||p'; }

# A request of a tenant.
as_tenant() { # TENANT CURL_ARGUMENT…
  local header=$scratch/header-$1
  shift
  curl --silent --show-error --fail-with-body --max-time 20 --header "@$header" "$@"
}

# The words are in $scratch/stored afterwards, with their id.
store() { # GATEWAY_URL TENANT WORDS
  local url=$1 tenant=$2 words=$3 header=$scratch/header-$2
  (
    umask 077
    kubectl -n "$NAMESPACE" get secret "$tenant-api-key" -o 'jsonpath={.data.api-key}' | base64 -d |
      { IFS= read -r key || [[ -n $key ]]; printf 'X-API-Key: %s\n' "$key"; } >"$header"
  ) || { say "tenant $tenant has no API key in the Secret $NAMESPACE/$tenant-api-key"; return 1; }
  stored() {
    as_tenant "$tenant" --header 'Content-Type: application/json' --data "{\"content\": \"$words\"}" "$url/api/v1/store" >"$scratch/stored"
  }
  wait_for 30 "the gateway to know the tenant $tenant" stored || { stored || cat "$scratch/stored"; return 1; }
}

recall() { # GATEWAY_URL TENANT QUESTION WORDS
  local answer
  answer=$(as_tenant "$2" --get --data-urlencode "q=$3" "$1/api/v1/recall") || { say "recall as $2: $answer"; return 1; }
  [[ $answer == *"$4"* ]] || { say "tenant $2 stored a memory and did not get it back; recall answered: $answer"; return 1; }
}

# Stores, recalls and forgets one memory as a tenant.
round_trip() { # GATEWAY_URL TENANT
  local url=$1 tenant=$2 id words
  words="The lighthouse keeper of $tenant waters the orchids at dawn"
  store "$url" "$tenant" "$words" || return 1
  id=$(grep -o '"id": *"[^"]*"' "$scratch/stored" | head -1 | cut -d'"' -f4)
  recall "$url" "$tenant" 'who waters the orchids' "$words" || return 1
  [[ -z $id ]] || as_tenant "$tenant" --request DELETE "$url/api/v1/forget/$id"
}

# Everything after the cluster, up to tenants that are Ready.
deploy() { # HELM_ARGUMENT…
  step "helm upgrade --install $RELEASE" install_chart "$@"
  step "the Tenant resource is established" wait_for_crds
  step "sample tenants applied" apply_samples
  step "every tenant is Ready" wait_for_tenants
}

try_tenants() { # GATEWAY_URL
  local tenants tenant
  tenants=$(sample_tenants)
  [[ -n $tenants ]] || die "there is no Tenant in $CHART/samples to try."
  for tenant in $tenants; do
    step "store and recall as $tenant" round_trip "$1" "$tenant"
  done
}

# Everything from nothing to the chart's images on a node: packages, tools, node, binaries, images.
# Sets PATH, KUBECONFIG, node_images and product_tag.
prepare_node() { # DIR
  local dir=$1 tools bin product postgres
  loud_step "Debian packages" "$CLUSTER_DIR/packages"
  loud_step "Kubernetes, etcd and helm" build_tools
  tools=$("$CLUSTER_DIR/tools")
  export PATH=$tools:$PATH KUBECONFIG=$dir/kubeconfig
  command -v cargo >/dev/null || die "cargo is missing; install Rust as rust-toolchain.toml names it, then run this again."
  loud_step "cargo build" cargo build --manifest-path "$REPO_DIR/Cargo.toml" --workspace --bins
  STEP_HINT="each part of the node has a log in $dir/logs" step "the node" "$CLUSTER_DIR/node" up "$dir"
  bin=${CARGO_TARGET_DIR:-$REPO_DIR/target}/debug
  step "container images" make_images "$bin"
  read -r product product_tag <"$scratch/product"
  read -r postgres <"$scratch/postgres"
  step "images loaded into the node" load_images "$dir" "$product" "$postgres"
  # shellcheck disable=SC2034 # for the caller
  mapfile -t node_images < <(image_values "localhost/stellar-memory:$product_tag" localhost/stellar-postgres:15)
}

build_tools() { "$CLUSTER_DIR/tools" "$@" >/dev/null; }

make_images() { # BIN_DIR
  "$CLUSTER_DIR/images" product "$1" auto >"$scratch/product"
  "$CLUSTER_DIR/images" postgres >"$scratch/postgres"
}

load_images() { # DIR TAR…
  local dir=$1 tar
  shift
  for tar in "$@"; do "$CLUSTER_DIR/node" load "$dir" "$tar"; done
}

# The gateway of a node is at this port of the node's own address.
NODE_PORT=30080
node_values() { printf '%s\n' --set gateway.service.type=NodePort --set "gateway.service.nodePort=$NODE_PORT"; }
