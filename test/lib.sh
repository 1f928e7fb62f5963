# shellcheck shell=bash
# What the test, demo and benchmark scripts share: a work directory that goes
# away, a staged build, throw-away servers. Sourced, never run.
#
#   find_postgres           sets PG_CONFIG, BINDIR, PKGLIBDIR and the path
#   start_work NAME         makes WORK; ends everything when the script ends
#   build_stage [ARG...]    builds in WORK/src, installs into STAGE
#   new_cluster NAME [SETTING...]    initdb; preload_settings for conpool
#   make_certificates       sets CERTIFICATES, see test/setup/certificates.sh
#   offer_tls NAME          before its start: it insists on TLS on TCP
#   start_cluster NAME      sets PORT[NAME]; the Unix socket is in SOCKETS
#   stop_cluster NAME [MODE]
#   psql_on NAME ARG...     psql as the superuser "postgres" of that cluster
#   as_server CMD...        runs as the user who owns the servers
#   limited SECONDS CMD...  the same with a time limit
#
# Nothing is written outside WORK: the extension is installed into a stage
# that the servers find by a setting, unless the server knows no such setting.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
WORK='' STAGE='' SOCKETS='' BINDIR='' PKGLIBDIR='' SERVER_USER=''
CERTIFICATES='' CHILD='' LEAVE_RUNNING=''
SERVER_CAPS=() # capabilities that as_server leaves to the servers' user, if root
declare -A PORT=()

export LC_ALL=C.UTF-8
# A make that started us must not lend its flags to the make that we start.
unset LANGUAGE MAKEFLAGS MFLAGS MAKELEVEL

die() {
    echo "$*" >&2
    exit 1
}

# --- finding PostgreSQL -----------------------------------------------------

# The pg_config to use: the caller's, the one in the path, Debian's.
find_postgres() {
    local candidate debian=/usr/lib/postgresql/15/bin/pg_config
    for candidate in ${PG_CONFIG:-pg_config "$debian"}; do
        if has_postgres "$candidate"; then
            PG_CONFIG=$(command -v "$candidate")
            BINDIR=$("$PG_CONFIG" --bindir)
            PKGLIBDIR=$("$PG_CONFIG" --pkglibdir)
            PATH=$BINDIR:$PATH
            export PG_CONFIG PATH
            return
        fi
    done
    return 1
}

# Is there a server, its development files and its test programs?
has_postgres() {
    local bin pgxs
    bin=$("$1" --bindir 2>/dev/null) && pgxs=$("$1" --pgxs 2>/dev/null) &&
        [[ -x $bin/initdb && -x $bin/pg_ctl && -f $pgxs ]] &&
        [[ -x $(test_program regress/pg_regress "$pgxs") ]]
}

# Path of a file below PGXS's src/test.
test_program() {
    echo "$(dirname "${2:-$("$PG_CONFIG" --pgxs)}")/../test/$1"
}

# --- the work directory, and its end ----------------------------------------

# start_work NAME: makes WORK, owned by the user who will run the servers
# (PostgreSQL refuses to run as root), and forgets the caller's PG* variables.
start_work() {
    local name
    for name in $(compgen -e PG); do
        [[ $name == PG_CONFIG ]] || unset "$name"
    done
    if [[ $(id -u) -eq 0 ]]; then
        SERVER_USER=postgres
        id "$SERVER_USER" >/dev/null 2>&1 ||
            die "there is no user \"$SERVER_USER\" to run servers as"
    fi
    # Socket paths are limited to some hundred bytes: stay near the root.
    WORK=$(mktemp -d "/tmp/conpool-$1.XXXXXX")
    SOCKETS=$WORK/sockets
    trap end_work EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    [[ -z $SERVER_USER ]] || chown "$SERVER_USER" "$WORK"
    as_server mkdir "$SOCKETS" "$WORK/home" "$WORK/tmp"
}

