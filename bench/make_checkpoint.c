/*
 * make_checkpoint.c: writes synthetic checkpoints: a base and fine-tunes of it, of any shape, from a seed.
 *
 * What lives here: the options, the layout of the files, and what goes beside the weights. Tests, benchmarks and the
 * offline demo get their models here; with --sparse only headers and holes are written, so that plans of 70B shapes cost
 * milliseconds. What it must not know: how values are made (checkpoint_weights.h), architectures (checkpoint_shapes.h).
 */
#include "base/dtype.h"
#include "base/file.h"
#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint_shapes.h"
#include "checkpoint_weights.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FINE_TUNES 64

struct options {
    struct shape shape;
    const char *out, *from;
    uint64_t shard_bytes, seed, n_fine_tunes, n_threads;
    double delta_std;
    bool sparse;
};

/* Everything between the options and the finished directories. */
struct maker {
    struct options options;
    struct arena arena;
    struct ckpt *source; /* --from; else NULL */
    struct shape_tensors tensors;
    int n_variants, n_shards;
    const char **dirs;          /* [n_variants] */
    uint64_t *shard_bytes;      /* [n_shards] data section */
    struct weights_file *files; /* [n_variants][n_shards] */
    struct weights_file *source_files;
};

/* ---- layout ------------------------------------------------------------------------------------------------- */

static bool variant_is_base(const struct maker *m, int variant)
{
    return !m->source && variant == 0;
}

static enum wm_status list_source_tensors(struct maker *m, struct wm_error *err)
{
    const struct ckpt *c = m->source;
    struct shape_tensor *items = arena_array(&m->arena, c->n_tensors, sizeof *items);
    m->source_files = arena_array(&m->arena, (size_t)c->n_files, sizeof *m->source_files);
    if (!items || !m->source_files)
        return error_no_memory(err, "listing tensors");
    for (int i = 0; i < c->n_files; i++) {
        m->source_files[i] = (struct weights_file){.fd = -1, .path = c->files[i].path};
        bool direct = false;
        enum wm_status st = file_open_read(&m->source_files[i].fd, c->files[i].path, &direct, NULL, err);
        if (st != WM_OK)
            return st;
    }
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct ckpt_tensor *t = &c->tensors[i];
        items[i] = (struct shape_tensor){.name = t->name,
                                         .dtype = t->dtype,
                                         .n_dims = t->n_dims,
                                         .shape = t->shape,
                                         .n_elems = t->n_elems,
                                         .n_bytes = t->n_bytes,
                                         .source_file = t->file,
                                         .source_begin = t->begin};
    }
    m->tensors = (struct shape_tensors){.items = items, .n_items = c->n_tensors};
    return WM_OK;
}

/* Fills shards in order, as save_pretrained does: a tensor that does not fit begins the next shard. */
static enum wm_status assign_shards(struct maker *m, struct wm_error *err)
{
    m->shard_bytes = arena_array(&m->arena, m->tensors.n_items + 1, sizeof *m->shard_bytes);
    if (!m->shard_bytes)
        return error_no_memory(err, "laying out shards");
    int shard = 0;
    for (size_t i = 0; i < m->tensors.n_items; i++) {
        struct shape_tensor *t = &m->tensors.items[i];
        if (m->shard_bytes[shard] > 0 && (m->shard_bytes[shard] > m->options.shard_bytes ||
                                          t->n_bytes > m->options.shard_bytes - m->shard_bytes[shard]))
            shard++;
        t->shard = shard;
        t->begin = m->shard_bytes[shard];
        if (__builtin_add_overflow(m->shard_bytes[shard], t->n_bytes, &m->shard_bytes[shard]))
            return error_set(err, WM_USAGE, "the checkpoint is larger than 2^64 bytes");
    }
    m->n_shards = shard + 1;
    return WM_OK;
}

static const char *shard_name(const struct maker *m, char name[64], int shard)
{
    if (m->n_shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, m->n_shards);
    return name;
}

/* ---- directories and small files ---------------------------------------------------------------------------- */

