# shellcheck shell=bash disable=SC2154,SC2034
# gpu_check_build.sh: the programs of bench/gpu_check.sh: built, packed for a bare machine, or built on that machine.
# Sourced by gpu_check.sh; uses its variables and row().

programs=$gpu # where the programs are
built=$root/build/gpu-build
names="warpmerge make_checkpoint plain_copy tests/device/device_equality tests/device/nccl_ranks"

# build ARCHS LIBS: configures and builds into build/gpu-build programs that look for libraries in the folder LIBS first
build() {
    local generator=()
    if command -v ninja >/dev/null; then generator=(-G Ninja); fi
    cmake -S "$root" -B "$built" ${generator[@]+"${generator[@]}"} -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O3 \
        -DWM_CUDA=ON -DWM_TESTS=OFF -DWM_CUDA_ARCHS="$1" -DCMAKE_CUDA_FLAGS=--resource-usage \
        -DCMAKE_BUILD_RPATH="$2" -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags &&
        cmake --build "$built" --parallel "$(nproc)" \
            --target warpmerge_cli device_equality nccl_ranks make_checkpoint plain_copy \
            2>&1 | tee -a "$built/build.log" # what is not compiled again was said earlier
}

# What ptxas said of each kernel, the last time: registers, stack and spills (cuobjdump is not part of every toolkit).
registers() {
    awk '/Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[4] "\t" quoted[2] }
         /bytes stack frame/ { stack[kernel] = $1 " bytes stack, " $5 " and " $9 " spilled" }
         /Used [0-9]+ registers/ { sub(/.*Used /, ""); used[kernel] = $1 }
         END { for (kernel in used) printf "%3d registers, %s\t%s\n", used[kernel], stack[kernel], kernel }' \
        "$built/build.log" | sort -k7 | { c++filt 2>/dev/null || cat; }
}

# What a machine without a package registry needs to compile: headers, static libraries (shared ones where there is no
# other), and .pc files that find them wherever the folder is.
pack_deps() {
    local deps=$gpu/deps package name include libs
    mkdir -p "$deps/include" "$deps/lib/pkgconfig"
    for package in libcjson=cjson yaml-0.1=yaml libcrypto=crypto libxxhash=xxhash; do
        name=${package#*=}
        package=${package%%=*}
        include=$(pkg-config --variable=includedir "$package")
        libs=$(pkg-config --variable=libdir "$package")
        case $name in
        cjson) cp -Lr "$include/cjson" "$deps/include/" ;;
        crypto)
            cp -Lr "$include/openssl" "$deps/include/"
            # Debian keeps what depends on the machine beside its libraries.
            cp -Lr "$include/$(gcc -dumpmachine)/openssl" "$deps/include/" 2>/dev/null
            ;;
        *) cp -L "$include/$name.h" "$deps/include/" ;;
        esac
        if [ -e "$libs/lib$name.a" ]; then
            cp -L "$libs/lib$name.a" "$deps/lib/" && strip -g "$deps/lib/lib$name.a"
        else
            cp -L "$libs/lib$name.so" "$deps/lib/" && cp -L "$libs/lib$name.so.1" "$deps/lib/"
        fi || return 1
        # shellcheck disable=SC2016 # pkg-config's variables
        printf 'prefix=${pcfiledir}/../..\nName: %s\nDescription: %s\nVersion: %s\nCflags: -I${prefix}/include\nLibs: -L${prefix}/lib -l%s -ldl -pthread\n' \
            "$package" "$package" "$(pkg-config --modversion "$package")" "$name" >"$deps/lib/pkgconfig/$package.pc"
    done
    [ "$(find "$deps/include" -name '*.h' | wc -l)" -gt 50 ]
}

# What the programs are made from, in a few letters.
state_of_sources() {
    (cd "$root" && find CMakeLists.txt host include kernels bench tests/device -type f \
        \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.def' -o -name '*.cmake' -o -name CMakeLists.txt \) \
        -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
}

pack() {
    local program
    for program in cmake nvcc pkg-config strip; do
        command -v "$program" >/dev/null || { echo "pack needs $program"; exit 1; }
    done
    # shellcheck disable=SC2016 # the loader's variable
    build "${WM_CUDA_ARCHS:-80-real;90}" '$ORIGIN/lib' || exit 1
    rm -rf "$gpu"
    mkdir -p "$gpu/lib"
    pack_deps || { echo "the libraries' headers could not be packed"; exit 1; }
    for program in $names; do
        cp "$built/$program" "$gpu/" || exit 1
        strip "$gpu/${program##*/}"
        # Everything but the C library, which every machine has (built here with an older one than it runs with).
        ldd "$gpu/${program##*/}" | awk '$3 ~ /^\// && $1 !~ /^(libc|libm|libpthread|libdl|librt)\./ { print $3 }' |
            xargs -r cp -Lut "$gpu/lib"
    done
    state_of_sources >"$gpu/sources.txt"
    registers >"$gpu/registers.txt"
    [ -s "$gpu/registers.txt" ] || { echo "nobody said how many registers the kernels use"; exit 1; }
    du -sh "$gpu"
    [ "$(du -sm "$gpu" | cut -f1)" -lt 60 ] || { echo "build/gpu is over 60 MiB"; exit 1; }
}

# What is not here, said before anything else is done.
tools() {
    local tool absent=""
    command -v python3 >/dev/null || { echo "python3 is needed, and is not here" >&2; exit 1; }
    for tool in nvidia-smi nvcc cmake ninja pkg-config compute-sanitizer; do
        command -v "$tool" >/dev/null || absent="$absent $tool"
    done
    [ -z "$absent" ] || echo "not here:$absent (steps that need them are not measured)"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU is seen"
}

# Compiles for the GPU that is here. Where that cannot be, the programs that were carried are taken.
build_here() {
    local tool arch began=$SECONDS program
    for tool in nvcc cmake pkg-config; do
        command -v "$tool" >/dev/null || {
            row build none "" "" "" "no $tool here"
            return
        }
    done
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -dc 0-9)
    [ -n "$arch" ] || [ "$device" = cpu ] || {
        row build none "" "" "" "no GPU to build for"
        return
    }
    # The packed libraries only where the machine has none of its own.
    pkg-config --exists libcjson yaml-0.1 libcrypto libxxhash 2>/dev/null ||
        export PKG_CONFIG_PATH=$gpu/deps/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    built=$root/build/gpu-here
    mkdir -p "$built"
    if ! at_most 300 bash -c "root='$root'; gpu='$gpu'; . '$root/bench/gpu_check_build.sh'; built='$built'; set -o pipefail; build '${arch:-90}' '$gpu/deps/lib'" \
        >"$out/build.log" 2>&1; then
        row build missed "$((SECONDS - began))" "" s "$(grep -m 1 -i error "$out/build.log" | cut -c1-150)"
        return
    fi
    row build met "$((SECONDS - began))" "" s "compiled for sm_${arch:-90}"
    programs=$built/programs
    mkdir -p "$programs"
    for program in $names; do
        ln -sf "$built/$program" "$programs/"
    done
}
