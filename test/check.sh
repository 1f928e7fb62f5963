#!/usr/bin/env bash
# Runs every test on throw-away servers: "make check".
#
#   make check [SUITES="regress isolation tls dblink tap"] [TESTS="name..."] [COPT=...] [JOBS=3]
#
# The sources are copied, built with assertions (COPT replaces that flag) and
# installed into a stage; nothing outside a temporary directory is written,
# except tmp_check/ in the source tree when something fails: results and logs.
#
# regress     test/sql/NAME.sql, expected/NAME.out
# isolation   test/specs/NAME.spec, expected/NAME.out
#     Both run on one server with conpool preloaded, each suite in a database
#     of its own, and against a second server that asks for SCRAM passwords on
#     127.0.0.1. Tests need no variables: the database already has the
#     extension, the servers "remote" and "remote_admin", and the functions
#     test.server(), test.conninfo(), test.port() and test.wait_until(), see
#     test/setup/local.sql; test/setup/remote.sql has the remote's roles. The
#     superuser is "postgres" on both sides.
#     To write an expected file: run, look at tmp_check/NAME.out, copy it.
#     In the test database the isolation tester's question "is this session
#     blocked?" knows conpool's queue too, and the advisory lock 4711 by which
#     a session says that it holds up the remote: see test/setup/local.sql.
# tls         the tests of regress once more, on servers of their own: the remote
#     takes no connection without TLS, and the functions of test/setup/local.sql
#     ask for sslmode verify-full. test.tls() tells a test where it runs. In the
#     end it is proven from both sides that the pools had TLS and tunnels.
#     Results of failed tests are in tmp_check/tls/.
# dblink      PostgreSQL's regression test of dblink against conpool_dblink, see
#     test/check-dblink.sh. It is skipped where its source cannot be fetched.
# tap         test/t/NAME.pl, with test/perl/ConpoolTest.pm; each file starts
#     servers of its own. Set in the environment: PG_REGRESS, TEMP_CONFIG (the
#     settings by which a server finds the stage), CONPOOL_SETUP (test/setup).
#     As root the tests run as "postgres" with the capability to change their
#     uid, CONPOOL_CAN_SETUID is then 1.
#
# The closing line counts regress files, isolation specs and single TAP tests;
# a suite or a file that dies counts as one failure more. A suite that could not
# run for want of what it needs is named as skipped, and counts as neither.
set -euo pipefail
cd "$(dirname "$0")/.."
test/bootstrap.sh check
source test/lib.sh
source test/check-dblink.sh

SUITES=${SUITES:-regress isolation tls dblink tap}
JOBS=${JOBS:-3} # TAP files at a time
SUITE_LIMIT=${SUITE_LIMIT:-240} # seconds for regress, for isolation, for one TAP file
STEP_LIMIT=30   # seconds for a step of an isolation spec
# TAP files that take longest: they begin first, so that none is left alone in the end.
LONGEST="330_soak 308_admin 531_soak_tls 100_stress 400_diagnose 530_stress_tls"
passed=0 failed=0 skipped=''

