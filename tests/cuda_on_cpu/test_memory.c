/*
 * test_memory.c: memory of the pretended machine that somebody else has allocated.
 *
 * What lives here: tests of memory.cpp, as C sees it. What it must not know: what runs on the machine (test_machine.c).
 */
#include "cuda_on_cpu.h"
#include "cuda_runtime_api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Memory of the caller's is pinned while it is registered, once at a time, and stays the caller's. */
static void test_registering(void **state)
{
    (void)state;
    enum { N_BYTES = 3 << 12 };
    struct cuda_on_cpu_config config = cuda_on_cpu_default();
    config.pinned_bytes = N_BYTES;
    cuda_on_cpu_configure(&config);
    char *ours = malloc(N_BYTES), *device = NULL;
    cudaStream_t stream;
    struct cuda_on_cpu_counts n;
    struct cuda_on_cpu_live live;
    assert_non_null(ours);
    memset(ours, 7, N_BYTES);
    assert_int_equal(cudaHostRegister(NULL, 8, cudaHostRegisterPortable), cudaErrorInvalidValue);
    assert_int_equal(cudaHostRegister(ours, 0, cudaHostRegisterPortable), cudaErrorInvalidValue);
    assert_int_equal(cudaHostUnregister(ours), cudaErrorHostMemoryNotRegistered);
    assert_int_equal(cudaHostRegister(ours + 4096, 4096, cudaHostRegisterPortable), cudaSuccess);
    assert_int_equal(cudaHostRegister(ours, N_BYTES, cudaHostRegisterPortable), cudaErrorHostMemoryAlreadyRegistered);
    assert_int_equal(cudaHostRegister(ours + 5000, 8, cudaHostRegisterPortable), cudaErrorHostMemoryAlreadyRegistered);
    assert_int_equal(cudaHostUnregister(ours + 4096), cudaSuccess);
    assert_int_equal(cudaHostRegister(ours, N_BYTES + 1, cudaHostRegisterPortable), cudaErrorMemoryAllocation);
    assert_int_equal(cudaHostRegister(ours, N_BYTES, cudaHostRegisterPortable), cudaSuccess);
    assert_int_equal(cudaFreeHost(ours), cudaErrorInvalidValue);
    cuda_on_cpu_get_live(-1, &live);
    assert_int_equal(live.pinned_bytes, N_BYTES);
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaMalloc((void **)&device, N_BYTES), cudaSuccess);
    assert_int_equal(cudaMemcpyAsync(device, ours, N_BYTES, cudaMemcpyHostToDevice, stream), cudaSuccess);
    cuda_on_cpu_get_counts(&n);
    assert_int_equal(n.pageable_copies, 0);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    assert_int_equal(cudaHostUnregister(ours), cudaSuccess);
    assert_int_equal(ours[N_BYTES - 1], 7);
    assert_int_equal(cudaMemcpyAsync(device, ours, N_BYTES, cudaMemcpyHostToDevice, stream), cudaSuccess);
    cuda_on_cpu_get_counts(&n);
    assert_int_equal(n.pageable_copies, 1);
    assert_int_equal(cudaFree(device), cudaSuccess);
    assert_int_equal(cudaStreamDestroy(stream), cudaSuccess);
    free(ours);
    assert_int_equal(cuda_on_cpu_leaks(NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_registering)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