# Stops whatever was started below WORK and removes it, unless a script has
# set LEAVE_RUNNING.
end_work() {
    local status=$? pidfile
    trap - EXIT
    trap '' INT TERM
    if [[ -n $CHILD ]]; then
        kill -TERM -- "-$CHILD" 2>/dev/null || true
        wait "$CHILD" || true
    fi
    [[ -z $LEAVE_RUNNING ]] || exit "$status"
    while read -r pidfile; do
        stop_datadir "${pidfile%/*}" immediate || true
    done < <(find "$WORK" -name postmaster.pid)
    rm -rf "$WORK"
    exit "$status"
}

# Runs a command as the owner of the servers.
as_server() {
    if [[ -n $SERVER_USER ]]; then
        (cd "$WORK" && exec setpriv --reuid="$SERVER_USER" \
            --regid="$(id -g "$SERVER_USER")" --init-groups --no-new-privs "${SERVER_CAPS[@]}" \
            env HOME="$WORK/home" TMPDIR="$WORK/tmp" "$@")
    else
        (cd "$WORK" && exec env HOME="$WORK/home" TMPDIR="$WORK/tmp" "$@")
    fi
}

# limited SECONDS CMD...: the same with a time limit. The command gets a
# process group of its own, so that an interrupt reaches all that it started.
limited() {
    local status=0
    set -m
    as_server timeout --kill-after=10 "$@" </dev/null &
    CHILD=$!
    set +m
    wait "$CHILD" || status=$?
    [[ $status -ne 124 ]] || echo "time limit of $1 s exceeded" >&2
    CHILD=''
    return "$status"
}

# --- building ---------------------------------------------------------------

# build_stage [MAKE_ARG...]: copies the sources to WORK/src, where the servers'
# user can read them, builds there and installs. Sets STAGE, empty when the
# server cannot look for extensions elsewhere and the system got them.
build_stage() {
    as_server mkdir "$WORK/src"
    tar -C "$TOP" -cf - --exclude=./.git --exclude='*.o' --exclude='*.so' \
        --exclude=./tmp_check --exclude=./results . |
        as_server tar -C "$WORK/src" -xf -
    as_server mkdir -p "$WORK/src/expected"
    STAGE=$WORK/stage
    if [[ -z $(stage_settings) ]]; then
        STAGE=''
    fi
    local log=$WORK/build.log
    if ! limited 900 make -C "$WORK/src" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" \
        "$@" all >"$log" 2>&1; then
        cat "$log" >&2
        die "the build failed"
    fi
    if [[ -n $STAGE ]]; then
        as_server make -C "$WORK/src" PG_CONFIG="$PG_CONFIG" "$@" \
            install DESTDIR="$STAGE" >>"$log" 2>&1
    else
        echo "this server finds extensions only in its own directories: installing there"
        make -C "$WORK/src" PG_CONFIG="$PG_CONFIG" "$@" install >>"$log" 2>&1
    fi || { cat "$log" >&2; die "the installation failed"; }
}

# The settings by which a server finds what is in STAGE: Debian's own, or that
# of version 18. Nothing if there is neither.
stage_settings() {
    local known
    [[ -n $STAGE ]] || return 0
    known=$("$BINDIR/postgres" --describe-config)
    if grep -q '^extension_destdir' <<<"$known"; then
        echo "extension_destdir = '$STAGE'"
    elif grep -q '^extension_control_path' <<<"$known"; then
        echo "extension_control_path = '$STAGE$("$PG_CONFIG" --sharedir):\$system'"
    else
        return 0
    fi
    echo "dynamic_library_path = '$STAGE$PKGLIBDIR:\$libdir'"
}

# The settings of a server with conpool in it.
preload_settings() {
    echo "shared_preload_libraries = 'conpool'"
    stage_settings
}

# --- servers ----------------------------------------------------------------

