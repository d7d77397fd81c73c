#!/bin/sh
# Installs what is missing: Debian packages, the Python environment in .venv, Kafka with Debezium in debezium/target,
# and with --tests the clients that the tests run. With --python, only the environment. Repeating it costs nothing:
# each step leaves a stamp with the hash of its inputs.
set -eu
cd "$(dirname "$0")/.."

UV=0.13.9

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Debian packages, each with a test for what it provides. A program from elsewhere is accepted as well.

postgres_bin=/usr/lib/postgresql/15/bin

missing_packages() {
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
    [ "$what" != python ] || return 0
    [ -x "$postgres_bin/postgres" ] || echo postgresql-15
    command -v psql >/dev/null || echo postgresql-client-15
    command -v redis-server >/dev/null || echo redis-server
    ls -d /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin >/dev/null 2>&1 || echo rabbitmq-server
    command -v java >/dev/null || echo openjdk-17-jre-headless
    command -v mvn >/dev/null || echo maven
    if [ "$what" = tests ]; then
        command -v node >/dev/null || echo nodejs
        command -v npm >/dev/null || echo npm
        [ -x /usr/bin/chromium ] || echo chromium
        [ -x /usr/sbin/nginx ] || echo nginx
        ls -d /usr/share/fonts/truetype/* >/dev/null 2>&1 || echo fonts-dejavu-core
    fi
}

install_packages() {
    packages=$(missing_packages | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    command -v apt-get >/dev/null ||
        fail "Missing: ${packages}(named as in Debian 12). Install them with your package manager."
    [ "$(id -u)" = 0 ] ||
        fail "Debian packages are missing, and installing them requires root:
  sudo apt-get update && sudo apt-get install --no-install-recommends $packages"
    say "Installing from Debian: $packages"
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # shellcheck disable=SC2086  # a list of names
    { apt-get -qq update && apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends $packages; } >"$log" 2>&1 ||
        fail "apt-get failed: $(tail -n 20 "$log")"
    rm -f "$log"
    allow_services
}

# The stack has its own ports and data: the packages must not start services or create a PostgreSQL cluster.

policy=/usr/sbin/policy-rc.d
no_cluster=/etc/postgresql-common/createcluster.d/rowbell.conf
made_policy=no

forbid_services() {
    trap allow_services EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ ! -e "$policy" ]; then
        made_policy=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    mkdir -p "$(dirname "$no_cluster")"
    echo 'create_main_cluster = false' >"$no_cluster"
}

allow_services() {
    trap - EXIT INT TERM
    rm -f "$no_cluster"
    [ "$made_policy" = no ] || rm -f "$policy"
    made_policy=no
}

# A stamp contains the hash of a command's output: of the files that something was made from.

is_made_from() { # STAMP COMMAND...
    stamp=$1
    shift
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$("$@" | sha256sum)" ]
}

stamp() { # STAMP COMMAND...
    stamp=$1
    shift
    "$@" | sha256sum >"$stamp"
}

python_is_sound() {
    # The scripts in .venv contain its path, so a moved checkout needs a new one, and so does one whose Python is gone.
    [ -f .venv/.path ] && [ "$(cat .venv/.path)" = "$PWD" ] && .venv/bin/python -c '' 2>/dev/null
}

install_python() {
    ! python_is_sound || ! is_made_from .venv/.made cat requirements.lock pyproject.toml || return 0
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Rowbell needs Python 3.11 or later; python3 is $(python3 --version)."
    say "Installing Python packages into .venv"
    python_is_sound || rm -rf .venv
    python3 -m venv .venv
    pwd >.venv/.path
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV"
    export VIRTUAL_ENV="$PWD/.venv"
    .venv/bin/uv pip install --quiet --require-hashes --requirements requirements.lock
    .venv/bin/uv pip install --quiet --no-deps --editable .
    stamp .venv/.made cat requirements.lock pyproject.toml
}

install_kafka() {
    ! is_made_from debezium/target/.made cat debezium/pom.xml || return 0
    say "Fetching Kafka, Connect and Debezium into debezium/target"
    rm -rf debezium/target
    (cd debezium && mvn --quiet --batch-mode -Dstyle.color=never package)
    stamp debezium/target/.made cat debezium/pom.xml
}

clients=tests/clients

install_python_clients() {
    older=.venv/stomp-py-8
    ! is_made_from $older/.made cat $clients/stomp-py-8.lock || return 0
    say "Installing an older stomp.py for the tests into $older"
    rm -rf $older
    VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv pip install --quiet --no-deps --require-hashes \
        --requirements $clients/stomp-py-8.lock --target $older
    stamp $older/.made cat $clients/stomp-py-8.lock
}

install_node_clients() {
    ! is_made_from $clients/node_modules/.made cat $clients/package-lock.json || return 0
    say "Installing the clients for the tests into $clients/node_modules"
    (cd $clients && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    stamp $clients/node_modules/.made cat $clients/package-lock.json
}

case "${1-}" in
'') what=stack ;;
--tests) what=tests ;;
--python) what=python ;;
*) fail "usage: sh stack/install.sh [--tests | --python]" ;;
esac

install_packages
install_python
[ "$what" = python ] || install_kafka
[ "$what" != tests ] || install_python_clients
[ "$what" != tests ] || install_node_clients
