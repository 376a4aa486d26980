#!/bin/sh
# Installs what warpmerge needs on Debian 12 and Ubuntu 24.04. The only list of Debian packages in the project.
#
#   docker/install-deps.sh          what building, testing and the demo need
#   docker/install-deps.sh --dev    also formatter, linters and a second compiler
#   docker/install-deps.sh --list   names the missing packages and installs nothing
#
# For the images (docker/Dockerfile*), each instead of the above:
#   --build                         what building alone needs
#   --runtime                       the shared libraries of the installed program; --nccl VERSION adds libnccl2 from
#                                   NVIDIA's repository, which their images know
#   --mpi                           mpirun and sshd, which the MPI operator of Kubernetes starts
#
# Quiet and without root when nothing is missing.
set -eu

build="gcc libc6-dev cmake ninja-build pkg-config libcjson-dev libyaml-dev libssl-dev libxxhash-dev"
# nvcc calls g++ as well.
cxx="g++"
tests="$cxx libcmocka-dev strace iproute2 sshfs openssh-sftp-server python3 python3-yaml git ca-certificates"
# python3-venv brings pip: the demo fetches a real checkpoint with it and does without when it cannot.
demo="python3-venv"
dev="clang-14 clang-format-14 clang-tidy-14 shellcheck gdb"
# OpenSSL's library was renamed when time_t grew to 64 bits, after Debian 12.
# shellcheck source=/dev/null
case $(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") in
"debian 12") ssl=libssl3 ;;
*) ssl=libssl3t64 ;;
esac
runtime="libcjson1 libyaml-0-2 $ssl"
mpi="openmpi-bin openssh-client openssh-server"

usage() {
    echo "usage: docker/install-deps.sh [--dev | --build | --runtime [--nccl VERSION] | --mpi] [--list]" >&2
    exit 2
}

wanted="$build $tests $demo"
only_list=false
while [ $# -gt 0 ]; do
    case $1 in
    --dev) wanted="$wanted $dev" ;;
    --build) wanted="$build $cxx" ;;
    --runtime) wanted=$runtime ;;
    --nccl)
        [ -n "${2:-}" ] || usage
        wanted="$wanted libnccl2=$2"
        shift
        ;;
    --mpi) wanted=$mpi ;;
    --list) only_list=true ;;
    *) usage ;;
    esac
    shift
done

if ! command -v dpkg-query >/dev/null; then
    echo "install-deps: not a Debian or Ubuntu system; the build needs what these packages hold: $wanted" >&2
    exit 0
fi
missing=
for package in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Status} ${Version}' "${package%%=*}" 2>/dev/null) || status=
    case $package in
    *=*) [ "$status" = "installed ${package#*=}" ] || missing="$missing $package" ;;
    *) [ "${status%% *}" = installed ] || missing="$missing $package" ;;
    esac
done
missing=${missing# }

if $only_list; then
    [ -z "$missing" ] || echo "$missing" | tr ' ' '\n'
    exit 0
fi
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "install-deps: these packages are missing: $missing" >&2
    echo "install-deps: run as root, or: sudo docker/install-deps.sh" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() {
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        echo "install-deps: failed: $*" >&2
        exit 1
    fi
}

# A minimal Ubuntu tree knows "main" alone; several of these packages live in "universe".
add_universe() {
    # shellcheck source=/dev/null
    . /etc/os-release
    [ "${ID:-}" = ubuntu ] || return 1
    if [ -f /etc/apt/sources.list.d/ubuntu.sources ]; then
        grep -q '^Components:.*universe' /etc/apt/sources.list.d/ubuntu.sources && return 1
        sed -i '/^Components:/ s/$/ universe/' /etc/apt/sources.list.d/ubuntu.sources
    else
        grep -q '^deb .*universe' /etc/apt/sources.list 2>/dev/null && return 1
        sed -i '/^deb / s/ main/ main universe/' /etc/apt/sources.list
    fi
    echo "install-deps: added Ubuntu's universe component"
}
known() {
    for package in $missing; do
        apt-cache show "$package" >/dev/null 2>&1 || return 1
    done
}

echo "install-deps: installing $missing"
quietly apt-get update
if ! known && add_universe; then
    quietly apt-get update
fi
# shellcheck disable=SC2086 # a list of words
quietly apt-get install --yes --no-install-recommends $missing
