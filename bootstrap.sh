#!/bin/sh
# From a fresh Debian 12 or Ubuntu 24.04 to a built, tested, demonstrated warpmerge.
#
# What lives here: the order of things. Packages are listed in docker/install-deps.sh, flags in CMakePresets.json.
set -eu
cd "$(dirname "$0")"

help() {
    cat <<'EOF'
usage: ./bootstrap.sh build | test | demo

  build   builds build/release/warpmerge
  test    builds and tests three times: optimised, with AddressSanitizer and
          UndefinedBehaviorSanitizer, with ThreadSanitizer
  demo    merges a real checkpoint (all-MiniLM-L6-v2) with two fine-tunes of it;
          offline a synthetic Llama-shaped one

Missing packages are installed first (as root; otherwise they are named).
EOF
}

say() {
    printf '\n== %s\n' "$*"
}

jobs=$(nproc)

# build PRESET: quiet unless it fails.
build() {
    preset=$1
    say "building $preset"
    mkdir -p "build/$preset"
    log=build/$preset/build.log
    if [ ! -f "build/$preset/CMakeCache.txt" ] && command -v ninja >/dev/null; then
        CMAKE_GENERATOR=Ninja
        export CMAKE_GENERATOR
    fi
    if ! { cmake --preset "$preset" && cmake --build --preset "$preset" --parallel "$jobs"; } >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "building $preset failed; the whole log is in $log"
        return 1
    fi
    echo "done: build/$preset"
}

# Sanitizers place their shadow memory at fixed addresses; kernels that randomise mappings widely (Ubuntu's
# vm.mmap_rnd_bits=32) can collide with it. sanitizer_works FLAG WRAPPER...: whether a trivial program runs.
sanitizer_works() {
    flag=$1
    shift
    mkdir -p build/probe
    echo 'int main(void) { return 0; }' >build/probe/probe.c
    ${CC:-cc} "$flag" -o build/probe/probe build/probe/probe.c 2>/dev/null || return 1
    for _ in 1 2 3 4 5 6 7 8; do
        "$@" build/probe/probe >/dev/null 2>&1 || return 1
    done
}

# run_tests PRESET [FLAG]: appends one line to the summary; fails when a test fails.
run_tests() {
    preset=$1
    flag=${2:-}
    wrapper=
    if [ -n "$flag" ] && ! sanitizer_works "$flag"; then
        wrapper="setarch $(uname -m) --addr-no-randomize"
        # shellcheck disable=SC2086 # a command and its arguments
        if ! sanitizer_works "$flag" $wrapper; then
            echo "$preset: SKIPPED, programs built with $flag do not run on this machine" | tee -a build/summary
            return 0
        fi
    fi
    if ! build "$preset"; then
        echo "$preset: did not build: 0% tests passed, 1 tests failed out of 1" >>build/summary
        return 1
    fi
    say "testing $preset"
    code=0
    # shellcheck disable=SC2086
    $wrapper ctest --preset "$preset" --parallel "$jobs" >"build/$preset/test.log" 2>&1 </dev/null || code=$?
    cat "build/$preset/test.log"
    skipped=$(grep -c '\*\*\*Skipped' "build/$preset/test.log") || true
    closing=$(grep -E '^[0-9]+% tests passed' "build/$preset/test.log") ||
        closing="ctest ended with $code: 0% tests passed, 1 tests failed out of 1"
    echo "$preset: $closing ($skipped skipped)" >>build/summary
    return "$code"
}

test_all() {
    mkdir -p build
    : >build/summary
    failed=0
    run_tests release || failed=1
    run_tests asan -fsanitize=address,undefined || failed=1
    run_tests tsan -fsanitize=thread || failed=1
    say summary
    cat build/summary
    # All runs together, in ctest's words.
    awk '{ for (i = 3; i <= NF; i++) {
               if ($i == "failed") failed += $(i - 2)
               if ($i == "of") total += $(i + 1) } }
         END { if (total) printf "%d%% tests passed, %d tests failed out of %d\n",
                   int(100 * (total - failed) / total), failed, total }' build/summary
    return $failed
}

case ${1:-help} in
build)
    docker/install-deps.sh
    build release
    ;;
test)
    docker/install-deps.sh
    test_all
    ;;
demo)
    docker/install-deps.sh
    build release
    bench/demo.sh build/release build/demo
    ;;
help | -h | --help) help ;;
*)
    help >&2
    exit 2
    ;;
esac
