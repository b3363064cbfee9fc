#!/bin/sh
# Makes a database cluster in an empty PGDATA and starts PostgreSQL, with the variables of the official image: POSTGRES_PASSWORD
# (or POSTGRES_PASSWORD_FILE), POSTGRES_USER, POSTGRES_DB, POSTGRES_INITDB_ARGS, PGDATA. Runs as the user postgres, never as root.
#
# The cluster is made in PGDATA/.init and moved up when it is complete, PG_VERSION last: a pod that is killed in the middle
# starts over, and never runs on half a cluster.
set -eu

fail() {
    printf 'postgres: %s\n' "$*" >&2
    exit 1
}

# What is in PGDATA, but for what a file system puts there itself.
content() {
    ls -A "$PGDATA" | grep -vx 'lost+found' || true
}

make_cluster() {
    password=${POSTGRES_PASSWORD:-}
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        password=$(cat "$POSTGRES_PASSWORD_FILE")
    fi
    [ -n "$password" ] || fail 'PGDATA is empty and POSTGRES_PASSWORD is not set: a superuser needs a password'
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    new=$PGDATA/.init

    if [ -d "$new" ]; then
        echo 'postgres: an earlier start was cut before the cluster was complete; starting over'
        content | while IFS= read -r entry; do rm -rf "${PGDATA:?}/$entry"; done
    fi
    [ -z "$(content)" ] || fail "$PGDATA has files but no PG_VERSION: it is not a database cluster, and is left as it is"

    umask 077
    mkdir "$new"
    printf '%s\n' "$password" >"$new.password"
    mkdir "$new/data"
    # shellcheck disable=SC2086 # several arguments in one variable, as the official image has it
    initdb --pgdata="$new/data" --username="$user" --pwfile="$new.password" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
    rm "$new.password"
    printf '\n# Added when the cluster was made.\nhost all all all scram-sha-256\n' >>"$new/data/pg_hba.conf"
    printf "\n# Added when the cluster was made.\nlisten_addresses = '*'\n" >>"$new/data/postgresql.conf"
    if [ "$database" != postgres ]; then
        quoted=$(printf '%s' "$database" | sed 's/"/""/g')
        printf 'CREATE DATABASE "%s";\n' "$quoted" | postgres --single -D "$new/data" postgres >/dev/null
    fi

    ls -A "$new/data" | while IFS= read -r entry; do
        [ "$entry" = PG_VERSION ] || mv "$new/data/$entry" "$PGDATA/$entry"
    done
    sync
    mv "$new/data/PG_VERSION" "$PGDATA/PG_VERSION"
    sync
}

case ${1:-} in
'' | -*) set -- postgres "$@" ;;
esac

if [ "$1" = postgres ]; then
    [ "$(id -u)" != 0 ] || fail 'this image runs as uid 999 (runAsUser: 999, fsGroup: 999), not as root'
    mkdir -p "$PGDATA"
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        make_cluster
    fi
    rm -rf "$PGDATA/.init"
    # Kept by a volume from before the permissions were right; PostgreSQL refuses a data folder that others can read.
    chmod 0700 "$PGDATA" 2>/dev/null || true
fi
exec "$@"
