#!/usr/bin/env bash
# Looks for what a compiler does not see: "make lint". No finding is expected.
#
#   clang-tidy (.clang-tidy), shellcheck, perl -c
#   layering: who may include whom, and who may know libpq and versions
#   form: includes, file comments, line length, exported names
set -euo pipefail
cd "$(dirname "$0")/.."
test/bootstrap.sh lint
source test/lib.sh

# The modules, one layer a line, top to bottom: a module includes headers of its
# own layer and of those below.
LAYERS='
conpool
sql_* rows rows_* args report report_* view_rows
query transaction cursor map dblink convert session_state lease borrow borrow_* cache ddl diagnose diagnose_*
broker upkeep dialer reader tunnel tunnel_order tunnel_connect tunnel_line tunnel_cancel tunnel_internal keep message stats_file
pool pool_* leak deadlock historian
remote settle adopt greeting net vault target conninfo scram ping hosts handover resolver capacity probe tunnel_reply pump watch threads pairs
shmem stats breaker statement_stats error_stats events history
guc options error handle compat clock secret wiped histogram wait_events
'
MAX_LINE=100
findings=0

finding() {
    echo "$*"
    findings=$((findings + 1))
}

# layer_of MODULE: number of its layer, from the top.
layer_of() {
    local line pattern number=0
    while read -r line; do
        number=$((number + 1))
        for pattern in $line; do
            # shellcheck disable=SC2254
            case $1 in $pattern) echo "$number" && return ;; esac
        done
    done < <(grep . <<<"$LAYERS")
    return 1
}

# included_by FILE: our own headers and libpq's that it names, one per line.
included_by() {
    sed -nE 's/^# *include *[<"]([^">]+)[">].*/\1/p' "$1"
}

# reaches FILE HEADER: does it include that, directly or through our headers?
reaches() {
    local header
    while read -r header; do
        [[ $header != "$2" ]] || return 0
        [[ ! -e src/$header ]] || ! reaches "src/$header" "$2" || return 0
    done < <(included_by "$1")
    return 1
}

check_layers() {
    local file module layer header below
    for file in src/*.[ch]; do
        module=$(basename "${file%.*}")
        if ! layer=$(set -f && layer_of "$module"); then
            finding "$file: module has no layer, see LAYERS in test/lint.sh"
            continue
        fi
        while read -r header; do
            [[ -e src/$header ]] || continue
            below=$(set -f && layer_of "${header%.h}") || continue
            ((below >= layer)) || finding "$file: includes $header of a layer above"
        done < <(included_by "$file")
    done
    for file in src/pool*.[ch] src/leak.[ch]; do
        [[ ! -e $file ]] || ! reaches "$file" libpq-fe.h ||
            finding "$file: knows libpq"
    done
    for header in shmem.h pool.h; do
        for file in src/{remote,adopt,greeting,net}.[ch]; do
            [[ ! -e $file ]] || ! reaches "$file" "$header" ||
                finding "$file: knows $header"
        done
    done
    while read -r file; do
        finding "$file: PG_VERSION_NUM belongs in compat.h"
    done < <(grep -l PG_VERSION_NUM src/*.[ch] | grep -v '^src/compat\.h$')
}

check_form() {
    local file name line
    for file in src/*.[ch]; do
        name=$(basename "$file")
        [[ $(head -n 2 "$file") == "/*"*$'\n'" * $name" ]] ||
            finding "$file: must begin with a comment that names the file and its duty"
    done
    for file in src/*.c; do
        name=$(basename "${file%.c}").h
        mapfile -t line < <(included_by "$file" | head -n 2)
        [[ ${line[0]:-} == postgres.h ]] ||
            finding "$file: the first include must be postgres.h"
        [[ ! -e src/$name || ${line[1]:-} == "$name" ]] ||
            finding "$file: the second include must be $name"
    done
    while read -r line; do
        finding "$line: line is too long"
    done < <(for file in src/*.[ch]; do
        expand -t4 "$file" | awk -v file="$file" -v max="$MAX_LINE" \
            'length > max { print file ":" NR }'
    done)
    while read -r line; do
        finding "$line: white space at the end"
    done < <(grep -nsE '[[:blank:]]+$' src/*.[ch] sql/*.sql Makefile .ci/run test/*.sh |
        cut -d: -f1,2)
}

# Every module shares one name space with the server and its other libraries,
# and the linker does not mind what is declared and nowhere defined.
check_symbols() {
    local name
    while read -r name; do
        finding "conpool.so: $name is nowhere defined"
    done < <(nm -D --undefined-only "$1" | awk '$2 ~ /^(cp|conpool)_/ { print $2 }')
    while read -r name; do
        finding "conpool.so: exports $name; names begin with cp_ or conpool_"
    done < <(nm -D --defined-only "$1" | awk '{ print $3 }' | grep -vE \
        '^(cp_|conpool_|pg_finfo_conpool_|_PG_init$|Pg_magic_func$|_init$|_fini$)')
}

# In the copy that was built, where compile_commands.json can be made.
check_tidy() {
    local out=$WORK/tidy.out
    as_server make -C "$WORK/src" PG_CONFIG="$PG_CONFIG" compile_commands.json \
        >/dev/null
    # shellcheck disable=SC2016
    as_server env -C "$WORK/src" sh -c \
        'printf "%s\n" src/*.c | xargs -n 1 -P "$(nproc)" clang-tidy --quiet' \
        >"$out" 2>"$out.err" || true
    sed -i "s,$WORK/src/,," "$out"
    if grep -qE ': (warning|error): ' "$out"; then
        cat "$out"
        finding "clang-tidy: $(grep -cE ': (warning|error): ' "$out") findings"
    elif grep -q '^Error' "$out.err"; then
        cat "$out.err"
        finding "clang-tidy could not run"
    fi
}

check_scripts() {
    local file
    for file in .ci/run test/*.sh test/*/*.sh; do
        [[ ! -e $file ]] || bash -n "$file" || finding "$file: syntax"
        [[ ! -e $file ]] || shellcheck -x --severity=warning "$file" ||
            finding "$file: shellcheck"
    done
    for file in test/perl/*.pm test/t/*.pl; do
        perl -I test/perl -I "$(test_program perl)" -wc "$file" >/dev/null \
            2>"$WORK/perl.err" || {
            cat "$WORK/perl.err"
            finding "$file: perl -c"
        }
    done
}

find_postgres
start_work lint
check_layers
check_form
check_scripts
build_stage COPT=''
check_symbols "$STAGE$PKGLIBDIR/conpool.so"
check_tidy
echo "lint: $findings findings"
[[ $findings -eq 0 ]]