static enum wm_status make_dirs(struct maker *m, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    m->n_variants = (int)m->options.n_fine_tunes + (m->source ? 0 : 1);
    m->dirs = arena_array(&m->arena, (size_t)m->n_variants + 1, sizeof *m->dirs);
    if (!m->dirs)
        return error_no_memory(err, "naming directories");
    TRY(file_make_dir(m->options.out, err));
    for (int v = 0; v < m->n_variants; v++) {
        m->dirs[v] = variant_is_base(m, v)
                         ? arena_printf(&m->arena, "%s/base", m->options.out)
                         : arena_printf(&m->arena, "%s/ft%d", m->options.out, v + (m->source ? 1 : 0));
        if (!m->dirs[v])
            return error_no_memory(err, "naming directories");
        TRY(file_make_dir(m->dirs[v], err));
        if (!file_dir_is_empty(m->dirs[v]))
            return error_set(err, WM_CANT_CREATE, "%s is not empty: remove it or choose another --out", m->dirs[v]);
    }
out:
    return st;
}

static enum wm_status write_text(struct maker *m, const char *name, const struct text *t, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    if (t->failed)
        return error_no_memory(err, name);
    for (int v = 0; v < m->n_variants; v++) {
        const char *path = arena_printf(&m->arena, "%s/%s", m->dirs[v], name);
        if (!path)
            return error_no_memory(err, name);
        TRY(file_write_whole(path, text_string(t), t->n_bytes, false, err));
    }
out:
    return st;
}

static enum wm_status write_generated_texts(struct maker *m, struct wm_error *err)
{
    static const struct {
        const char *name;
        void (*make)(const struct shape *shape, struct text *json);
        bool decoder_only;
    } kit[] = {{"config.json", shape_config_json, false},
               {"generation_config.json", shape_generation_json, true},
               {"tokenizer.json", shape_tokenizer_json, false},
               {"tokenizer_config.json", shape_tokenizer_config_json, false}};
    enum wm_status st = WM_OK;
    struct text t;
    text_init(&t, TEXT_MAX_BYTES);
    for (size_t i = 0; i < sizeof kit / sizeof *kit; i++) {
        if (kit[i].decoder_only && m->options.shape.arch == SHAPE_BERT)
            continue;
        text_release(&t);
        text_init(&t, TEXT_MAX_BYTES);
        kit[i].make(&m->options.shape, &t);
        TRY(write_text(m, kit[i].name, &t, err));
    }
out:
    text_release(&t);
    return st;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), n_tail = strlen(tail);
    return n >= n_tail && strcmp(s + n - n_tail, tail) == 0;
}

/* Of an existing checkpoint: config, tokenizer and the like, but neither weights nor an index of other shards. */
static enum wm_status copy_source_texts(struct maker *m, struct wm_error *err)
{
    static const char *const kinds[] = {".json", ".txt", ".model", ".jinja"};
    enum wm_status st = WM_OK;
    DIR *dir = opendir(m->source->dir);
    if (!dir)
        return error_set(err, WM_NO_INPUT, "cannot list %s", m->source->dir);
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        bool wanted = false;
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            wanted |= ends_with(entry->d_name, kinds[i]);
        if (!wanted || ends_with(entry->d_name, ".index.json"))
            continue;
        const char *from = arena_printf(&m->arena, "%s/%s", m->source->dir, entry->d_name);
        for (int v = 0; v < m->n_variants; v++) {
            const char *to = arena_printf(&m->arena, "%s/%s", m->dirs[v], entry->d_name);
            if (!from || !to) {
                st = error_no_memory(err, "copying files");
                goto out;
            }
            TRY(file_copy_whole(from, to, false, err));
        }
    }
out:
    closedir(dir);
    return st;
}

static enum wm_status write_index(struct maker *m, struct wm_error *err)
{
    if (m->n_shards == 1)
        return WM_OK;
    uint64_t total = 0;
    for (size_t i = 0; i < m->tensors.n_items; i++)
        total += m->tensors.items[i].n_bytes;
    struct text t;
    text_init(&t, TEXT_MAX_BYTES);
    text_addf(&t, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
              (unsigned long long)total);
    for (size_t i = 0; i < m->tensors.n_items; i++) {
        char name[64];
        text_add(&t, i ? ",\n    " : "\n    ");
        text_add_json(&t, m->tensors.items[i].name);
        text_addf(&t, ": \"%s\"", shard_name(m, name, m->tensors.items[i].shard));
    }
    text_add(&t, "\n  }\n}\n");
    enum wm_status st = write_text(m, "model.safetensors.index.json", &t, err);
    text_release(&t);
    return st;
}

