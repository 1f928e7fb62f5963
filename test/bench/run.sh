#!/usr/bin/env bash
# Compares conpool with dblink, PgBouncer and postgres_fdw on this machine.
#
#   make bench                                    everything, some 20 minutes
#   CASES="a c64" PEERS="conpool dblink_open" make bench
#   CASES=t make bench                            what goes over TLS
#
# CASES, what is measured (pgbench against the local server, one remote query
# per transaction):
#   a        select 1, one session
#   b        primary key lookup in pgbench_accounts, one session
#   a8 a64   select 1, 8 and 64 sessions; b8 b64 the lookup; c8 c64 both
#   d        500,000 rows of (int, text, numeric, timestamptz), one session
#   ta ta8 ta64 td    the same over TLS, to a remote of its own that takes
#            nothing else, with sslmode verify-full; t all four. Of the peers
#            below conpool, dblink_call, dblink_open and dblink_pgbouncer, whose
#            PgBouncer has TLS to the remote and none to dblink
#   x        a transaction of five updates by primary key, one session: scope
#            transaction, postgres_fdw, dblink with BEGIN and COMMIT by hand
#   m        select 1 on four servers at once, one session: map, and four
#            asynchronous connections of dblink
#   u        select 1 by code written for dblink, unchanged, with dblink and with
#            conpool_dblink, one session
# PEERS, who is measured:
#   conpool, conpool_untracked (conpool.track off), conpool_always (reset
#   'always'), each with 8 connections;
#   dblink_call (connects for each call), dblink_open (kept open, one per
#   session), companion_call and companion_open (the same code on
#   conpool_dblink), dblink_pgbouncer (kept open, to a PgBouncer with 8 connections
#   in transaction mode), postgres_fdw (one connection per session)
#
# ROUNDS=5           times everybody is measured, in turns
# DURATION=2         seconds of one measurement, after one second to settle
# MODE=prepared      pgbench's protocol: locally nothing is parsed or planned
#                    again, so that what differs is the way to the remote
# SCALE=10 ROWS=500000
# PATIENCE=60        seconds that may go into repeating measurements in which
#                    other work took more than a twentieth of the CPUs; what
#                    it took in those that count is reported
# BENCH_OUT=bench.csv    the table; BENCH_RAW=FILE also each measurement
# STRICT=1           a missed aim is a failure
#
# Anything that goes wrong in a measurement (an error, a wrong answer, a
# broker that restarts) ends the script with a failure.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"

BENCH=$TOP/test/bench
ALL_PEERS="conpool conpool_untracked conpool_always dblink_call dblink_open dblink_pgbouncer"
ALL_PEERS+=" postgres_fdw companion_call companion_open"
TLS_PEERS="conpool dblink_call dblink_open dblink_pgbouncer"
PEERS=${PEERS:-$ALL_PEERS}
CASES=${CASES:-a b c8 c64 d t x m u}
ROUNDS=${ROUNDS:-5}
DURATION=${DURATION:-2}
MODE=${MODE:-prepared}
SCALE=${SCALE:-10}
ROWS=${ROWS:-500000}
PATIENCE=${PATIENCE:-60}
BENCH_OUT=${BENCH_OUT:-bench.csv}
SETTLE=1                # seconds left out at the start: sessions connect
CALLS=2                 # measured calls of case d in one round
DISTURBED=5             # percent of the CPUs that other work may take

# --- what was asked for -----------------------------------------------------

