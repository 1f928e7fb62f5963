#!/usr/bin/env bash
# Prepares the running server that the PG* variables lead to for
# "make installcheck": it plays the remote's part as well, over 127.0.0.1, so
# its pg_hba.conf must ask for passwords there.
#
#   test/setup.sh DATABASE...      databases are dropped and created
set -euo pipefail
source "$(dirname "$0")/lib.sh"

find_postgres
setup_remote
port=$(psql -XAtq -d postgres -c 'SHOW port')
for db; do
    setup_local "$db" 127.0.0.1 "$port"
done
