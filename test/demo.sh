#!/usr/bin/env bash
# Shows conpool at work on two throw-away servers: "make demo".
#
#   make demo KEEP=1        leaves the servers running and says how to use them
#
# Prints every SQL statement it runs. Takes half a minute, most of it to build.
set -euo pipefail
cd "$(dirname "$0")/.."
test/bootstrap.sh
source test/lib.sh

SESSIONS=40
SECONDS_OF_LOAD=6

# say LINE...: what the reader is about to see.
say() {
    echo
    printf -- '-- %s\n' "$@"
}

# sql CLUSTER DATABASE ROLE [PSQL_ARG...]: runs stdin and shows it.
sql() {
    local cluster=$1 db=$2 role=$3
    shift 3
    psql_on "$cluster" -a -q -P pager=off -d "$db" -U "$role" "$@"
}

# value CLUSTER DATABASE QUERY: one value, unseen.
value() {
    psql_on "$1" -Atq -d "$2" -c "$3"
}

# until_logged CLUSTER PATTERN: waits for a line of the log, 20 s at most.
until_logged() {
    local deadline=$((SECONDS + 20))
    until grep -qE "$2" "$WORK/$1.log"; do
        ((SECONDS < deadline)) || die "this was not logged: $2"
        sleep 0.1
    done
}

# until_true CLUSTER DATABASE QUERY: waits for a condition, 20 s at most.
until_true() {
    local deadline=$((SECONDS + 20))
    until [[ $(value "$@") == t ]]; do
        ((SECONDS < deadline)) || die "this did not become true: $3"
        sleep 0.1
    done
}

start_servers() {
    echo "building conpool, starting two servers in $WORK"
    build_stage COPT="${COPT:-}"
    new_cluster remote "cluster_name = 'remote'"
    new_cluster local "cluster_name = 'local'" "max_connections = 100" \
        "$(preload_settings)"
    start_cluster remote
    start_cluster local
}

fill_remote() {
    say "The remote server, port ${PORT[remote]}: a shop with its orders. Clients need a" \
        "SCRAM password."
    sql remote postgres postgres <<'SQL'
CREATE ROLE shop_app LOGIN PASSWORD 'correct horse battery staple';
CREATE DATABASE shop OWNER shop_app;
SQL
    sql remote shop shop_app <<'SQL'
CREATE TABLE orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer int NOT NULL,
    placed_on date NOT NULL,
    article text NOT NULL,
    total numeric(10,2) NOT NULL);
INSERT INTO orders (customer, placed_on, article, total)
    SELECT 1 + floor(500 * random() ^ 1.5), date '2025-01-01' + n / 140,
           (ARRAY['bicycle bell', 'tyre 28"', 'saddle', 'dynamo', 'chain',
                  'brake pads', 'lamp', 'mudguard'])[1 + floor(8 * random() ^ 2)],
           5 + 90 * random() ^ 3
    FROM generate_series(1, 50000) AS n;
CREATE INDEX ON orders (customer);
ANALYZE orders;
SQL
}

set_up_local() {
    say "The local server, port ${PORT[local]}: the office, with its customers." \
        "shared_preload_libraries = 'conpool' is in its postgresql.conf."
    sql local postgres postgres <<'SQL'
CREATE DATABASE office;
CREATE ROLE app LOGIN;
SQL
    sql local office postgres <<'SQL'
CREATE TABLE customers (id int PRIMARY KEY, name text, city text);
INSERT INTO customers
    SELECT n, (ARRAY['Ada', 'Ben', 'Chloe', 'Dirk', 'Eva'])[1 + n % 5] || ' ' ||
              (ARRAY['Adler', 'Brandt', 'Costa', 'Dubois', 'Evans', 'Fischer',
                     'Garcia'])[1 + n % 7],
           (ARRAY['Berlin', 'Porto', 'Lyon', 'Leeds'])[1 + n % 4]
    FROM generate_series(1, 500) AS n;
GRANT SELECT ON customers TO app;
SQL

    say "The extension; a server, which is a pool of at most 4 connections; who may" \
        "use it, and with which remote role and password."
    sql local office postgres <<SQL
CREATE EXTENSION conpool;
CREATE SERVER orders FOREIGN DATA WRAPPER conpool
    OPTIONS (host '127.0.0.1', port '${PORT[remote]}', dbname 'shop', max_size '4');
CREATE USER MAPPING FOR app SERVER orders
    OPTIONS (user 'shop_app', password 'correct horse battery staple');
GRANT USAGE ON FOREIGN SERVER orders TO app;
SQL
}

