/*
 * backend_cuda_select.c: searches for k-th magnitudes that a GPU ends alone.
 *
 * What lives here: which tensors are searched this way, and the one chain of launches that follows a tensor's last tile. It
 * runs on a stream of its own behind that tile, so it waits for no other tensor's tiles and they not for it; its few
 * numbers come home before the tile counts as done, so nobody waits a second time. Tensors that do not stay on the device
 * and those that other processes have tiles of are searched by the host, pass by pass (backend_cuda_tiles.c). What it must
 * not know: jobs, files, how kernels work.
 */
#include "engine/backend_cuda.h"

#include <string.h>

/* Of one tensor: 10,922 tiles of two models and a base, 5.7 G elements in tiles of 1 MiB of bf16. */
#define TABLE_BYTES ((size_t)256 << 10)
/* Tensors of nearly the same size have results of one size, so that a finished one's place fits the next. */
#define RESULT_ALIGN ((uint64_t)256 << 10)
#define HOST_BYTES   (TABLE_BYTES + DEVICE_SELECT_CHOICE_BYTES)

enum wm_status backend_cuda_select_open(struct backend *b, struct cuda_thread *t, struct wm_error *err)
{
    enum wm_status st = WM_OK;

    CUDA(cudaStreamCreateWithFlags(&t->select, cudaStreamNonBlocking), "creating a stream");
    CUDA(cudaHostAlloc((void **)&t->select_memory, CUDA_DEPTH * HOST_BYTES, cudaHostAllocDefault),
         "allocating host memory");
    for (size_t i = 0; i < CUDA_DEPTH; i++) {
        t->slots[i].table = (const void **)(void *)(t->select_memory + i * HOST_BYTES);
        t->slots[i].choices = t->select_memory + i * HOST_BYTES + TABLE_BYTES;
    }
out:
    return st;
}

uint64_t backend_cuda_select_plan(struct cuda_tensor *x, const struct backend_task *task)
{
    device_select_plan(task->op, task->statistics, &x->select);
    /* A tensor whose first block is of the sample is searched pass by pass: its counts come home and are checked. */
    x->selects = x->resident && !device_sample_has(&x->sample, 0) && x->select.n_result_bytes &&
                 x->select.n_table_bytes <= TABLE_BYTES && x->select.n_inputs == x->n_inputs;
    return x->selects ? (x->select.n_result_bytes + RESULT_ALIGN - 1) / RESULT_ALIGN * RESULT_ALIGN : 0;
}

enum wm_status backend_cuda_select(struct backend *b, struct cuda_thread *t, struct cuda_tensor *x,
                                   struct cuda_slot *slot, const struct backend_task *task, struct wm_error *err)
{
    const struct device_select *plan = &x->select;
    unsigned char *results = x->results.at;
    enum wm_status st = WM_OK;

    for (size_t i = 0; i < x->n_tiles * (size_t)x->n_inputs; i++)
        slot->table[i] = backend_cuda_slot_at(t, x->slots[i]);
    /* Before the table as well: the compute stream clears all results as the pass begins. */
    CUDA(cudaEventRecord(slot->computed, t->compute), "launching a search");
    CUDA(cudaStreamWaitEvent(t->select, slot->computed, 0), "launching a search");
    CUDA(cudaMemcpyAsync(results + plan->table_at, slot->table, plan->n_table_bytes, cudaMemcpyHostToDevice, t->select),
         "launching a search");
    CUDA(device_select_launch(task->statistics, plan, slot->table, task->tile.in_dtype, results, t->select),
         "launching a search");
    CUDA(cudaMemcpyAsync(slot->choices, results + plan->choices_at, plan->n_choice_bytes, cudaMemcpyDeviceToHost,
                         t->select),
         "downloading statistics");
    slot->selected = true;
out:
    return st;
}