/* ---- shards ------------------------------------------------------------------------------------------------- */

static enum wm_status create_shard(struct maker *m, int variant, int shard, const void *header, size_t n_header,
                                   uint64_t n_bytes, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    char name[64];
    struct weights_file *f = &m->files[variant * m->n_shards + shard];
    f->path = arena_printf(&m->arena, "%s/%s", m->dirs[variant], shard_name(m, name, shard));
    if (!f->path)
        return error_no_memory(err, "naming shards");
    TRY(file_open_write(&f->fd, f->path, true, true, err));
    if (m->options.sparse) { /* file_allocate would reserve the blocks: a hole is what is wanted here */
        if (n_bytes > INT64_MAX || ftruncate(f->fd, (off_t)n_bytes) != 0)
            return error_set(err, WM_CANT_CREATE, "cannot make %s a sparse file of %llu bytes", f->path,
                             (unsigned long long)n_bytes);
    } else {
        TRY(file_allocate(f->fd, f->path, n_bytes, err));
    }
    TRY(file_write_at(f->fd, f->path, header, n_header, 0, err));
    if (m->options.sparse)
        TRY(file_close_write(&f->fd, f->path, err));
out:
    return st;
}

/* Writes the headers of one shard in all variants and makes its tensors' offsets absolute. Tensors [first, last) */
static enum wm_status create_shards_of(struct maker *m, size_t first, size_t last, struct wm_error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    enum wm_status st = WM_OK;
    void *header = NULL;
    size_t n_header = 0;
    struct safetensors_entry *entries = calloc(last - first + 1, sizeof *entries);
    if (!entries)
        return error_no_memory(err, "writing headers");
    int shard = m->tensors.items[first].shard;
    for (size_t i = first; i < last; i++) {
        const struct shape_tensor *t = &m->tensors.items[i];
        entries[i - first] = (struct safetensors_entry){t->name, t->dtype, t->n_dims, t->shape, t->begin, t->n_bytes};
    }
    TRY(safetensors_header(entries, last - first, metadata, 8, &header, &n_header, err));
    for (size_t i = first; i < last; i++)
        m->tensors.items[i].begin += n_header;
    for (int v = 0; v < m->n_variants; v++)
        TRY(create_shard(m, v, shard, header, n_header, n_header + m->shard_bytes[shard], err));
out:
    free(header);
    free(entries);
    return st;
}

static enum wm_status create_all_shards(struct maker *m, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    size_t n_files = (size_t)m->n_variants * (size_t)m->n_shards, last = 0;
    m->files = arena_array(&m->arena, n_files, sizeof *m->files);
    if (!m->files)
        return error_no_memory(err, "opening shards");
    for (size_t i = 0; i < n_files; i++)
        m->files[i].fd = -1;
    for (size_t first = 0; first < m->tensors.n_items; first = last) {
        while (last < m->tensors.n_items && m->tensors.items[last].shard == m->tensors.items[first].shard)
            last++;
        TRY(create_shards_of(m, first, last, err));
    }
out:
    return st;
}

static enum wm_status make(struct maker *m, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    const struct options *o = &m->options;
    if (o->from) {
        struct problems problems;
        struct ckpt_options ckpt_options = {0};
        problems_init(&problems, NULL, NULL, false);
        TRY(ckpt_open(&m->source, o->from, NULL, &ckpt_options, &problems, err));
        TRY(list_source_tensors(m, err));
    } else {
        TRY(shape_check(&o->shape, err));
        TRY(shape_list_tensors(&o->shape, &m->arena, &m->tensors, err));
    }
    TRY(assign_shards(m, err));
    TRY(make_dirs(m, err));
    TRY(create_all_shards(m, err));
    if (!o->sparse) {
        struct weights_job job = {.tensors = &m->tensors,
                                  .seed = o->seed,
                                  .delta_std = o->delta_std,
                                  .sources = m->source_files,
                                  .writes_base = !m->source,
                                  .n_variants = m->n_variants,
                                  .n_shards = m->n_shards,
                                  .outputs = m->files,
                                  .n_threads = (int)o->n_threads};
        TRY(weights_write(&job, err));
        for (int i = 0; i < m->n_variants * m->n_shards; i++)
            TRY(file_close_write(&m->files[i].fd, m->files[i].path, err));
    }
    TRY(m->source ? copy_source_texts(m, err) : write_generated_texts(m, err));
    TRY(write_index(m, err)); /* last: a directory with an index is complete */
out:
    return st;
}

