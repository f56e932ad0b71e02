#!/usr/bin/env bash
# An MLflow server on PostgreSQL, both on 127.0.0.1, under a temporary folder; for tests.
#   apt-get install postgresql; pip install -e '.[postgres]'
#   tests/postgres/server.sh start        prints what tells the tests of it:  export TESTED_SERVER=... TESTED_DATABASE=...
#   tests/postgres/server.sh stop         ends what start began
# PYTHON is the interpreter with MLflow; PGBIN the folder of initdb and pg_ctl.
set -euo pipefail
DIR=${POSTGRES_TEST_DIR:-${TMPDIR:-/tmp}/postgres-for-tests}
PYTHON=${PYTHON:-$(dirname "$0")/../../.venv/bin/python}
PGBIN=${PGBIN:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
DATABASE_PORT=${DATABASE_PORT:-55432}
SERVER_PORT=${SERVER_PORT:-55000}
PASSWORD=only-for-tests
DATABASE=postgresql+psycopg://mlflow:$PASSWORD@127.0.0.1:$DATABASE_PORT/mlflow

start() {
    [ ! -e "$DIR" ] || { echo "$DIR is there already: $0 stop" >&2; exit 1; }
    mkdir -p "$DIR"/{db,artifacts}
    printf %s "$PASSWORD" >"$DIR/password"
    [ "$(id -u)" != 0 ] || chown -R postgres "$DIR/db" "$DIR/password"
    as_postgres "$PGBIN/initdb" -D "$DIR/db" -U mlflow --auth=scram-sha-256 --pwfile="$DIR/password" >"$DIR/initdb.log"
    as_postgres "$PGBIN/pg_ctl" -D "$DIR/db" -w -l "$DIR/db/log" start >/dev/null \
        -o "-p $DATABASE_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    PGPASSWORD=$PASSWORD "$PGBIN/createdb" -h 127.0.0.1 -p "$DATABASE_PORT" -U mlflow mlflow
    start_mlflow
    echo "export TESTED_SERVER=http://127.0.0.1:$SERVER_PORT TESTED_DATABASE=$DATABASE"
}

# the password is in the environment: everybody can read the arguments of a process
start_mlflow() {
    MLFLOW_BACKEND_STORE_URI=$DATABASE MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true \
        setsid "$PYTHON" -m mlflow server --host 127.0.0.1 --port "$SERVER_PORT" --workers 2 \
        --artifacts-destination "$DIR/artifacts" >"$DIR/mlflow.log" 2>&1 </dev/null &
    echo $! >"$DIR/mlflow.pid"
    for _ in $(seq 180); do
        kill -0 "$(cat "$DIR/mlflow.pid")" 2>/dev/null || break
        ! curl -fs -o /dev/null "http://127.0.0.1:$SERVER_PORT/health" || return 0
        sleep 1
    done
    tail -n 20 "$DIR/mlflow.log" >&2
    exit 1
}

as_postgres() {
    if [ "$(id -u)" = 0 ]; then (cd / && setpriv --reuid postgres --regid postgres --clear-groups "$@"); else "$@"; fi
}

stop() {
    [ -e "$DIR" ] || { echo "nothing was started in $DIR" >&2; exit 1; }
    [ ! -e "$DIR/mlflow.pid" ] || kill -- "-$(cat "$DIR/mlflow.pid")" 2>/dev/null || true
    as_postgres "$PGBIN/pg_ctl" -D "$DIR/db" -m fast stop >/dev/null || true
    rm -rf "$DIR"
}

case ${1-} in
    start | stop) "$1" ;;
    *) sed -n '2,6p' "$0" >&2; exit 2 ;;
esac
