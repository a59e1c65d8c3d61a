# shellcheck shell=bash
# Words that every script of the harness shares: where the cache is, how to speak, how to fail.
# Sourced, never run. Always holds: a line for people goes to stderr, so that stdout stays for the
# answer a script was asked for, and a failure is one sentence that says what to do.

CLUSTER_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034 # for those that source this
REPO_DIR=$(cd -- "$CLUSTER_DIR/../.." && pwd)
CACHE_DIR=${STELLAR_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/stellar-memory}

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# duration SECONDS -> "7 s" or "3 min 12 s"
duration() {
  if (($1 < 60)); then printf '%d s' "$1"; else printf '%d min %d s' $(($1 / 60)) $(($1 % 60)); fi
}

# Twelve hex digits that name the content of the given files and words; "-" reads stdin.
key_of() { cat -- "$@" | sha256sum | cut -c1-12; }

# wait_for SECONDS WHAT COMMAND…: until the command succeeds; false after that many seconds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { say "waited too long for $what"; return 1; }
    sleep 0.2
  done
}

# One holder at a time for a piece of the cache: two runs side by side build a thing once.
# The lock ends with the process that took it, however that ends.
with_lock() {
  local name=$1
  shift
  mkdir -p "$CACHE_DIR"
  (
    exec 9>"$CACHE_DIR/$name.lock"
    flock 9
    "$@" 9>&-
  )
}
