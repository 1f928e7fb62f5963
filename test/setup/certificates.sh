#!/usr/bin/env bash
# A certificate authority for tests, and what it has signed.
#
#   certificates.sh DIRECTORY
#       makes the directory and in it all of these, as NAME.crt and NAME.key:
#         root            the authority; root.crl, and the directory crl with
#                         the same, revoke what is called revoked
#         other_root      an authority that nobody has trusted
#         good            a server on localhost and 127.0.0.1
#         expired         the same, until the year 2020
#         wrong_host      a server called other.example
#         self_signed     on localhost and 127.0.0.1, by itself
#         untrusted       the same, by other_root
#         revoked         the same, by root
#         regress_remote, regress_remote_two
#                         clients of that name
#         regress_remote.locked.key
#                         the first one's key, with the passphrase "key-secret"
#         client_expired, client_revoked, client_untrusted
#                         clients called regress_remote
#   certificates.sh DIRECTORY server NAME HOST...     one more server: names and
#                                                     addresses
#   certificates.sh DIRECTORY client NAME COMMON_NAME one more client
#   certificates.sh DIRECTORY revoke NAME
#
# Servers and libpq want keys that belong to whoever uses them, and that nobody
# else can read: run this as that user. Takes less than a second.
set -euo pipefail

umask 077
DAYS=30

# new_key NAME: an elliptic curve is quick.
new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1.key"
}

# new_authority NAME: with a list of what it signs and revokes.
new_authority() {
    new_key "$1"
    mkdir "$1.issued"
    : >"$1.index"
    echo 01 >"$1.crlnumber"
    cat >"$1.conf" <<CONF
[ca]
default_ca = this
[this]
database = $1.index
certificate = $1.crt
private_key = $1.key
new_certs_dir = $1.issued
crlnumber = $1.crlnumber
rand_serial = yes
unique_subject = no
copy_extensions = copy
default_md = sha256
default_days = $DAYS
default_crl_days = $DAYS
policy = any
[any]
commonName = supplied
[req]
distinguished_name = none
[none]
CONF
    openssl req -x509 -new -config "$1.conf" -key "$1.key" -sha256 -days "$DAYS" \
        -subj "/CN=$1 of a test" -addext 'basicConstraints=critical,CA:TRUE' \
        -addext 'keyUsage=critical,keyCertSign,cRLSign' -out "$1.crt"
}

# authority NAME ARG...: "openssl ca", which talks a lot.
authority() {
    openssl ca -batch -notext -config "$1.conf" "${@:2}" 2>"$1.log" ||
        { cat "$1.log" >&2; return 1; }
}

# sign AUTHORITY NAME COMMON_NAME EXTENSIONS [ARG...]: ARG of "openssl ca".
sign() {
    local authority=$1 name=$2 common_name=$3 extensions=$4
    shift 4
    new_key "$name"
    openssl req -new -config "$authority.conf" -key "$name.key" -subj "/CN=$common_name" \
        -addext "$extensions" -out "$name.csr"
    authority "$authority" -in "$name.csr" -out "$name.crt" "$@"
    rm "$name.csr"
}

# alternative_names HOST...: as an extension.
alternative_names() {
    local host names=()
    for host; do
        if [[ $host =~ ^[0-9.]+$|: ]]; then names+=("IP:$host"); else names+=("DNS:$host"); fi
    done
    (IFS=,; echo "subjectAltName=${names[*]}")
}

# sign_server AUTHORITY NAME "HOST..." [ARG...]
sign_server() {
    local authority=$1 name=$2 hosts=()
    read -ra hosts <<<"$3"
    shift 3
    sign "$authority" "$name" "${hosts[0]}" "$(alternative_names "${hosts[@]}")" "$@"
}

# sign_client AUTHORITY NAME COMMON_NAME [ARG...]
sign_client() {
    local authority=$1 name=$2 common_name=$3
    shift 3
    sign "$authority" "$name" "$common_name" extendedKeyUsage=clientAuth "$@"
}

# revoke NAME...
revoke() {
    local name
    for name; do
        authority root -revoke "$name.crt"
    done
    authority root -gencrl -out root.crl
    mkdir -p crl
    cp root.crl "crl/$(openssl crl -in root.crl -noout -hash).r0"
}

make_all() {
    local here='localhost 127.0.0.1'
    local past=(-startdate 20190101000000Z -enddate 20200101000000Z)
    new_authority root
    new_authority other_root
    sign_server root good "$here"
    sign_server root expired "$here" "${past[@]}"
    sign_server root wrong_host other.example
    sign_server root revoked "$here"
    sign_server other_root untrusted "$here"
    new_key self_signed
    openssl req -x509 -new -config root.conf -key self_signed.key -sha256 -days "$DAYS" \
        -subj /CN=localhost -addext "$(alternative_names localhost 127.0.0.1)" \
        -out self_signed.crt
    sign_client root regress_remote regress_remote
    sign_client root regress_remote_two regress_remote_two
    sign_client root client_expired regress_remote "${past[@]}"
    sign_client root client_revoked regress_remote
    sign_client other_root client_untrusted regress_remote
    openssl pkcs8 -topk8 -v2 aes-256-cbc -in regress_remote.key -passout pass:key-secret \
        -out regress_remote.locked.key
    revoke revoked client_revoked
}

directory=$1
shift
[[ -d $directory ]] || mkdir -p "$directory"
cd "$directory"
case ${1:-} in
    '') make_all ;;
    server) sign_server root "$2" "${*:3}" ;;
    client) sign_client root "$2" "$3" ;;
    revoke) revoke "${@:2}" ;;
    *) echo "unknown command: $1" >&2; exit 1 ;;
esac
