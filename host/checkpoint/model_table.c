/* model_table.c: see model_table.h. */
#include "checkpoint/model_table.h"

#include "base/dtype.h"
#include "base/text.h"
#include "checkpoint/name_map.h"
#include "checkpoint/refuse.h"

#include <stdio.h>
#include <stdlib.h>

static int compare_tensors(const void *left, const void *right)
{
    const struct ckpt_tensor *a = left, *b = right;
    int order = text_natural_compare(a->name, b->name);

    return order ? order : a->file - b->file;
}

enum wm_status model_table_build(struct ckpt *ckpt, struct wm_error *err)
{
    char shown[REFUSE_NAME_BYTES];
    bool sorted = true;

    for (size_t i = 1; i < ckpt->n_tensors && sorted; i++)
        sorted = compare_tensors(&ckpt->tensors[i - 1], &ckpt->tensors[i]) < 0;
    if (!sorted)
        qsort(ckpt->tensors, ckpt->n_tensors, sizeof *ckpt->tensors, compare_tensors);
    ckpt->names = arena_alloc(&ckpt->arena, sizeof *ckpt->names);
    if (!ckpt->names ||
        !name_map_init(ckpt->names, &ckpt->arena, ckpt->tensors, sizeof *ckpt->tensors, ckpt->n_tensors))
        return error_no_memory(err, "opening a model");
    for (size_t i = 0; i < ckpt->n_tensors; i++) {
        const struct ckpt_tensor *t = &ckpt->tensors[i];
        size_t at = name_map_add(ckpt->names, i);
        if (at != i)
            return ckpt_refuse(err, WM_BAD_DATA, "DUPLICATE_TENSOR", ckpt->dir,
                               "the tensor \"%s\" is in both %s and %s, and no index says which one counts; remove the "
                               "file that does not belong to the model",
                               text_display(shown, sizeof shown, t->name), ckpt->files[ckpt->tensors[at].file].name,
                               ckpt->files[t->file].name);
        if (__builtin_add_overflow(ckpt->n_bytes, t->n_bytes, &ckpt->n_bytes))
            return ckpt_refuse(err, WM_BAD_DATA, "SHAPE_OVERFLOW", ckpt->dir,
                               "its tensors together do not fit 64 bits; download the model again");
    }
    return WM_OK;
}

const struct ckpt_tensor *ckpt_find(const struct ckpt *ckpt, const char *name)
{
    size_t at = name_map_find(ckpt->names, name);

    return at == NAME_MAP_NONE ? NULL : &ckpt->tensors[at];
}

const char *ckpt_shape_text(char *buffer, size_t size, const struct ckpt_tensor *tensor)
{
    size_t used = (size_t)snprintf(buffer, size, "%s [", dtype_name(tensor->dtype));

    for (int i = 0; i < tensor->n_dims && used < size; i++)
        used +=
            (size_t)snprintf(buffer + used, size - used, "%s%llu", i ? ", " : "", (unsigned long long)tensor->shape[i]);
    if (used < size)
        used += (size_t)snprintf(buffer + used, size - used, "]");
    if (used >= size && size >= 5)
        snprintf(buffer + size - 5, 5, "...]");
    return buffer;
}