# new_cluster NAME [SETTING...]: a data directory. Superuser is "postgres",
# trusted over the Unix socket (SOCKETS is closed to other users); TCP asks
# everybody for a SCRAM password.
new_cluster() {
    local name=$1
    shift
    as_server "$BINDIR/initdb" -D "$WORK/$name" -U postgres -E UTF8 \
        --no-locale --auth-local=trust --auth-host=scram-sha-256 -N \
        >"$WORK/$name.initdb.log" 2>&1 ||
        { cat "$WORK/$name.initdb.log" >&2; die "initdb failed"; }
    append_conf "$name" "unix_socket_directories = '$SOCKETS'" \
        "unix_socket_permissions = 0700" \
        "listen_addresses = '127.0.0.1'" \
        "password_encryption = 'scram-sha-256'" \
        "log_line_prefix = '%m [%p] %q%a '" \
        "fsync = off" "$@"
}

# append_conf NAME SETTING...
append_conf() {
    local name=$1
    shift
    printf '%s\n' "$@" |
        as_server tee -a "$WORK/$name/postgresql.conf" >/dev/null
}

# Makes an authority and certificates, once, owned by the servers' user.
make_certificates() {
    [[ -z $CERTIFICATES ]] || return 0
    CERTIFICATES=$WORK/certificates
    # The sources may be out of that user's reach.
    as_server bash -c "$(<"$TOP/test/setup/certificates.sh")" certificates "$CERTIFICATES" ||
        die "no certificates could be made"
}

# offer_tls NAME: only who has TLS and a password may come over TCP.
offer_tls() {
    make_certificates
    append_conf "$1" "ssl = on" \
        "ssl_cert_file = '$CERTIFICATES/good.crt'" \
        "ssl_key_file = '$CERTIFICATES/good.key'"
    as_server sed -i 's/^host /hostssl /' "$WORK/$1/pg_hba.conf"
}

# Starts a cluster on a free port, which it keeps over restarts.
start_cluster() {
    local name=$1 attempt
    for attempt in 1 2 3 4 5; do
        [[ -n ${PORT[$name]:-} && $attempt -eq 1 ]] || PORT[$name]=$(free_port)
        if as_server "$BINDIR/pg_ctl" -D "$WORK/$name" -l "$WORK/$name.log" \
            -o "-p ${PORT[$name]}" -w -t 60 start >"$WORK/$name.ctl.log" 2>&1
        then
            return
        fi
        grep -q 'could not bind' "$WORK/$name.log" 2>/dev/null || break
    done
    tail -n 30 "$WORK/$name.log" >&2 || true
    die "server \"$name\" did not start"
}

# stop_cluster NAME [MODE]
stop_cluster() {
    stop_datadir "$WORK/$1" "${2:-fast}"
}

# stop_datadir DIRECTORY MODE
stop_datadir() {
    as_server "$BINDIR/pg_ctl" -D "$1" -m "$2" -w -t 60 stop >/dev/null 2>&1
}

# A port of 127.0.0.1 on which nobody answers, outside the range from which
# outgoing connections take theirs.
free_port() {
    local port
    while true; do
        port=$((RANDOM % 20000 + 10240))
        [[ " ${PORT[*]} " != *" $port "* ]] || continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# psql_on NAME ARG...
psql_on() {
    local name=$1
    shift
    "$BINDIR/psql" -X -v ON_ERROR_STOP=1 -h "$SOCKETS" -p "${PORT[$name]}" \
        -U postgres "$@"
}

# --- what the tests expect on the two sides, see test/setup -----------------

# setup_remote: on the server that the PG* variables lead to.
setup_remote() {
    "$BINDIR/psql" -Xq -d postgres -f "$TOP/test/setup/remote.sql"
}

# setup_local DATABASE REMOTE_HOST REMOTE_PORT [PSQL_ARG...]
setup_local() {
    "$BINDIR/psql" -Xq -v ON_ERROR_STOP=1 -d postgres \
        -c 'SET client_min_messages = warning' \
        -c "DROP DATABASE IF EXISTS \"$1\"" \
        -c "CREATE DATABASE \"$1\" TEMPLATE template0"
    "$BINDIR/psql" -Xq -d "$1" -v remote_host="$2" -v remote_port="$3" "${@:4}" \
        -f "$TOP/test/setup/local.sql"
}