static void maker_release(struct maker *m)
{
    for (int i = 0; m->files && i < m->n_variants * m->n_shards; i++)
        file_close(&m->files[i].fd);
    for (int i = 0; m->source_files && i < m->source->n_files; i++)
        file_close(&m->source_files[i].fd);
    ckpt_free(m->source);
    arena_release(&m->arena);
}

/* ---- options ------------------------------------------------------------------------------------------------ */

static void print_help(void)
{
    puts("usage: make_checkpoint [PRESET] --out DIR [options]\n"
         "\n"
         "Writes DIR/base and fine-tunes DIR/ft1, DIR/ft2, ... as Hugging Face model directories. The same options "
         "give\n"
         "the same bytes.\n"
         "\n"
         "  --fine-tunes N       how many fine-tunes (default 2)\n"
         "  --delta-std X        their change, for weights of standard deviation 0.02 (default 0.0005)\n"
         "  --seed N             (default 0)\n"
         "  --dtype bf16|f16|f32 (default: the preset's)\n"
         "  --shard-size SIZE    largest shard, as 5GB or 512MiB (default 5GB)\n"
         "  --sparse             headers and holes only: for planning, in milliseconds\n"
         "  --from DIR           fine-tunes of an existing safetensors checkpoint; writes no base\n"
         "  --threads N          (default: all processors)\n"
         "\n"
         "shape, on top of the preset (default: tiny-llama):\n"
         "  --arch llama|qwen2|mixtral|qwen3_moe|bert   --hidden N  --layers N  --intermediate N  --heads N\n"
         "  --kv-heads N  --head-dim N  --vocab N  --experts N  --experts-per-token N  --positions N\n"
         "  --tied  --untied   lm_head shared with the embedding or not\n"
         "  --tensors N        instead of a model: N tensors of 16 x 16\n"
         "\n"
         "presets:");
    for (size_t i = 0; shape_preset_at(i); i++)
        printf("  %-17s %s\n", shape_preset_at(i)->name, shape_arch_name(shape_preset_at(i)->arch));
}

static uint64_t processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint64_t)CPU_COUNT(&set) : 1;
}

/* One option with its value; false when there is no such option. */
static enum wm_status set_value(struct options *o, const char *name, const char *value, bool *known,
                                struct wm_error *err)
{
    const struct {
        const char *name;
        uint64_t *target, max;
    } numbers[] = {
        {"--fine-tunes", &o->n_fine_tunes, MAX_FINE_TUNES},
        {"--seed", &o->seed, UINT64_MAX},
        {"--threads", &o->n_threads, 1024},
        {"--hidden", &o->shape.hidden, UINT32_MAX},
        {"--layers", &o->shape.layers, UINT32_MAX},
        {"--intermediate", &o->shape.intermediate, UINT32_MAX},
        {"--heads", &o->shape.heads, UINT32_MAX},
        {"--kv-heads", &o->shape.kv_heads, UINT32_MAX},
        {"--head-dim", &o->shape.head_dim, UINT32_MAX},
        {"--vocab", &o->shape.vocab, UINT32_MAX},
        {"--experts", &o->shape.experts, UINT32_MAX},
        {"--experts-per-token", &o->shape.experts_per_token, UINT32_MAX},
        {"--positions", &o->shape.positions, UINT32_MAX},
        {"--tensors", &o->shape.n_many, 10000000},
    };
    *known = true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(name, numbers[i].name) == 0) {
            if (!text_parse_u64(value, numbers[i].target) || *numbers[i].target > numbers[i].max)
                return error_set(err, WM_USAGE, "%s takes a number up to %llu, not \"%s\"", name,
                                 (unsigned long long)numbers[i].max, value);
            if (numbers[i].target == &o->shape.n_many)
                o->shape.arch = SHAPE_MANY;
            return WM_OK;
        }
    if (strcmp(name, "--out") == 0) {
        o->out = value;
    } else if (strcmp(name, "--from") == 0) {
        o->from = value;
    } else if (strcmp(name, "--shard-size") == 0) {
        if (!text_parse_bytes(value, false, &o->shard_bytes) || o->shard_bytes == 0)
            return error_set(err, WM_USAGE, "--shard-size takes a size such as 5GB or 512MiB, not \"%s\"", value);
    } else if (strcmp(name, "--delta-std") == 0) {
        char *end = NULL;
        o->delta_std = strtod(value, &end);
        if (end == value || *end || !(o->delta_std >= 0 && o->delta_std < 1e6))
            return error_set(err, WM_USAGE, "--delta-std takes a number from 0 on, not \"%s\"", value);
    } else if (strcmp(name, "--arch") == 0) {
        o->shape.arch = shape_arch_find(value);
        if (o->shape.arch == SHAPE_N_ARCHS)
            return error_set(err, WM_USAGE, "--arch is llama, qwen2, mixtral, qwen3_moe or bert, not \"%s\"", value);
    } else if (strcmp(name, "--dtype") == 0) {
        if (strcmp(value, "bf16") == 0)
            o->shape.dtype = WM_BF16;
        else if (strcmp(value, "f16") == 0)
            o->shape.dtype = WM_F16;
        else if (strcmp(value, "f32") == 0)
            o->shape.dtype = WM_F32;
        else
            return error_set(err, WM_USAGE, "--dtype is bf16, f16 or f32, not \"%s\"", value);
    } else {
        *known = false;
    }
    return WM_OK;
}