# select_tests PATTERN...: names of the tests to run, as TESTS has it.
select_tests() {
    local file name
    for file; do
        name=${file##*/}
        name=${name%.*}
        [[ ! -e $file ]] || [[ -n ${TESTS:-} && " $TESTS " != *" $name "* ]] ||
            echo "$name"
    done
}

# count SUITE PASSED FAILED STATUS: adds up; a bad status must show as failure.
count() {
    local bad=$3
    [[ $4 -eq 0 || $bad -gt 0 ]] || bad=1
    passed=$((passed + $2))
    failed=$((failed + bad))
    echo "$1: $2 passed, $bad failed"
    [[ $bad -eq 0 ]]
}

# skip SUITE REASON: must not look as if it had passed.
skip() {
    skipped+=" $1"
    echo "$1: SKIPPED, $2"
}

# keep FILE...: saves what explains a failure.
keep() {
    mkdir -p tmp_check
    cp -r "$@" tmp_check/ 2>/dev/null || true
    chown -R --reference=. tmp_check 2>/dev/null || true
}

# start_pair [_tls]: two servers for the regress and isolation suites.
start_pair() {
    local remote=remote$1 local=local$1
    [[ -z ${PORT[$local]:-} ]] || return 0
    new_cluster "$remote" "max_connections = 300"
    [[ -z $1 ]] || offer_tls "$remote"
    [[ -z $1 ]] || append_conf "$remote" "log_connections = on"
    new_cluster "$local" "max_connections = 300" "$(preload_settings)"
    start_cluster "$remote"
    start_cluster "$local"
    PGHOST=$SOCKETS PGPORT=${PORT[$remote]} PGUSER=postgres setup_remote
}

# pg_regress gives up where an expected file is missing: expect nothing.
add_expected() {
    local name
    for name; do
        [[ -e expected/$name.out ]] ||
            as_server touch "$WORK/src/expected/$name.out"
    done
}

# regress_suite SUITE DATABASE PROGRAM TEST...: by pg_regress or its like.
regress_suite() {
    local suite=$1 db=$2 program=$3 status=0 log=$WORK/$1.out pair='' setup=()
    shift 3
    if [[ $suite == tls ]]; then
        pair=_tls
        make_certificates
        setup=(-v remote_sslmode=verify-full -v remote_sslrootcert="$CERTIFICATES/root.crt")
    fi
    start_pair "$pair"
    add_expected "$@"
    PGHOST=$SOCKETS PGPORT=${PORT[local$pair]} PGUSER=postgres \
        setup_local "$db" 127.0.0.1 "${PORT[remote$pair]}" "${setup[@]}"
    limited "$SUITE_LIMIT" env -C "$WORK/src" PGISOLATIONTIMEOUT="$STEP_LIMIT" \
        "$(test_program "$program")" --inputdir=test --outputdir=. --bindir="$BINDIR" --use-existing \
        --host="$SOCKETS" --port="${PORT[local$pair]}" --user=postgres \
        --dbname="$db" "$@" >"$log" 2>&1 || status=$?
    cat "$log"
    # "test x ... ok  1 ms" up to 15, "ok 1 - x  1 ms" from 16 on
    if ! count "$suite" "$(grep -cE '^test .*\.\.\. ok |^ok ' "$log")" \
        "$(grep -cE '^test .*\.\.\. FAILED|^not ok ' "$log")" "$status"
    then
        head -n 400 "$WORK/src/regression.diffs" || true
        echo "--- end of the local server's log"
        tail -n 40 "$WORK/local$pair.log"
        keep "$WORK"/src/results/. "$WORK/src/regression.diffs" \
            "$WORK/local$pair.log" "$WORK/remote$pair.log"
    fi
    if [[ $suite == tls && -z ${TESTS:-} ]]; then
        prove_tls "$db"
    fi
}

# expect_tls WHAT EXPECTED FOUND: one thing that must hold after the suite.
expect_tls() {
    if [[ $2 == "$3" ]]; then
        count "tls, $1" 1 0 0
    else
        echo "expected: $2, found: $3"
        count "tls, $1" 0 1 1 || true
    fi
}

# prove_tls DATABASE: that the tests of the suite "tls" ran over TLS, and over
# tunnels.
prove_tls() {
    local logins opened ask=(psql_on local_tls -AXtq -d "$1")
    # What both servers say of connections that are there.
    expect_tls 'connections as both sides see them' 't|t' "$("${ask[@]}" -c "
        SELECT bool_and(encrypted AND tunnel IS NOT NULL AND tls_version LIKE 'TLSv1._' AND
                        remote = concat_ws(' ', 't', tls_version, tls_cipher)),
               count(*) >= 2
          FROM conpool.exec('remote', 'SELECT 1'), conpool.connections
          LEFT JOIN conpool.query('remote_admin',
                'SELECT pid, concat_ws('' '', ssl, version, cipher) FROM pg_stat_ssl')
                AS r(pid int, remote text) ON r.pid = remote_pid
         WHERE server IN ('remote', 'remote_admin') AND database = current_database()" 2>&1)"
    # How many came and went, all but those with options that were not committed
    # and those that the remote turned away in the end; what goes beyond max_size no
    # tunnel opens.
    logins=$(awk '/connection authorized: user=regress_remote.* SSL enabled/ && !/uncommitted/ { n++ }
        /FATAL:  database .* does not exist/ { n-- }
        END { print n + 0 }' "$WORK/remote_tls.log")
    opened=$("${ask[@]}" -c 'SELECT sum(opened) + (SELECT coalesce(sum(connections), 0) FROM test.beyond)
        FROM conpool.tunnels' 2>&1)
    expect_tls 'connections opened by tunnels' "$logins" "$opened"
    expect_tls 'more than 50 of them' 1 "$((logins > 50))"
}

# Lets TAP tests change their uid, where root may pass that on.
allow_setuid() {
    [[ -n $SERVER_USER ]] || return 0
    SERVER_CAPS=("--inh-caps=+setuid,+setgid" "--ambient-caps=+setuid,+setgid")
    if as_server true 2>/dev/null; then
        export CONPOOL_CAN_SETUID=1
    else
        SERVER_CAPS=()
    fi
}

# Runs one TAP file: a dying one costs its own tests only. Leaves NAME.tap, and
# NAME.status: exit status and seconds.
write_tap_runner() {
    as_server tee "$WORK/run_tap" >/dev/null <<EOF
#!/bin/sh
start=\$(date +%s) status=0
timeout --kill-after=10 $SUITE_LIMIT prove -v "test/t/\$1.pl" >"$WORK/\$1.tap" 2>&1 || status=\$?
echo "\$status \$((\$(date +%s) - start))" >"$WORK/\$1.status"
EOF
}

# Counts what a TAP file has left.
count_tap() {
    local name=$1 log=$WORK/$1.tap status=1 took='?'
    [[ ! -e $WORK/$name.status ]] || read -r status took <"$WORK/$name.status"
    if ! count "tap $name ($took s)" \
        "$(grep -E '^ok [0-9]' "$log" | grep -vc '# skip')" \
        "$(grep -E '^not ok [0-9]' "$log" | grep -vc '# TODO')" "$status"
    then
        grep -E -A 8 '^not ok' "$log" | head -n 80 || true
        tail -n 40 "$log"
        tail -v -n 30 "$WORK/tmp_check/log/${name}"_*.log || true
        keep "$log" "$WORK/tmp_check/log/."
    fi
    grep -E '# (SKIP|skip)|figure: ' "$log" || true
}

# longest_first TEST...
longest_first() {
    local name
    for name in $LONGEST; do
        [[ " $* " != *" $name "* ]] || echo "$name"
    done
    for name; do
        [[ " $LONGEST " == *" $name "* ]] || echo "$name"
    done
}

# JOBS files at a time: most of them wait for most of the time.
tap_suite() {
    local name perl_lib
    perl_lib=$WORK/src/test/perl:$(test_program perl)
    stage_settings | as_server tee "$WORK/stage.conf" >/dev/null
    export PG_REGRESS TEMP_CONFIG=$WORK/stage.conf PG_TEST_TIMEOUT_DEFAULT=60
    export CONPOOL_SETUP=$WORK/src/test/setup CONPOOL_CAN_SETUID=0
    PG_REGRESS=$(test_program regress/pg_regress)
    allow_setuid
    write_tap_runner
    longest_first "$@" | as_server tee "$WORK/tap_files" >/dev/null
    limited $((SUITE_LIMIT * $#)) env -C "$WORK/src" PERL5LIB="$perl_lib" \
        TESTDIR="$WORK" TESTDATADIR="$WORK/tmp_check" TESTLOGDIR="$WORK/tmp_check/log" \
        xargs -a "$WORK/tap_files" -n 1 -P "$JOBS" sh "$WORK/run_tap" || true
    for name; do
        count_tap "$name"
    done
    SERVER_CAPS=()
}

[[ -n $(ls test/sql/*.sql test/specs/*.spec test/t/*.pl 2>/dev/null) ]] ||
    die "there are no tests"
rm -rf tmp_check
find_postgres
start_work check
echo "building in $WORK with $("$PG_CONFIG" --version)"
build_stage COPT="${COPT--DUSE_ASSERT_CHECKING}"

for suite in $SUITES; do
    case $suite in
        regress)
            files=(test/sql/*.sql)
            run=(regress_suite regress contrib_regression regress/pg_regress)
            ;;
        isolation)
            files=(test/specs/*.spec)
            run=(regress_suite isolation isolation_regression
                isolation/pg_isolation_regress)
            ;;
        tls)
            files=(test/sql/*.sql)
            run=(regress_suite tls contrib_regression regress/pg_regress)
            ;;
        dblink)
            files=(test/check-dblink.sh)
            run=(dblink_suite)
            ;;
        tap)
            files=(test/t/*.pl)
            run=(tap_suite)
            ;;
        *) die "unknown suite: $suite" ;;
    esac
    echo "--- $suite"
    mapfile -t tests < <(select_tests "${files[@]}")
    if [[ ${#tests[@]} -gt 0 ]]; then
        "${run[@]}" "${tests[@]}"
    elif [[ -z ${TESTS:-} ]]; then
        count "$suite: no tests" 0 0 1 || true
    fi
done

if [[ $passed -eq 0 && -z $skipped ]]; then
    failed=$((failed > 0 ? failed : 1))
fi
[[ ! -d tmp_check ]] || echo "results and logs of what failed are in tmp_check/"
echo "$passed passed, $failed failed${skipped:+, SKIPPED:$skipped}"
[[ $failed -eq 0 ]]
