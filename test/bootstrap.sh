#!/usr/bin/env bash
# Sees to it that everything is there to build and test conpool.
#
#   test/bootstrap.sh [check] [lint] [bench]
#
# Touches nothing when nothing is missing. Else: root on Debian gets the
# packages installed, everybody else is told the command and this fails.
# PG_CONFIG may name another server than Debian's.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

missing=()

# need PACKAGE TEST...: notes the package unless the test holds.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

# Installs packages without starting or creating services that nobody asked
# for: what belongs to conpool's servers is made by its scripts.
install_packages() {
    local policy=/usr/sbin/policy-rc.d made_policy=''
    local cluster=/etc/postgresql-common/createcluster.d/conpool-bootstrap.conf
    export DEBIAN_FRONTEND=noninteractive
    local get=(apt-get -y -q -o Dpkg::Use-Pty=0)

    "${get[@]}" update || echo "apt-get update failed, trying without" >&2
    if [[ ! -e $policy ]]; then
        made_policy=$policy
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    # shellcheck disable=SC2064
    trap "rm -f $made_policy $cluster" EXIT
    if [[ " $* " == *" postgresql-15 "* ]]; then
        "${get[@]}" install --no-install-recommends postgresql-common
        mkdir -p "${cluster%/*}"
        echo 'create_main_cluster = false' >"$cluster"
    fi
    "${get[@]}" install --no-install-recommends "$@"
}

need gcc command -v gcc
need libc6-dev test -e /usr/include/stdio.h
need make command -v make
need perl command -v prove
need libssl-dev test -e /usr/include/openssl/ssl.h
need libipc-run-perl perl -MIPC::Run -e 1
if ! find_postgres; then
    [[ -z ${PG_CONFIG:-} ]] ||
        die "PG_CONFIG=$PG_CONFIG leads to no server with PGXS and pg_regress"
    missing+=(postgresql-15 postgresql-server-dev-15)
fi
for extra; do
    case $extra in
        check)
            need openssl command -v openssl
            need bzip2 command -v bzip2
            need prometheus command -v prometheus
            need prometheus-postgres-exporter command -v prometheus-postgres-exporter
            need chromium command -v chromium
            ;;
        lint)
            need clang-format command -v clang-format
            need clang-tidy command -v clang-tidy
            need shellcheck command -v shellcheck
            ;;
        bench)
            need openssl command -v openssl
            need pgbouncer test -x /usr/sbin/pgbouncer
            ;;
        *) die "unknown extra: $extra" ;;
    esac
done

[[ ${#missing[@]} -gt 0 ]] || exit 0
if ! command -v apt-get >/dev/null; then
    die "missing (by their Debian names): ${missing[*]}"
elif [[ $(id -u) -ne 0 ]]; then
    die "packages are missing; install them with

    sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
fi
echo "installing ${missing[*]}"
install_packages "${missing[@]}" >&2
