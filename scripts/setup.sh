#!/usr/bin/env bash
# Checks for the tools that building Axon needs, and installs those that are Debian's where it may.
#
# `make setup` runs this before it builds. It installs with apt-get as root, or where sudo asks for no password. What
# is missing after that is named in one line on standard error with the way to get it, and the exit code is 2.
# `PYTHON` names the interpreter (default: python3).
#
# `setup.sh tests FOLDER` looks for what only tests need: a browser for the pages, and promtool for the alerts, which it
# puts into FOLDER. Without them those tests are skipped, which is said, and the exit code is 0.
set -euo pipefail

readonly python=${PYTHON:-python3}
readonly python_minimum=3.11 rust_minimum=1.88

packages=() # what apt-get can install
problems=() # what only the user can mend

at_least() { # MINIMUM FOUND, each like 1.88 or 1.88.0
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

check_rust() {
    local get="install Rust with rustup, https://rustup.rs" tool version
    for tool in cargo rustc; do
        version=$("$tool" --version 2>/dev/null | cut -d ' ' -f 2) || version=
        if ! command -v "$tool" >/dev/null; then
            problems+=("there is no $tool: $get")
        elif [ -z "$version" ]; then
            problems+=("$tool does not run: \`rustup default stable\`, or $get")
        elif ! at_least "$rust_minimum" "$version"; then
            problems+=("$tool is $version and must be $rust_minimum or newer: \`rustup update stable\`, or $get")
        else
            continue
        fi
        return # cargo and rustc come together: say it once
    done
}

check_python() {
    local version
    if ! command -v "$python" >/dev/null; then
        if [ "$python" = python3 ]; then
            packages+=(python3 python3-venv)
        else
            problems+=("there is no $python: set PYTHON to a Python $python_minimum or newer")
        fi
    elif ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        problems+=("$python does not run: set PYTHON to a Python $python_minimum or newer")
    elif ! at_least "$python_minimum" "$version"; then
        problems+=("$python is $version and must be $python_minimum or newer: install one and name it, as in \`make demo PYTHON=python3.12\`")
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        packages+=("python$version-venv")
    fi
}

check_linker() {
    # A compiler without the C library's start files is found, but links nothing.
    echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - 2>/dev/null || packages+=(gcc libc6-dev)
}

check_certificates() {
    # Other systems keep them elsewhere, and ship them.
    [ -e /etc/debian_version ] && [ -z "${SSL_CERT_FILE:-}${CARGO_HTTP_CAINFO:-}" ] || return 0
    [ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
}

check_browser() {
    packages=()
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
        packages+=(chromium)
}

get_promtool() { # FOLDER. Installing the package would start a server; only its one program is taken out of it.
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    local scratch
    scratch=$(mktemp -d)
    printf 'setup: getting promtool from the package prometheus\n'
    { [ -n "$(apt-cache policy prometheus)" ] || as_root apt-get update; } >/dev/null 2>&1 || true
    (cd "$scratch" && apt-get download prometheus >/dev/null 2>&1 && dpkg-deb --extract prometheus_*.deb .) &&
        install "$scratch/usr/bin/promtool" "$1/promtool" || true
    rm -rf "$scratch"
    [ -x "$1/promtool" ]
}

check() {
    packages=() problems=()
    check_rust
    check_python
    check_linker
    check_certificates
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@" 2>/dev/null; fi
}

apt_install() {
    as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

install_packages() {
    printf 'setup: installing %s with apt-get\n' "${packages[*]}"
    local log
    log=$(mktemp)
    apt_install "${packages[@]}" >"$log" 2>&1 || tail -n 20 "$log" >&2
    rm -f "$log"
}

may_install() {
    [ ${#packages[@]} -gt 0 ] && command -v apt-get >/dev/null && as_root true
}

if [ "${1:-}" = tests ]; then
    check_browser
    if may_install; then
        install_packages
        check_browser
    fi
    command -v promtool >/dev/null || [ -x "$2/promtool" ] || get_promtool "$2" || packages+=(promtool)
    [ ${#packages[@]} -eq 0 ] || printf 'setup: there is no %s: the tests that need it are skipped\n' "${packages[@]}" >&2
    exit 0
fi
check
# Nothing is installed in vain: what only the user can mend comes first.
if [ ${#problems[@]} -eq 0 ] && may_install; then
    install_packages
    check
fi
if [ ${#packages[@]} -gt 0 ]; then
    problems+=("packages are missing: \`apt install ${packages[*]}\`, or what your system calls them")
fi
if [ ${#problems[@]} -gt 0 ]; then
    line=$(printf '%s; ' "${problems[@]}")
    printf 'setup: %s; then run this again\n' "${line%; }" >&2
    exit 2
fi
