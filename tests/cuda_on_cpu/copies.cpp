/*
 * copies.cpp: copies and fills, as work of a stream.
 *
 * What lives here: cudaMemcpy and cudaMemset in all their forms, what they refuse, and how they are counted. Memory that
 * is not pinned goes through a staging buffer, as on hardware: the caller waits for what comes from a device, and until what
 * goes to one is in the buffer, from where it arrives when the stream comes to it. That holds for the calls whose names do
 * not say Async, too: of them, fills and copies within devices do not wait either. Compiled without any sanitizer. What it
 * must not know: when a stream's work runs.
 */
#include "machine.h"

#include <string.h>

namespace cuda_on_cpu
{

struct Copy {
    char *to;
    const char *from; /* null: set to value */
    size_t to_pitch, from_pitch, width, height;
    int value;
    char *staged; /* from, if it is ours */
};

static void run_copy(Stream *, void *data)
{
    const Copy *c = static_cast<const Copy *>(data);
    for (size_t y = 0; y < c->height; y++) {
        char *to = c->to + y * c->to_pitch;
        const char *from = c->from ? c->from + y * c->from_pitch : nullptr;
        int to_device = -1, from_device = -1;
        classify(to, c->width, &to_device);
        if (from)
            classify(from, c->width, &from_device);
        if (to_device >= 0)
            asan_unpoison(to, c->width);
        if (from_device >= 0)
            asan_unpoison(from, c->width);
        if (from)
            memcpy(to, from, c->width);
        else
            memset(to, c->value, c->width);
        if (to_device >= 0)
            asan_poison(to, c->width);
        if (from_device >= 0)
            asan_poison(from, c->width);
    }
}

static void drop_copy(void *data)
{
    Copy *c = static_cast<Copy *>(data);
    delete[] c->staged;
    delete c;
}

static Copy *stage(const Copy &c)
{
    Copy *staged = new Copy(c);
    staged->staged = new char[c.width * c.height];
    for (size_t y = 0; y < c.height; y++)
        memcpy(staged->staged + y * c.width, c.from + y * c.from_pitch, c.width);
    staged->from = staged->staged;
    staged->from_pitch = c.width;
    return staged;
}

static cudaError_t copy(const Copy &c, cudaMemcpyKind kind, cudaStream_t handle, bool is_async)
{
    Stream *s = stream_of(handle);
    if (!s)
        return cudaErrorInvalidResourceHandle;
    if (c.width == 0 || c.height == 0)
        return cudaSuccess;
    if (c.height > 1 && (c.to_pitch < c.width || (c.from && c.from_pitch < c.width)))
        return cudaErrorInvalidValue;
    Memory to = classify(c.to, c.to_pitch * (c.height - 1) + c.width, nullptr), from = Memory::pageable;
    if (c.from)
        from = classify(c.from, c.from_pitch * (c.height - 1) + c.width, nullptr);
    if (to == Memory::outside || from == Memory::outside || !c.to)
        return cudaErrorInvalidValue;
    bool to_device = to == Memory::device, from_device = from == Memory::device;
    cudaMemcpyKind right = (cudaMemcpyKind)((to_device ? 1 : 0) + (from_device ? 2 : 0));
    if (c.from ? kind != cudaMemcpyDefault && kind != right : !to_device)
        return cudaErrorInvalidValue;
    cuda_on_cpu_counts *counts = &machine->counts;
    size_t n_bytes = c.width * c.height;
    if (c.from && to_device && from_device)
        counts->copies_on_device++;
    else if (c.from && to_device) {
        counts->copies_to_device++;
        counts->bytes_to_device += n_bytes;
    } else if (from_device) {
        counts->copies_to_host++;
        counts->bytes_to_host += n_bytes;
    }
    bool pageable = c.from && ((!to_device && to == Memory::pageable) || (!from_device && from == Memory::pageable));
    if (pageable && is_async)
        counts->pageable_copies++;
    bool staged = pageable && to_device, waits = !is_async && c.from && (!to_device || from == Memory::pinned);
    if (staged && !is_async)
        join(s); /* for earlier work of the null stream, not for its own */
    Op op = {};
    op.work = run_copy;
    op.drop = drop_copy;
    op.data = staged ? stage(c) : new Copy(c);
    enqueue(s, op, pageable && !to_device);
    if (waits)
        join(s);
    return cudaSuccess;
}

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

static Copy plain_copy(void *to, const void *from, size_t n_bytes, int value)
{
    return {static_cast<char *>(to), static_cast<const char *>(from), n_bytes, n_bytes, n_bytes, 1, value, nullptr};
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind)
{
    return call([=] {
        return n_bytes && !from ? cudaErrorInvalidValue : copy(plain_copy(to, from, n_bytes, 0), kind, nullptr, false);
    });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    return call([=] {
        return n_bytes && !from ? cudaErrorInvalidValue : copy(plain_copy(to, from, n_bytes, 0), kind, stream, true);
    });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    return call([=] {
        Copy c = {
            static_cast<char *>(to), static_cast<const char *>(from), to_pitch, from_pitch, width, height, 0, nullptr};
        return width && height && !from ? cudaErrorInvalidValue : copy(c, kind, stream, true);
    });
}

cudaError_t cudaMemset(void *to, int value, size_t n_bytes)
{
    return call([=] { return copy(plain_copy(to, nullptr, n_bytes, value), cudaMemcpyDefault, nullptr, false); });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t n_bytes, cudaStream_t stream)
{
    return call([=] { return copy(plain_copy(to, nullptr, n_bytes, value), cudaMemcpyDefault, stream, true); });
}
