#!/bin/sh
# The first process of a PostgreSQL container: creates the database if there is none, then runs the command.
#   POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA   as in the official image
set -eu
umask 077
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?is required to create a database}"
  user=${POSTGRES_USER:-postgres}
  database=${POSTGRES_DB:-$user}
  # Made beside its final path and moved there when complete, because a container can be killed at any time.
  new=$PGDATA.new
  rm -rf "$new"
  printf '%s\n' "$POSTGRES_PASSWORD" | initdb --pgdata="$new" --username="$user" --pwfile=/dev/stdin \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
  echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$new/postgresql.conf"
  [ "$database" = postgres ] || printf 'CREATE DATABASE "%s";\n' "$database" | postgres --single -D "$new" postgres
  rmdir "$PGDATA" 2>/dev/null || true
  mv "$new" "$PGDATA"
fi
unset POSTGRES_PASSWORD
exec "$@"
