# shellcheck shell=bash
# The chart on a Postgres that is not its own, with PgBouncer before it, as charts/stellar-memory/README.md says it is done: for
# the end-to-end tests. Sourced after deploy.sh; kubectl and helm are on PATH.
# Always holds: both are processes in a node's namespaces, on the node's address, and no pods: they end with the node at the latest.

external='' # their folder; whoever sources this removes it when the node is gone
POSTGRES_15=/usr/lib/postgresql/15/bin
POOLER=$CHART/pooler

external_postgres() { # NODE HELM_ARGUMENT…
  local node=$1 url
  shift
  external=$(mktemp -d "${TMPDIR:-/tmp}/stellar-postgres.XXXXXX")
  chown postgres: "$external"
  step "a Postgres that is no pod" start_postgres
  step "PgBouncer before it" start_pgbouncer
  # The Tenants of the former release come along, with their keys; what they remembered was in the Postgres that is gone. So do
  # the Secrets of logins, with its address: programs begin with that and find the new one.
  deploy "$@" --set postgres.enabled=false --set postgres.external.existingSecret=postgres-admin \
    --set postgres.external.host=10.200.0.1 --set postgres.external.port=6432 --set-file "postgres.external.caCertificate=$external/ca.crt"
  step "every tenant is in it" wait_for 120 "the tenants' places" placed
  url=http://127.0.0.1:$("$CLUSTER_DIR/node" forward "$node" gateway 0 "10.200.0.1:$NODE_PORT")
  try_tenants "$url"
  step "engines go through PgBouncer, others straight" through_pgbouncer
  step "a memory of a pooled tenant" store "$url" ada "The beekeeper whistles in the rain"
  step "its tier is a dedicated one" move_to_pro ada
  step "its memory is there" wait_for 30 "the memory" recall "$url" ada "who whistles" "The beekeeper whistles in the rain"
  step "engines go through PgBouncer still" through_pgbouncer
  step "helm uninstall" helm uninstall "$RELEASE" --namespace "$NAMESPACE" --wait
  step "PgBouncer and Postgres end" end_external
}

as_postgres() { env --chdir "$external" setpriv --reuid postgres --regid postgres --clear-groups "$@"; }

superuser() { # DATABASE; SQL comes from stdin, for it may hold a password
  as_postgres "$POSTGRES_15/psql" -XqAt -v ON_ERROR_STOP=1 --host "$external" --dbname "$1" --file -
}

start() { # NAME COMMAND…
  local name=$1
  shift
  # The number is the one that the process has in the node.
  # shellcheck disable=SC2016
  setsid "$CLUSTER_DIR/node" exec "$node" setpriv --reuid postgres --regid postgres --clear-groups \
    sh -c 'cd "$1" && echo $$ >"$2.pid" && shift 2 && exec "$@"' sh "$external" "$name" "$@" </dev/null >"$external/$name.log" 2>&1 &
}

# At once, whoever is connected: engines of the Tenants are. Bash lets what it starts in the background ignore QUIT, which only
# Postgres sets right for itself.
end_external() {
  end pgbouncer KILL
  end postgres QUIT
}

end() { # NAME SIGNAL
  # shellcheck disable=SC2016
  "$CLUSTER_DIR/node" exec "$node" timeout 30 sh -c 'kill -s "$2" "$1" && while [ -d "/proc/$1" ]; do sleep 0.1; done' sh \
    "$(<"$external/$1.pid")" "$2"
}

# An authority of the user's own, and what it signed for the one address that both have.
make_certificates() {
  as_postgres openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority
  as_postgres openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr -subj /CN=postgres
  printf 'subjectAltName=IP:10.200.0.1,IP:127.0.0.1' >"$external/names"
  as_postgres openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out tls.crt -extfile names
}

# Its administrator is no superuser. Engines may come from PgBouncer only, which is on the same machine.
start_postgres() {
  local password
  password=$(openssl rand -hex 16)
  make_certificates
  as_postgres "$POSTGRES_15/initdb" --pgdata data --username postgres --auth reject --no-sync --encoding UTF8 --locale C
  cat >"$external/data/pg_hba.conf" <<'HBA'
local   all postgres peer
hostssl all all 127.0.0.1/32 scram-sha-256
hostssl all keeper,stellar_operator,stellar_gateway all scram-sha-256
HBA
  start postgres "$POSTGRES_15/postgres" -D data -c listen_addresses=10.200.0.1,127.0.0.1 -c "unix_socket_directories=$external" \
    -c ssl=on -c "ssl_cert_file=$external/tls.crt" -c "ssl_key_file=$external/tls.key" -c fsync=off
  wait_for 30 "Postgres" as_postgres "$POSTGRES_15/pg_isready" --host "$external" || { cat "$external/postgres.log"; return 1; }
  superuser postgres <<<"CREATE ROLE keeper LOGIN CREATEROLE PASSWORD '$password'; CREATE DATABASE stellar OWNER keeper"
  (umask 077; printf 'postgres://keeper:%s@10.200.0.1:5432/stellar?sslmode=verify-full' "$password" >"$external/url")
  kubectl create secret generic postgres-admin -n "$NAMESPACE" "--from-file=url=$external/url"
}

# With the chart's two files as they are, but for addresses and the folder.
start_pgbouncer() {
  local password
  password=$(openssl rand -hex 16)
  superuser stellar <"$POOLER/login.sql"
  superuser stellar <<<"ALTER ROLE pgbouncer PASSWORD '$password'"
  printf '"pgbouncer" "%s"\n' "$password" | as_postgres tee "$external/userlist.txt" >/dev/null
  { sed -e 's|host=db\.example\.com|host=127.0.0.1|' -e "s|/etc/pgbouncer/|$external/|" "$POOLER/pgbouncer.ini"
    printf 'unix_socket_dir = %s\n' "$external"; } >"$external/pgbouncer.ini"
  start pgbouncer /usr/sbin/pgbouncer "$external/pgbouncer.ini"
  wait_for 10 "PgBouncer" test -S "$external/.s.PGSQL.6432" || { cat "$external/pgbouncer.log"; return 1; }
}

# Ready may be what the operator of the former release wrote.
placed() {
  local places
  places=$(superuser stellar <<'SQL'
SELECT string_agg(name || ' ' || placement, ', ' ORDER BY name) FROM stellar.users WHERE name IN ('ada', 'grace', 'katherine')
SQL
  )
  [[ $places == 'ada pooled, grace dedicated, katherine dedicated' ]]
}

# By the address that Postgres sees: connections stay open long enough to be seen.
through_pgbouncer() {
  local sessions
  sessions=$(superuser stellar <<'SQL'
SELECT DISTINCT CASE WHEN usename LIKE 't\_%' THEN 'tenant' ELSE usename END || CASE client_addr WHEN '127.0.0.1' THEN ' through' ELSE ' past' END
FROM pg_stat_activity WHERE datname = 'stellar' AND usename <> 'postgres' ORDER BY 1
SQL
  )
  echo "$sessions"
  [[ $sessions == $'pgbouncer through\nstellar_gateway past\nstellar_operator past\nstellar_pool through\ntenant through' ]]
}

move_to_pro() { # TENANT
  kubectl patch tenant "$1" --type merge --patch '{"spec": {"tier": "pro"}}'
  kubectl wait tenant "$1" --for 'jsonpath={.status.placement}=dedicated' --timeout 120s
  kubectl wait tenant "$1" --for condition=Ready --timeout 60s
}