# Replaces the abbreviations in CASES and refuses what is unknown.
check_request() {
    local word cases=()
    for word in $CASES; do
        case $word in
            a | b | a8 | b8 | a64 | b64 | d | x | m | u) cases+=("$word") ;;
            ta | ta8 | ta64 | td) cases+=("$word") ;;
            t) cases+=(ta ta8 ta64 td) ;;
            c) cases+=(a8 b8 a64 b64) ;;
            c8) cases+=(a8 b8) ;;
            c64) cases+=(a64 b64) ;;
            *) die "unknown case: $word" ;;
        esac
    done
    CASES=${cases[*]}
    # Which remotes that takes.
    [[ ! " $CASES" =~ " "[abdxmu] ]] || REMOTES+=(remote)
    [[ ! " $CASES" =~ " "t ]] || REMOTES+=(remote_tls)
    for word in $PEERS; do
        [[ " $ALL_PEERS " == *" $word "* ]] || die "unknown peer: $word"
    done
    # One blank between names: SQL splits the list there.
    read -ra cases <<<"$PEERS"
    PEERS=${cases[*]}
    for word in ROUNDS DURATION SCALE ROWS; do
        [[ ${!word} =~ ^[1-9][0-9]*$ ]] || die "$word must be a number above 0"
    done
    [[ $PATIENCE =~ ^[0-9]+$ ]] || die "PATIENCE must be a number"
    [[ $BENCH_OUT == /* ]] || BENCH_OUT=$PWD/$BENCH_OUT
}

wants_conpool() {
    [[ " $PEERS" == *" conpool"* || " $PEERS" == *" companion"* ]]
}

# peers_of CASE: who is measured in it.
peers_of() {
    local peer peers=()
    for peer in $PEERS; do
        case $1 in
            t*) [[ " $TLS_PEERS " == *" $peer "* ]] || continue ;;
            x) [[ $peer =~ ^(conpool|dblink_open|postgres_fdw)$ ]] || continue ;;
            m) [[ $peer =~ ^(conpool|dblink_open)$ ]] || continue ;;
            u) [[ $peer =~ ^(companion|dblink)_(call|open)$ ]] || continue ;;
            *) [[ $peer != companion* ]] || continue ;;
        esac
        peers+=("$peer")
    done
    echo "${peers[*]}"
}

# remote_of CASE
remote_of() {
    case $1 in
        t*) echo remote_tls ;;
        *) echo remote ;;
    esac
}

# --- the servers ------------------------------------------------------------

# Everything that this script starts runs on the first two CPUs it may use.
pin() {
    local allowed part
    allowed=$(taskset -cp $$)
    for part in $(tr ',' ' ' <<<"${allowed##*: }"); do
        mapfile -t -O "${#CPUS[@]}" CPUS < <(seq "${part%-*}" "${part#*-}")
    done
    CPUS=("${CPUS[@]:0:2}")
    [[ ${#CPUS[@]} -eq 2 ]] ||
        echo "only one CPU here: the figures for many sessions say little"
    taskset -cp "$(IFS=,; echo "${CPUS[*]}")" $$ >/dev/null
}

# fill FILE NAME=VALUE...: a template with what stands between @ filled in.
fill() {
    local pair program=("-e" "s|@WORK@|$WORK|g")
    for pair in "${@:2}"; do
        program+=("-e" "s|@${pair%%=*}@|${pair#*=}|g")
    done
    sed "${program[@]}" "$1"
}

# start_remote NAME: with TLS and nothing else if that is remote_tls.
start_remote() {
    local scale=$SCALE
    new_cluster "$1" "$(<"$BENCH/remote.conf")"
    if [[ $1 == remote_tls ]]; then
        offer_tls "$1"
        scale=1 # nobody looks
    fi
    start_cluster "$1"
    psql_on "$1" -q -d postgres -c 'CREATE DATABASE bench'
    as_server "$BINDIR/pgbench" -i -q -s "$scale" -h "$SOCKETS" \
        -p "${PORT[$1]}" -U postgres bench >"$WORK/init.log" 2>&1 ||
        { cat "$WORK/init.log" >&2; die "pgbench -i failed"; }
    psql_on "$1" -q -d bench -v peers="$PEERS" -v rows="$ROWS" \
        -f "$BENCH/remote.sql"
}

# start_pgbouncer REMOTE
start_pgbouncer() {
    local daemon name=pgbouncer sslmode=disable
    daemon=$(PATH=$PATH:/usr/sbin command -v pgbouncer) ||
        die "there is no pgbouncer"
    if [[ $1 == remote_tls ]]; then
        name=pgbouncer_tls
        sslmode=verify-full
    fi
    PORT[$name]=$(free_port)
    fill "$BENCH/pgbouncer.ini" NAME="$name" PORT="${PORT[$name]}" \
        REMOTE_PORT="${PORT[$1]}" SSLMODE="$sslmode" |
        as_server tee "$WORK/$name.ini" >/dev/null
    as_server touch "$WORK/userlist.txt"
    chmod 600 "$WORK/userlist.txt"
    echo "\"bench_dblink_pgbouncer\" \"$BENCH_PASSWORD\"" >"$WORK/userlist.txt"
    # Returns when it listens.
    as_server "$daemon" -q -d "$WORK/$name.ini" ||
        { cat "$WORK/$name.log" >&2; die "$name did not start"; }
}

start_local() {
    local settings=()
    ! wants_conpool || mapfile -t settings < <(preload_settings)
    new_cluster local "$(<"$BENCH/local.conf")" "${settings[@]}"
    start_cluster local
    psql_on local -q -d postgres -c 'CREATE DATABASE bench'
    psql_on local -q -d bench -v peers="$PEERS" \
        -v remote_port="${PORT[remote]:-0}" \
        -v pgbouncer_port="${PORT[pgbouncer]:-0}" \
        -v remote_tls_port="${PORT[remote_tls]:-0}" \
        -v pgbouncer_tls_port="${PORT[pgbouncer_tls]:-0}" \
        -v root="$CERTIFICATES/root.crt" -f "$BENCH/local.sql"
}

start_samplers() {
    local name
    for name in "${REMOTES[@]}"; do
        psql_on "$name" -q -d bench -f "$BENCH/sample.sql" >"$WORK/sample.log" 2>&1 &
        SAMPLERS+=($!)
    done
}

# What end_work does not know of goes first.
end_bench() {
    local status=$? file
    trap '' INT TERM
    [[ ${#SAMPLERS[@]} -eq 0 ]] || kill "${SAMPLERS[@]}" 2>/dev/null || true
    for file in "$WORK"/pgbouncer*.pid; do
        [[ ! -s $file ]] || kill -INT "$(<"$file")" 2>/dev/null || true
    done
    if [[ $status -eq 0 ]]; then end_work; fi
    # end_work exits with the status that it finds.
    (exit "$status") || end_work
}

# --- measuring --------------------------------------------------------------

# script CASE PEER: the pgbench script for it.
script() {
    local work=one kind=$2
    case ${1#t} in
        b*) work=lookup ;;
        d) work=rows ;;
        x) work=transfer ;;
        m) work=four ;;
    esac
    case $2 in
        conpool_always | conpool_untracked) kind=conpool ;;
        dblink_pgbouncer) kind=dblink_open ;;
    esac
    echo "$BENCH/$work.$kind.sql"
}

sessions() {
    case $1 in
        *64) echo 64 ;;
        *8) echo 8 ;;
        *) echo 1 ;;
    esac
}

# run_pgbench CASE PEER ARG...: its output goes to WORK/pgbench.{out,err}.
# Whatever is not as it should be ends the script.
run_pgbench() {
    local case=$1 peer=$2 server=$2 n threads=1 status=0
    shift 2
    n=$(sessions "$case")
    [[ $n -eq 1 ]] || threads=2
    [[ $case != t* ]] || server=tls_$peer
    [[ $case$peer != xconpool ]] || server=transaction_conpool
    fill "$(script "$case" "$peer")" SERVER="$server" |
        as_server tee "$WORK/script.sql" >/dev/null
    limited $((DURATION + 120)) "$BINDIR/pgbench" -n -M "$MODE" \
        -h "$SOCKETS" -p "${PORT[local]}" -U app -c "$n" -j "$threads" \
        -D connected=0 -D accounts=$((SCALE * 100000)) -D rows="$ROWS" \
        -f "$WORK/script.sql" "$@" bench \
        >"$WORK/pgbench.out" 2>"$WORK/pgbench.err" || status=$?
    if [[ $status -ne 0 ]] ||
        ! grep -q '^number of failed transactions: 0 ' "$WORK/pgbench.out" ||
        ! grep -Eq '^number of transactions .*processed: [1-9]' "$WORK/pgbench.out"
    then
        grep -v '^progress:' "$WORK/pgbench.err" | head -n 40 >&2
        cat "$WORK/pgbench.out" >&2
        tail -n 40 "$WORK/local.log" >&2
        die "case $case failed for $peer (pgbench ended with $status)"
    fi
}

# measure_rate CASE PEER: prints transactions per second. pgbench's own figure
# would count the time in which sessions connect to the remote, so it is made
# to report every second, and the first reports are left out.
measure_rate() {
    run_pgbench "$1" "$2" -T $((SETTLE + DURATION)) -P 1 --progress-timestamp
    awk -v settle="$SETTLE" '
        $1 == "progress:" {
            if (n++ >= settle) { done += $4 * ($2 - at); time += $2 - at }
            at = $2
        }
        END { if (time == 0) exit 1; printf "%.3f\n", done / time }
    ' "$WORK/pgbench.err" || die "pgbench reported no progress"
}

# measure_calls CASE PEER: prints the milliseconds of a call, the first of a
# session left out.
measure_calls() {
    as_server rm -f "$WORK"/calls.*
    run_pgbench "$1" "$2" -t $((CALLS + 1)) -l --log-prefix="$WORK/calls"
    awk '$2 > 0 { n++; time += $3 }
         END { if (n == 0) exit 1; printf "%.3f\n", time / n / 1000 }' \
        "$WORK"/calls.* || die "pgbench logged no calls"
}

# The process ids of conpool's workers, but for tunnels.
workers() {
    psql_on local -AXtq -d bench -c "SELECT pid FROM pg_stat_activity
        WHERE backend_type LIKE 'conpool%' AND backend_type NOT LIKE '%tunnel%'
        ORDER BY pid"
}

# Those of its tunnels.
tunnels() {
    ! wants_conpool || psql_on local -AXtq -d bench -c \
        "SELECT pid FROM conpool.tunnels WHERE pid IS NOT NULL ORDER BY tunnel"
}

# cpu_of PID...: the CPU seconds that they used up to now.
cpu_of() {
    local pid
    for pid; do
        # Behind the name, which may contain blanks: utime is 12th, stime 13th.
        sed 's/^.*) //' "/proc/$pid/stat"
    done | awk -v hz="$HZ" '
        { ticks += $12 + $13 } END { printf "%.2f\n", ticks / hz }'
}

# The CPU seconds of others up to now, two figures: what our CPUs did or lost,
# less what this script, its servers and their children used; and what all
# other processes used and the host stole. The first may hold our own soft
# interrupts (the kernel decides), the second holds work on other CPUs: so the
# smaller one, of a difference, is near the truth.
cpu_of_others() {
    local -a parents=("$$")
    local name
    for name in local "${REMOTES[@]}"; do
        parents+=("$(head -n 1 "$WORK/$name/postmaster.pid")")
    done
    {
        cat /proc/stat
        # Processes come and go while we look.
        cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^\([0-9]*\) .*) /process \1 /' || true
    } | awk -v hz="$HZ" -v cpus="${CPUS[*]}" \
        -v parents="${parents[*]} $(cat "$WORK"/pgbouncer*.pid | tr '\n' ' ')" '
        BEGIN {
            n = split(cpus, part, " "); for (i = 1; i <= n; i++) ours["cpu" part[i]]
            n = split(parents, part, " "); for (i = 1; i <= n; i++) parent[part[i]]
        }
        # All but idle and waiting for I/O.
        $1 in ours { busy += $2 + $3 + $4 + $7 + $8 + $9; others += $9 }
        $1 == "process" {
            # Its own time and that of children that are gone.
            ticks = $14 + $15 + $16 + $17
            if ($2 in parent || $4 in parent) busy -= ticks
            else others += ticks
        }
        END { printf "%.2f %.2f\n", busy / hz, others / hz }'
}

# Waits until the sessions of the last measurement are gone on both servers.
wait_quiet() {
    local name count
    for _ in $(seq 100); do
        count=0
        for name in local "${REMOTES[@]}"; do
            count=$((count + $(psql_on "$name" -AXtq -d bench -c "
                SELECT count(*) FROM pg_stat_activity
                 WHERE usename = 'app'
                    OR usename ~ '^bench_(dblink_call|dblink_open|postgres_fdw)$'")))
        done
        [[ $count -gt 0 ]] || return 0
        sleep 0.1
    done
    die "sessions of the last measurement do not end ($count left)"
}

# take_seen CASE PEER: the most remote backends that PEER was seen with since
# the last call.
take_seen() {
    local n
    n=$(psql_on "$(remote_of "$1")" -AXtq -d bench -c "
        DELETE FROM seen WHERE role = 'bench_$2' RETURNING backends")
    echo "${n:-0}"
}

# track on|off: sets conpool.track, and returns when a session sees it.
track() {
    wants_conpool || return 0
    [[ $1 != "$TRACKING" ]] || return 0
    psql_on local -q -d bench -c "ALTER SYSTEM SET conpool.track = $1" \
        -c 'SELECT pg_reload_conf()' >/dev/null
    for _ in $(seq 100); do
        [[ $(psql_on local -AXtq -d bench -c 'SHOW conpool.track') != "$1" ]] || break
        sleep 0.1
    done
    [[ $(psql_on local -AXtq -d bench -c 'SHOW conpool.track') == "$1" ]] ||
        die "conpool.track does not become $1"
    TRACKING=$1
}

# measure_once CASE PEER: prints value, backends, CPU seconds of conpool's
# workers, of others, wall seconds, and CPU seconds of tunnels, with commas
# between.
measure_once() {
    local case=$1 peer=$2 how=measure_rate
    local -a pids tunnels
    local cpu others start wall tunnel_cpu sampler
    [[ $case != *d ]] || how=measure_calls
    wait_quiet
    if [[ $peer == conpool_untracked ]]; then track off; else track on; fi
    take_seen "$case" "$peer" >/dev/null
    mapfile -t pids < <(workers)
    mapfile -t tunnels < <(tunnels)
    ! wants_conpool || [[ ${#pids[@]} -gt 0 ]] || die "conpool has no broker"
    cpu=$(cpu_of "${pids[@]}")
    tunnel_cpu=$(cpu_of "${tunnels[@]}")
    others=$(cpu_of_others)
    start=$EPOCHREALTIME
    "$how" "$case" "$peer" >"$WORK/value"
    wall=$(awk "BEGIN { print $EPOCHREALTIME - $start }")
    others=$(awk '{ x = $3 - $1; y = $4 - $2; if (y < x) x = y
                    print (x > 0 ? x : 0) }' <<<"$others $(cpu_of_others)")
    [[ $(workers; tunnels) == "$(printf '%s\n' "${pids[@]}" "${tunnels[@]}")" ]] ||
        die "conpool's workers changed during case $case of $peer"
    cpu=$(awk "BEGIN { print $(cpu_of "${pids[@]}") - $cpu }")
    tunnel_cpu=$(awk "BEGIN { print $(cpu_of "${tunnels[@]}") - $tunnel_cpu }")
    for sampler in "${SAMPLERS[@]}"; do
        kill -0 "$sampler" || { cat "$WORK/sample.log" >&2; die "the sampler ended"; }
    done
    echo "$(<"$WORK/value"),$(take_seen "$case" "$peer"),$cpu,$others,$wall,$tunnel_cpu"
}

# measure ROUND CASE PEER: adds a line to the raw figures, of a second or
# third try when others disturbed the first and there is patience left.
measure() {
    local others wall started=$SECONDS
    while true; do
        # Not in a command substitution: an interrupt must find its child here.
        measure_once "$2" "$3" >"$WORK/measured"
        grep -Eq '^[0-9.]+,[0-9]+(,[0-9][0-9.e-]*){4}$' "$WORK/measured" ||
            die "no sense in \"$(<"$WORK/measured")\""
        IFS=, read -r _ _ _ others wall _ <"$WORK/measured"
        if [[ $PATIENCE -gt 0 ]] && awk "BEGIN {
            exit !(100 * $others > $DISTURBED * ${#CPUS[@]} * $wall) }"
        then
            PATIENCE=$((PATIENCE - (SECONDS - started)))
            started=$SECONDS
        else
            break
        fi
    done
    echo "$1,$2,$3,$(<"$WORK/measured")" >>"$RAW"
}

# Fills caches, opens pooled connections, checks that everybody works.
warm_up() {
    local peer case
    for case in $CASES; do
        for peer in $(peers_of "$case"); do
            if [[ $case == *d ]]; then
                run_pgbench "$case" "$peer" -t 1
            else
                run_pgbench "$case" "$peer" -t 20
            fi
        done
    done
    if wants_conpool && [[ " ${REMOTES[*]} " == *" remote_tls "* ]]; then
        check_tunnels
    fi
}

# What is measured over TLS must be connections that are shared.
check_tunnels() {
    [[ $(psql_on local -AXtq -d bench -c "SELECT size > 0 AND size = tunnelled
        FROM conpool.pools WHERE server = 'tls_conpool'") == t ]] ||
        die "conpool has no tunnels to the remote with TLS"
}

# One round: case by case everybody once, every other round the other way.
run_round() {
    local round=$1 case peer order
    for case in $CASES; do
        order=$(peers_of "$case")
        [[ $((round % 2)) -eq 1 ]] || order=$(tr ' ' '\n' <<<"$order" | tac)
        for peer in $order; do
            measure "$round" "$case" "$peer"
        done
    done
}

# --- reporting --------------------------------------------------------------

# stats WANT [CASE [PEER [BASE]]]
stats() {
    awk -f "$BENCH/stats.awk" -v want="$1" -v case="${2:-}" -v peer="${3:-}" \
        -v base="${4:-}" -v cpus="${#CPUS[@]}" -v above="$DISTURBED" "$RAW"
}

describe() {
    case $1 in
        a*) echo "($1) select 1" ;;
        b*) echo "($1) primary key lookup" ;;
        d) echo "($1) $ROWS rows" ;;
        ta*) echo "($1) select 1 over TLS" ;;
        x) echo "($1) transaction of 5 updates" ;;
        m) echo "($1) select 1 on 4 servers at once" ;;
        u) echo "($1) select 1 by unchanged dblink code" ;;
        td) echo "($1) $ROWS rows over TLS" ;;
    esac
}

print_table() {
    local case peer unit median min max speed backends cpu others rounds tunnel last=''
    local format='  %-16s %11s %11s %11s %12s %9s %8s %8s %8s\n'
    # shellcheck disable=SC2059
    {
        printf "$format" '' median min max speed/dblink remote broker others tunnels
        printf "$format" '' '' '' '' 'kept open' backends CPU% CPU% CPU%
    }
    # shellcheck disable=SC2034
    while IFS=, read -r case peer unit median min max speed backends cpu others rounds tunnel; do
        if [[ $case != "$last" ]]; then
            printf '\n%s, %s session(s), %s\n' "$(describe "$case")" \
                "$(sessions "$case")" "$unit"
            last=$case
        fi
        # shellcheck disable=SC2059
        printf "$format" "$peer" "$median" "$min" "$max" "${speed:--}" \
            "$backends" "$cpu" "$others" "$tunnel"
    done < <(tail -n +2 "$BENCH_OUT")
}

# How much other work there was, and whether that makes the figures doubtful.
print_disturbance() {
    local disturbed all
    IFS=, read -r disturbed all < <(stats disturbed)
    echo "Other work took more than $DISTURBED % of the CPUs in $disturbed of $all measurements."
    if [[ $((disturbed * 4)) -gt $all ]]; then
        echo "THAT IS TOO MUCH: take none of these figures for more than a hint."
    fi
}

MISSED=0
JUDGED=0

# aim TEXT OPERATOR LIMIT VALUE: one line; nothing if it was not measured.
aim() {
    local verdict=OK
    [[ -n $4 ]] || return 0
    JUDGED=$((JUDGED + 1))
    if ! awk "BEGIN { exit !($4 $2 $3) }"; then
        verdict=MISSED
        MISSED=$((MISSED + 1))
    fi
    printf '  %-6s %9s  (%s %s)  %s\n' "$verdict" "$4" "$2" "$3" "$1"
}

print_aims() {
    local c
    echo "Aims (medians of ratios taken round by round):"
    for c in a b; do
        aim "($c) rate, in units of dblink connecting per call" '>=' 50 \
            "$(stats speed "$c" conpool dblink_call)"
    done
    aim "(a) time, in units of dblink kept open" '<=' 1.10 \
        "$(stats time a conpool dblink_open)"
    aim "(a) time, in units of conpool.track off" '<=' 1.03 \
        "$(stats time a conpool conpool_untracked)"
    for c in a8 b8; do
        aim "($c) rate with 8 connections, dblink with 8 kept open" '>=' 0.95 \
            "$(stats speed $c conpool dblink_open)"
    done
    for c in a64 b64; do
        aim "($c) rate with 8 connections, dblink with 64 kept open" '>=' 0.75 \
            "$(stats speed $c conpool dblink_open)"
        aim "($c) rate with 8 connections, dblink through PgBouncer with 8" \
            '>=' 1.25 "$(stats speed $c conpool dblink_pgbouncer)"
    done
    aim "(d) time, in units of dblink kept open" '<=' 1.00 \
        "$(stats time d conpool dblink_open)"
    aim "broker's CPU time in percent of wall, over all cases" '<=' 1 \
        "$(stats broker '' conpool)"
    aim "(ta) time over TLS, in units of dblink kept open" '<=' 1.45 \
        "$(stats time ta conpool dblink_open)"
    aim "(ta) rate over TLS, in units of dblink connecting per call" '>=' 60 \
        "$(stats speed ta conpool dblink_call)"
    aim "(td) time over TLS, in units of dblink kept open" '<=' 1.25 \
        "$(stats time td conpool dblink_open)"
    aim "(x) time of a transaction, in units of postgres_fdw" '<=' 1.10 \
        "$(stats time x conpool postgres_fdw)"
    aim "(x) time of a transaction, in units of dblink with BEGIN and COMMIT" '<=' 1.10 \
        "$(stats time x conpool dblink_open)"
    aim "(m) time of map, in units of four asynchronous connections of dblink" '<=' 1.10 \
        "$(stats time m conpool dblink_open)"
    aim "(u) rate of conpool_dblink per call, in units of dblink" '>=' 30 \
        "$(stats speed u companion_call dblink_call)"
    aim "(u) time of conpool_dblink kept open, in units of dblink" '<=' 1.10 \
        "$(stats time u companion_open dblink_open)"
    for c in a8 b8 a64 b64 ta8 ta64; do
        aim "($c) remote backends of conpool" '<=' 8 \
            "$(stats backends $c conpool)"
    done
    [[ $JUDGED -gt 0 ]] || echo "  none: they need conpool and what it is compared with"
}

main() {
    local round remote started=$SECONDS
    check_request
    find_postgres || die "no PostgreSQL found; see test/bootstrap.sh"
    start_work bench
    trap end_bench EXIT
    RAW=$WORK/raw.csv
    touch "$RAW"
    BENCH_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    export BENCH_PASSWORD

    if wants_conpool; then
        echo "building"
        # shellcheck disable=SC2119
        build_stage
    fi
    pin
    echo "starting servers"
    for remote in "${REMOTES[@]}"; do
        start_remote "$remote"
        start_pgbouncer "$remote"
    done
    start_local
    warm_up
    start_samplers
    for round in $(seq "$ROUNDS"); do
        echo "round $round of $ROUNDS, after $((SECONDS - started)) s"
        run_round "$round"
    done

    [[ -z ${BENCH_RAW:-} ]] || cp "$RAW" "$BENCH_RAW"
    stats summary >"$BENCH_OUT"
    echo
    echo "Median, min, max of $ROUNDS rounds of $DURATION s, pgbench -M $MODE, on" \
        "$(uname -sm) with $(nproc) CPUs"
    echo
    print_table
    echo
    echo "Remote backends: the most that were open, idle ones of a pool included."
    print_disturbance
    echo
    print_aims
    echo
    echo "written to $BENCH_OUT in $((SECONDS - started)) s"
    [[ -z ${STRICT:-} || $MISSED -eq 0 ]] || die "$MISSED aims missed"
}

SAMPLERS=()
REMOTES=()
TRACKING=on
CPUS=()
HZ=$(getconf CLK_TCK)
main
