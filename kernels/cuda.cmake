# The CUDA half of the build: included by the top CMakeLists.txt after wm_flags. Without a CUDA toolkit nothing changes.
#
#   WM_CUDA        AUTO (a toolkit is used if there is one), ON (it must be there), OFF
#   WM_CUDA_ARCHS  compute capabilities, as CMAKE_CUDA_ARCHITECTURES; the preset release-cuda names those of a release
#
# Sets WM_HAVE_CUDA, and CUDA_OBJECTS, CUDA_HOST_SOURCES and CUDA_LINKS for the library. The runtime is linked
# statically and opens the driver when it is first called, so the same binary runs where no driver exists.
set(WM_CUDA "AUTO" CACHE STRING "CUDA kernels: AUTO, ON or OFF")
set(WM_CUDA_ARCHS "90" CACHE STRING "compute capabilities to compile for, as in CMAKE_CUDA_ARCHITECTURES")
# The kernels, and the C around them. Tests compile both without a toolkit as well.
set(CUDA_SOURCES kernels/elementwise/combine_group.cu kernels/elementwise/elementwise.cu
  kernels/elementwise/elementwise_mixed.cu kernels/elementwise/elementwise_wide.cu kernels/statistics/gram.cu
  kernels/statistics/gram_vectors.cu kernels/statistics/group.cu kernels/statistics/l1.cu
  kernels/statistics/model_signs.cu kernels/statistics/select_chain.cu kernels/statistics/select_kth.cu
  kernels/statistics/select_small.cu)
set(CUDA_C_SOURCES kernels/statistics/device_check.c kernels/statistics/device_statistics.c)
set(CUDA_BACKEND_SOURCES host/engine/backend_cuda.c host/engine/backend_cuda_check.c
  host/engine/backend_cuda_groups.c host/engine/backend_cuda_model.c host/engine/backend_cuda_ring.c
  host/engine/backend_cuda_select.c host/engine/backend_cuda_tiles.c)
set(CUDA_CLUSTER_SOURCES host/cluster/comm_nccl.c host/cluster/nccl_api.c)

set(WM_HAVE_CUDA OFF)
set(CUDA_HOST_SOURCES host/cluster/comm_nccl_none.c)
set(CUDA_OBJECTS)
set(CUDA_LINKS)
set(CUDA_PC_LIBS) # for warpmerge.pc: what the static library needs besides
if(WM_CUDA STREQUAL "OFF")
  return()
elseif(NOT WM_CUDA MATCHES "^(AUTO|ON)$")
  message(FATAL_ERROR "WM_CUDA is \"${WM_CUDA}\"; it can be AUTO, ON or OFF")
endif()

set(CMAKE_CUDA_ARCHITECTURES ${WM_CUDA_ARCHS})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(WM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "WM_CUDA is ON, but no nvcc was found; put it into PATH or name it in CUDACXX")
  endif()
  return()
endif()
enable_language(CUDA)
# CUDA 13 has no nvToolsExt any more, and CMake before 3.26 stumbles over a target that it did not make.
if(CMAKE_VERSION VERSION_LESS 3.26 AND NOT TARGET CUDA::nvToolsExt)
  add_library(CUDA::nvToolsExt INTERFACE IMPORTED)
endif()
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(WM_HAVE_CUDA ON)
set(CUDA_HOST_SOURCES ${CUDA_C_SOURCES} ${CUDA_BACKEND_SOURCES} ${CUDA_CLUSTER_SOURCES} host/measure/device_cuda.c)

# -fmad=false: nothing is contracted on the device either (promise 2 of the design). No -Wpedantic: nvcc's own
# intermediate files are not pedantic C++.
add_library(wm_cuda OBJECT ${CUDA_SOURCES})
target_include_directories(wm_cuda PRIVATE include kernels)
target_compile_definitions(wm_cuda PRIVATE _GNU_SOURCE)
target_compile_options(wm_cuda PRIVATE -fmad=false -Xcompiler=-Wall,-Wextra,-Wshadow,-Wpointer-arith,-Wvla
  -Xcompiler=-ffp-contract=off,-fvisibility=hidden,-fno-exceptions,-fno-rtti,-fno-strict-aliasing)
if(WM_WERROR)
  target_compile_options(wm_cuda PRIVATE --Werror=all-warnings -Xcompiler=-Werror)
endif()
set(CUDA_OBJECTS $<TARGET_OBJECTS:wm_cuda>)
set(CUDA_LINKS CUDA::cudart_static)
set(CUDA_PC_LIBS "-L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -lstdc++ -ldl -lrt")
# nvcc's launch stubs need two functions of libstdc++: linked in as well, so that no machine has to have it.
target_link_options(wm_flags INTERFACE -static-libstdc++ -static-libgcc)
# Host code that speaks to the runtime sees its headers and knows that it is there.
target_compile_definitions(wm_flags INTERFACE WM_HAVE_CUDA)
string(REPLACE ";" ", " archs "${WM_CUDA_ARCHS}")
set_source_files_properties(host/engine/backend_cuda.c PROPERTIES COMPILE_DEFINITIONS "WM_CUDA_ARCHS=\"${archs}\"")
target_include_directories(wm_flags SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