static enum wm_status parse(struct options *o, int argc, char **argv, struct wm_error *err)
{
    enum wm_status st = WM_OK;
    *o = (struct options){.shape = *shape_preset("tiny-llama"),
                          .shard_bytes = 5000000000u,
                          .n_fine_tunes = 2,
                          .n_threads = processors(),
                          .delta_std = 5e-4};
    int i = 1;
    if (argc > 1 && argv[1][0] != '-') {
        const struct shape *preset = shape_preset(argv[1]);
        if (!preset)
            return error_set(err, WM_USAGE, "there is no preset \"%s\"; --help lists them", argv[1]);
        o->shape = *preset;
        i = 2;
    }
    for (; i < argc; i++) {
        bool known = false;
        if (strcmp(argv[i], "--sparse") == 0) {
            o->sparse = true;
        } else if (strcmp(argv[i], "--tied") == 0 || strcmp(argv[i], "--untied") == 0) {
            o->shape.tied = argv[i][2] == 't';
        } else {
            if (i + 1 < argc)
                TRY(set_value(o, argv[i], argv[i + 1], &known, err));
            if (!known)
                return error_set(err, WM_USAGE, "\"%s\" is not an option or lacks its value; see --help", argv[i]);
            i++;
        }
    }
    if (!o->out)
        return error_set(err, WM_USAGE, "--out DIR is missing; see --help");
    if (o->from && (o->n_fine_tunes == 0 || o->sparse))
        return error_set(err, WM_USAGE, "--from makes fine-tunes: it needs at least one, and takes no --sparse");
    if (o->n_threads == 0)
        o->n_threads = 1;
out:
    return st;
}

int main(int argc, char **argv)
{
    struct wm_error err = WM_ERROR_INIT;
    struct maker maker = {0};
    if (argc == 1 || strcmp(argv[1], "--help") == 0) {
        print_help();
        return 0;
    }
    arena_init(&maker.arena, (size_t)4 << 30);
    double start = file_now_seconds();
    enum wm_status st = parse(&maker.options, argc, argv, &err);
    if (st == WM_OK)
        st = make(&maker, &err);
    if (st != WM_OK) {
        fprintf(stderr, "make_checkpoint: %s\n", err.message);
    } else {
        uint64_t n_bytes = 0;
        for (int i = 0; i < maker.n_shards; i++)
            n_bytes += maker.shard_bytes[i];
        char size[24];
        for (int v = 0; v < maker.n_variants; v++)
            printf("%s: %zu tensors, %s in %d file%s\n", maker.dirs[v], maker.tensors.n_items,
                   text_decimal_bytes(size, sizeof size, n_bytes), maker.n_shards, maker.n_shards == 1 ? "" : "s");
        printf("written in %.1f s\n", file_now_seconds() - start);
    }
    maker_release(&maker);
    return wm_exit_code(st);
}