show_queries() {
    say "A pooled query with a parameter, joined to a local table. From here on we" \
        "are the role \"app\", who is no superuser."
    sql local office app <<'SQL'
SELECT c.name, c.city, o.*
FROM customers c,
     conpool.query('orders',
                   'SELECT id, placed_on, article, total FROM orders
                    WHERE customer = $1 ORDER BY total DESC LIMIT 5', 42)
         AS o(id int, placed_on date, article text, total numeric)
WHERE c.id = 42;
SQL
    say "Once per local row: the parameter is a column."
    sql local office app <<'SQL'
SELECT c.name, o.orders, o.total
FROM customers c,
     LATERAL conpool.query('orders',
                           'SELECT count(*), sum(total) FROM orders
                            WHERE customer = $1', c.id)
         AS o(orders bigint, total numeric)
WHERE c.city = 'Porto' ORDER BY o.total DESC LIMIT 3;
SQL
    say "JSON needs no column list; exec returns the command tag."
    sql local office app <<'SQL'
SELECT * FROM conpool.query_json('orders',
    'SELECT article, count(*) FROM orders GROUP BY article ORDER BY 2 DESC LIMIT 3');
SELECT conpool.exec('orders',
    'UPDATE orders SET total = total * 0.9 WHERE customer = $1', 42);
SQL
    say "Each of these was a session of its own, and there was one connection: it" \
        "outlives the session. The next one takes it over with its first query."
    sql local office app <<'SQL'
\timing on
SELECT * FROM conpool.query('orders', 'SELECT 1') AS t(first int);
SELECT * FROM conpool.query('orders', 'SELECT 1') AS t(second int);
\timing off
SELECT checkouts, connects, total_connect_time FROM conpool.stat_pools;
SQL
    say "A lease keeps one connection for several statements, here for their" \
        "temporary table."
    sql local office app <<'SQL'
SELECT conpool.checkout('orders', 'session') AS lease \gset
SELECT conpool.exec(:lease, 'CREATE TEMP TABLE best AS
    SELECT customer, sum(total) AS total FROM orders GROUP BY 1 ORDER BY 2 DESC LIMIT 3');
SELECT c.name, b.total
FROM conpool.query(:lease, 'SELECT customer, total FROM best') AS b(id int, total numeric)
     JOIN customers c USING (id) ORDER BY b.total DESC;
SELECT conpool.checkin(:lease);
SQL
}

show_sharing() {
    local script=$WORK/load.sql
    say "$SESSIONS sessions at once, for $SECONDS_OF_LOAD seconds; each repeats"
    as_server tee "$script" <<'SQL'
\set customer random(1, 500)
SELECT c.name, o.total
FROM customers c,
     conpool.query('orders', 'SELECT sum(total) FROM orders WHERE customer = $1',
                   :customer) AS o(total numeric)
WHERE c.id = :customer;
SQL
    "$BINDIR/pgbench" -n -c "$SESSIONS" \
        -j 2 -T "$SECONDS_OF_LOAD" -f "$script" -h "$SOCKETS" \
        -p "${PORT[local]}" -U app office >"$WORK/load.out" 2>&1 &
    local load=$!
    until_true local office "SELECT count(*) = $SESSIONS FROM pg_stat_activity
        WHERE application_name = 'pgbench'"

    say "Meanwhile, sessions here ..."
    sql local office postgres <<'SQL'
SELECT count(*) AS local_sessions FROM pg_stat_activity
    WHERE application_name = 'pgbench';
SQL
    say "... and backends there:"
    local n
    for n in 1 2 3; do
        sql remote postgres postgres <<'SQL'
SELECT count(*) AS remote_backends FROM pg_stat_activity WHERE usename = 'shop_app';
SQL
        ((n == 3)) || sleep 1
    done
    say "The pool sees who has a connection and who waits for one."
    sql local office postgres <<'SQL'
SELECT server, role, size, leased, idle, waiting, max_size FROM conpool.pools;
SELECT position, pid, role, waited_for FROM conpool.waiters ORDER BY position LIMIT 3;
SQL
    wait "$load" || { cat "$WORK/load.out" >&2; die "pgbench failed"; }
    say "pgbench reports"
    grep -E '^(number of clients|number of transactions actually|number of failed|latency average|tps)' \
        "$WORK/load.out"
    say "How long did they wait for a connection? Times are milliseconds."
    sql local office postgres -x <<'SQL'
SELECT server, role, queries, query_errors, checkouts, waited,
       round((total_wait_time / checkouts)::numeric, 3) AS mean_wait_time,
       round(max_wait_time::numeric, 3) AS max_wait_time,
       connects, round((total_connect_time / connects)::numeric, 3) AS mean_connect_time
FROM conpool.stat_pools;
SQL
}

show_leak() {
    say "Who forgets to give a connection back is named: here after 2 seconds."
    sql local office postgres <<'SQL'
ALTER SERVER orders OPTIONS (ADD leak_threshold '2s');
SQL
    say "A session takes a lease, reads, and then attends to something else."
    mkfifo "$WORK/report.in"
    sql local office app -v ON_ERROR_STOP=0 <"$WORK/report.in" &
    local report=$!
    exec 4>"$WORK/report.in"
    cat >&4 <<'SQL'
SET application_name = 'nightly_report';
SELECT conpool.checkout('orders', 'session') AS lease \gset
SELECT * FROM conpool.query(:lease, 'SELECT count(*) FROM orders') AS t(orders bigint);
SQL
    until_true local office "SELECT count(*) = 1 FROM conpool.leaks"
    say "Meanwhile, another session asks who it is."
    sql local office postgres <<'SQL'
SELECT server, role, pid, held_for, sql FROM conpool.leaks;
SELECT lease, pid, application_name, scope, held_for, remote_pid FROM conpool.leases;
SQL
    say "The server's log says so, too."
    until_logged local 'WARNING: .*leak'
    grep -A 2 -E 'WARNING: .*leak' "$WORK/local.log"
    say "The session ends, and its connection is back in the pool. Who it was is kept."
    exec 4>&-
    wait "$report"
    until_true local office "SELECT sum(leased + resetting) = 0 FROM conpool.pools"
    sql local office postgres <<'SQL'
SELECT size, idle, leased FROM conpool.pools;
SELECT server, role, pid, held_for, class FROM conpool.leaks;
SQL
}

show_views() {
    say "The views: the pools, their connections, what was counted."
    sql local office postgres -x <<'SQL'
SELECT * FROM conpool.pools;
SQL
    sql local office postgres <<'SQL'
SELECT slot, role, state, remote_pid, uses, opened_at::time(0), idle_since::time(0)
FROM conpool.connections ORDER BY slot;
SQL
    sql local office postgres -x <<'SQL'
SELECT * FROM conpool.stat_pools;
SQL
}

# The end: gone, or how to go on by hand.
finish() {
    echo
    if [[ -z ${KEEP:-} ]]; then
        echo "Done. The servers are stopped and removed; \"make demo KEEP=1\" leaves them."
        return
    fi
    local stop=$WORK/stop.sh run=()
    [[ -z $SERVER_USER ]] || run=(runuser -u "$SERVER_USER" --)
    {
        for name in local remote; do
            echo "${run[*]} $BINDIR/pg_ctl -D $WORK/$name -m fast stop"
        done
        echo "rm -rf $WORK"
    } >"$stop"
    LEAVE_RUNNING=1
    cat <<END
The servers are still running.
  local, with conpool:  psql -h $SOCKETS -p ${PORT[local]} -U app office
  the same, as superuser: psql -h $SOCKETS -p ${PORT[local]} -U postgres office
  remote:               psql -h $SOCKETS -p ${PORT[remote]} -U postgres shop
  stop and remove them: sh $stop
END
}

find_postgres
start_work demo
start_servers
fill_remote
set_up_local
show_queries
show_sharing
show_leak
show_views
finish
