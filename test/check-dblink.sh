#!/usr/bin/env bash
# PostgreSQL's own regression test of dblink, run against conpool_dblink:
# "make check-dblink"; also the suite "dblink" of "make check".
#
#   make check-dblink [DBLINK=conpool_dblink] [DBLINK_SOURCE=directory]
#
# The test and its expected output are those of the running major version, from
# the source package of its server: of the installed release where it can be had.
# They are fetched from where the machine gets its packages, with lists and cache
# below the temporary directory and as the user who runs the servers, so nothing of
# the machine changes; DBLINK_SOURCE names a source tree that is there already.
# Nothing is changed in them but the name in the line CREATE EXTENSION.
# DBLINK=dblink runs the test against the real one.
#
# Where the source cannot be had the suite is skipped: neither passed nor failed.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    SUITES=dblink exec "$(dirname "$0")/check.sh"
fi

DBLINK=${DBLINK:-conpool_dblink}
LISTS_LIMIT=90   # seconds to fetch the lists of source packages
SOURCE_LIMIT=180 # seconds to fetch the package
TEST_LIMIT=60    # seconds for the test, which takes two

# --- getting the source -----------------------------------------------------

# The machine's lists of repositories, with their source packages for packages.
write_source_lists() {
    local file list='' parts=''
    eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
    for file in "$list" "$parts"/*.list "$parts"/*.sources; do
        [[ ! -r $file ]] ||
            sed -E 's/^deb(-src)?([[:blank:]])/deb-src\2/; s/^Types:.*/Types: deb-src/I' "$file" |
            as_server tee "$WORK/dblink/parts/${file##*/}" >/dev/null
    done
}

# apt SECONDS COMMAND ARG...: a program of apt's with those lists, in WORK/dblink.
apt() {
    limited "$1" env -C "$WORK/dblink" "$2" -q \
        -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$WORK/dblink/parts" \
        -o Dir::State::lists="$WORK/dblink/lists" -o Dir::Cache="$WORK/dblink/cache" \
        -o Acquire::Languages=none -o Acquire::PDiffs=false -o Acquire::Retries=1 \
        -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 \
        "${@:3}" 2>>"$WORK/dblink/apt.log"
}

# source_versions PACKAGE: that of the installed server, then others, newest first.
# A list may name what its repository has not got.
source_versions() {
    # shellcheck disable=SC2016
    dpkg-query -W -f '${source:Version}\n' "$1" 2>/dev/null || true
    apt 30 apt-cache showsrc --only-source "$1" | sed -n 's/^Version: //p' | sort -rV
}

# fetch_package PACKAGE: its upstream source into WORK/dblink. What an update says
# of repositories that have no source packages does not matter.
fetch_package() {
    local version
    command -v apt-get >/dev/null || return 1
    as_server mkdir "$WORK/dblink/parts"
    as_server mkdir -p "$WORK/dblink/lists/partial" "$WORK/dblink/cache/archives/partial"
    write_source_lists
    apt "$LISTS_LIMIT" apt-get update >>"$WORK/dblink/apt.log" || true
    while read -r version; do
        apt "$SOURCE_LIMIT" apt-get source --download-only --only-source "$1=$version" \
            >>"$WORK/dblink/apt.log" && return
    done < <(source_versions "$1" | awk '!seen[$0]++')
    return 1
}

# get_source DIRECTORY: contrib/dblink of the running major version. 1 if it cannot
# be had.
get_source() {
    local major archive from=${DBLINK_SOURCE:-}
    if [[ -n $from ]]; then
        tar -C "$from/contrib/dblink" -cf - . | as_server tar -C "$1" -xf -
        echo "source: $from"
        return
    fi
    major=$("$PG_CONFIG" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
    fetch_package "postgresql-$major" || return 1
    archive=$(ls "$WORK"/dblink/*.orig.tar.*)
    echo "source: ${archive##*/}"
    as_server tar -C "$1" -xf "$archive" --strip-components=3 --wildcards '*/contrib/dblink/*' ||
        die "${archive##*/} could not be unpacked"
}

# --- running the test -------------------------------------------------------

# rename_extension FILE: the one change that is made.
rename_extension() {
    [[ $(grep -cx 'CREATE EXTENSION dblink;' "$1") -eq 1 ]] ||
        die "${1##*/}: expected one line CREATE EXTENSION"
    as_server sed -i "s/^CREATE EXTENSION dblink;\$/CREATE EXTENSION $DBLINK;/" "$1"
}

# build_regress DIRECTORY: the library "regress" in it.
build_regress() {
    local flags
    read -ra flags <<<"$("$PG_CONFIG" --cppflags --cflags --cflags_sl | tr '\n' ' ')"
    limited 60 "$("$PG_CONFIG" --cc)" "${flags[@]}" -I "$("$PG_CONFIG" --includedir-server)" \
        -shared -o "$1/regress.so" "$WORK/src/test/c/regress_dblink.c" ||
        die "test/c/regress_dblink.c could not be built"
}

# The test names no host: the server's processes find it in their environment.
start_dblink_server() {
    new_cluster dblink-server "max_connections = 100" "$(preload_settings)"
    PGHOST=$SOCKETS start_cluster dblink-server
}

dblink_suite() {
    local dir=$WORK/dblink status=0 log=$WORK/dblink.out
    as_server mkdir -p "$dir/input"
    if ! get_source "$dir/input"; then
        tail -n 5 "$dir/apt.log" 2>/dev/null || true
        skip dblink "the source of dblink cannot be had here"
        return
    fi
    rename_extension "$dir/input/sql/dblink.sql"
    rename_extension "$dir/input/expected/dblink.out"
    build_regress "$dir"
    start_dblink_server
    limited "$TEST_LIMIT" env -C "$dir" "$(test_program regress/pg_regress)" \
        --inputdir="$dir/input" --outputdir="$dir" --dlpath="$dir" --bindir="$BINDIR" \
        --host="$SOCKETS" --port="${PORT[dblink-server]}" --user=postgres \
        --dbname=contrib_regression dblink >"$log" 2>&1 || status=$?
    cat "$log"
    if ! count dblink "$(grep -cE '^test .*\.\.\. ok |^ok ' "$log")" \
        "$(grep -cE '^test .*\.\.\. FAILED|^not ok ' "$log")" "$status"
    then
        if [[ -s $dir/regression.diffs ]]; then
            head -n 400 "$dir/regression.diffs"
        else
            tail -n 40 "$dir/results/dblink.out" || true
        fi
        echo "--- end of the server's log"
        tail -n 40 "$WORK/dblink-server.log"
        keep "$dir/results/." "$dir/regression.diffs" "$WORK/dblink-server.log"
    fi
}
