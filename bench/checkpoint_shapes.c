/*
 * checkpoint_shapes.c: presets, tensor lists and config files of synthetic checkpoints.
 *
 * What lives here: the shapes of well-known models (from their published config.json) and how each architecture names
 * its tensors in Hugging Face checkpoints. What it must not know: values, files, threads.
 */
#include "checkpoint_shapes.h"

#include "base/dtype.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* clang-format off */
static const struct shape presets[] = {
    {.name = "tinyllama-1.1b", .arch = SHAPE_LLAMA, .dtype = WM_BF16, .hidden = 2048, .layers = 22,
     .intermediate = 5632, .heads = 32, .kv_heads = 4, .vocab = 32000,
     .positions = 2048, .rope_theta = 1e4, .norm_eps = 1e-5},
    {.name = "llama-3-8b", .arch = SHAPE_LLAMA, .dtype = WM_BF16, .hidden = 4096, .layers = 32,
     .intermediate = 14336, .heads = 32, .kv_heads = 8, .vocab = 128256,
     .positions = 8192, .rope_theta = 5e5, .norm_eps = 1e-5},
    {.name = "llama-3-70b", .arch = SHAPE_LLAMA, .dtype = WM_BF16, .hidden = 8192, .layers = 80,
     .intermediate = 28672, .heads = 64, .kv_heads = 8, .vocab = 128256,
     .positions = 8192, .rope_theta = 5e5, .norm_eps = 1e-5},
    {.name = "mixtral-8x7b", .arch = SHAPE_MIXTRAL, .dtype = WM_BF16, .hidden = 4096, .layers = 32,
     .intermediate = 14336, .heads = 32, .kv_heads = 8, .vocab = 32000, .experts = 8, .experts_per_token = 2,
     .positions = 32768, .rope_theta = 1e6, .norm_eps = 1e-5},
    {.name = "qwen2-0.5b", .arch = SHAPE_QWEN2, .dtype = WM_BF16, .hidden = 896, .layers = 24,
     .intermediate = 4864, .heads = 14, .kv_heads = 2, .vocab = 151936, .tied = true,
     .positions = 32768, .rope_theta = 1e6, .norm_eps = 1e-6},
    {.name = "qwen3-30b-a3b", .arch = SHAPE_QWEN3_MOE, .dtype = WM_BF16, .hidden = 2048, .layers = 48,
     .intermediate = 768, .heads = 32, .kv_heads = 4, .head_dim = 128, .vocab = 151936,
     .experts = 128, .experts_per_token = 8, .positions = 40960, .rope_theta = 1e6, .norm_eps = 1e-6},
    {.name = "qwen3-235b-a22b", .arch = SHAPE_QWEN3_MOE, .dtype = WM_BF16, .hidden = 4096, .layers = 94,
     .intermediate = 1536, .heads = 64, .kv_heads = 4, .head_dim = 128, .vocab = 151936,
     .experts = 128, .experts_per_token = 8, .positions = 40960, .rope_theta = 1e6, .norm_eps = 1e-6},
    {.name = "minilm", .arch = SHAPE_BERT, .dtype = WM_F32, .hidden = 384, .layers = 6,
     .intermediate = 1536, .heads = 12, .kv_heads = 12, .vocab = 30522, .positions = 512, .norm_eps = 1e-12},
    {.name = "tiny-llama", .arch = SHAPE_LLAMA, .dtype = WM_BF16, .hidden = 64, .layers = 4,
     .intermediate = 172, .heads = 4, .kv_heads = 2, .vocab = 320,
     .positions = 256, .rope_theta = 1e4, .norm_eps = 1e-5},
    {.name = "tiny-qwen2", .arch = SHAPE_QWEN2, .dtype = WM_BF16, .hidden = 64, .layers = 4,
     .intermediate = 172, .heads = 4, .kv_heads = 2, .vocab = 320, .tied = true,
     .positions = 256, .rope_theta = 1e6, .norm_eps = 1e-6},
    {.name = "tiny-mixtral", .arch = SHAPE_MIXTRAL, .dtype = WM_BF16, .hidden = 64, .layers = 2,
     .intermediate = 112, .heads = 4, .kv_heads = 2, .vocab = 320, .experts = 4, .experts_per_token = 2,
     .positions = 256, .rope_theta = 1e6, .norm_eps = 1e-5},
    {.name = "tiny-qwen3-moe", .arch = SHAPE_QWEN3_MOE, .dtype = WM_BF16, .hidden = 64, .layers = 2,
     .intermediate = 48, .heads = 4, .kv_heads = 2, .head_dim = 32, .vocab = 320,
     .experts = 8, .experts_per_token = 2, .positions = 256, .rope_theta = 1e6, .norm_eps = 1e-6},
    {.name = "tiny-bert", .arch = SHAPE_BERT, .dtype = WM_F32, .hidden = 64, .layers = 2,
     .intermediate = 172, .heads = 4, .kv_heads = 4, .vocab = 320, .positions = 64, .norm_eps = 1e-12},
};
/* clang-format on */

static const char *const arch_names[SHAPE_N_ARCHS] = {"llama", "qwen2", "mixtral", "qwen3_moe", "bert", "many"};

const struct shape *shape_preset_at(size_t index)
{
    return index < sizeof presets / sizeof *presets ? &presets[index] : NULL;
}

const struct shape *shape_preset(const char *name)
{
    for (size_t i = 0; shape_preset_at(i); i++)
        if (strcmp(shape_preset_at(i)->name, name) == 0)
            return shape_preset_at(i);
    return NULL;
}

enum shape_arch shape_arch_find(const char *name)
{
    int arch = 0;
    while (arch < SHAPE_N_ARCHS && strcmp(arch_names[arch], name) != 0)
        arch++;
    return (enum shape_arch)arch;
}

const char *shape_arch_name(enum shape_arch arch)
{
    return arch_names[arch];
}

static uint64_t head_dim_of(const struct shape *s)
{
    return s->head_dim ? s->head_dim : s->hidden / s->heads;
}

enum wm_status shape_check(const struct shape *s, struct wm_error *err)
{
    const uint64_t needed[] = {s->hidden, s->layers, s->intermediate, s->heads, s->kv_heads, s->vocab, s->positions};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (needed[i] == 0 || needed[i] > UINT32_MAX)
            return error_set(err, WM_USAGE,
                             "hidden, layers, intermediate, heads, kv-heads, vocab and positions must be "
                             "between 1 and 4294967295");
    if (!s->head_dim && s->hidden % s->heads != 0)
        return error_set(err, WM_USAGE, "--hidden %llu is not a multiple of --heads %llu: give --head-dim too",
                         (unsigned long long)s->hidden, (unsigned long long)s->heads);
    if (s->heads % s->kv_heads != 0)
        return error_set(err, WM_USAGE, "--heads %llu is not a multiple of --kv-heads %llu",
                         (unsigned long long)s->heads, (unsigned long long)s->kv_heads);
    bool moe = s->arch == SHAPE_MIXTRAL || s->arch == SHAPE_QWEN3_MOE;
    if (moe != (s->experts > 0) || (moe && (s->experts > UINT32_MAX || s->experts_per_token == 0)))
        return error_set(err, WM_USAGE, moe ? "%s needs --experts" : "%s takes no --experts", arch_names[s->arch]);
    return WM_OK;
}

/* ---- tensors ------------------------------------------------------------------------------------------------ */

/* One list under construction; the first failure sticks. */
struct listing {
    struct arena *arena;
    struct shape_tensors *tensors;
    enum wm_dtype dtype;
    enum wm_status st;
    struct wm_error *err;
};

__attribute__((format(printf, 5, 6))) static void add(struct listing *l, double mean, uint64_t rows, uint64_t columns,
                                                      const char *format, ...)
{
    if (l->st != WM_OK)
        return;
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);

    struct shape_tensor t = {.dtype = l->dtype, .n_dims = columns ? 2 : 1, .mean = mean, .source_file = -1};
    if (__builtin_mul_overflow(rows, columns ? columns : 1, &t.n_elems) ||
        __builtin_mul_overflow(t.n_elems, dtype_bits(l->dtype) / 8, &t.n_bytes)) {
        l->st = error_set(l->err, WM_USAGE, "tensor %s is larger than 2^64 bytes", name);
        return;
    }
    uint64_t *shape = arena_array(l->arena, 2, sizeof *shape);
    t.name = arena_strdup(l->arena, name);
    void *items = l->tensors->items;
    if (!shape || !t.name ||
        !arena_grow(l->arena, &items, l->tensors->n_items, &l->tensors->capacity, sizeof *l->tensors->items)) {
        l->st = error_no_memory(l->err, "listing tensors");
        return;
    }
    shape[0] = rows;
    shape[1] = columns;
    t.shape = shape;
    l->tensors->items = items;
    l->tensors->items[l->tensors->n_items++] = t;
}

static void add_attention(struct listing *l, const struct shape *s, unsigned layer)
{
    uint64_t q = s->heads * head_dim_of(s), kv = s->kv_heads * head_dim_of(s);
    const struct {
        const char *name;
        uint64_t rows;
    } qkv[] = {{"q", q}, {"k", kv}, {"v", kv}};
    for (size_t i = 0; i < 3; i++) {
        add(l, 0, qkv[i].rows, s->hidden, "model.layers.%u.self_attn.%s_proj.weight", layer, qkv[i].name);
        if (s->arch == SHAPE_QWEN2)
            add(l, 0, qkv[i].rows, 0, "model.layers.%u.self_attn.%s_proj.bias", layer, qkv[i].name);
    }
    add(l, 0, s->hidden, q, "model.layers.%u.self_attn.o_proj.weight", layer);
    if (s->arch == SHAPE_QWEN3_MOE) {
        add(l, 1, head_dim_of(s), 0, "model.layers.%u.self_attn.q_norm.weight", layer);
        add(l, 1, head_dim_of(s), 0, "model.layers.%u.self_attn.k_norm.weight", layer);
    }
}

static void add_mlp(struct listing *l, const struct shape *s, unsigned layer)
{
    uint64_t h = s->hidden, i = s->intermediate;
    if (s->arch == SHAPE_MIXTRAL) {
        add(l, 0, s->experts, h, "model.layers.%u.block_sparse_moe.gate.weight", layer);
        for (unsigned e = 0; e < s->experts; e++) {
            add(l, 0, i, h, "model.layers.%u.block_sparse_moe.experts.%u.w1.weight", layer, e);
            add(l, 0, h, i, "model.layers.%u.block_sparse_moe.experts.%u.w2.weight", layer, e);
            add(l, 0, i, h, "model.layers.%u.block_sparse_moe.experts.%u.w3.weight", layer, e);
        }
        return;
    }
    if (s->arch == SHAPE_QWEN3_MOE) {
        add(l, 0, s->experts, h, "model.layers.%u.mlp.gate.weight", layer);
        for (unsigned e = 0; e < s->experts; e++) {
            add(l, 0, i, h, "model.layers.%u.mlp.experts.%u.gate_proj.weight", layer, e);
            add(l, 0, i, h, "model.layers.%u.mlp.experts.%u.up_proj.weight", layer, e);
            add(l, 0, h, i, "model.layers.%u.mlp.experts.%u.down_proj.weight", layer, e);
        }
        return;
    }
    add(l, 0, i, h, "model.layers.%u.mlp.gate_proj.weight", layer);
    add(l, 0, i, h, "model.layers.%u.mlp.up_proj.weight", layer);
    add(l, 0, h, i, "model.layers.%u.mlp.down_proj.weight", layer);
}

static void add_decoder(struct listing *l, const struct shape *s)
{
    add(l, 0, s->vocab, s->hidden, "model.embed_tokens.weight");
    for (unsigned layer = 0; layer < s->layers && l->st == WM_OK; layer++) {
        add(l, 1, s->hidden, 0, "model.layers.%u.input_layernorm.weight", layer);
        add_attention(l, s, layer);
        add(l, 1, s->hidden, 0, "model.layers.%u.post_attention_layernorm.weight", layer);
        add_mlp(l, s, layer);
    }
    add(l, 1, s->hidden, 0, "model.norm.weight");
    if (!s->tied)
        add(l, 0, s->vocab, s->hidden, "lm_head.weight");
}

static void add_dense(struct listing *l, uint64_t rows, uint64_t columns, const char *prefix, unsigned layer,
                      const char *name)
{
    add(l, 0, rows, columns, "%s.%u.%s.weight", prefix, layer, name);
    add(l, 0, rows, 0, "%s.%u.%s.bias", prefix, layer, name);
}

static void add_bert(struct listing *l, const struct shape *s)
{
    static const char prefix[] = "encoder.layer";
    uint64_t h = s->hidden, i = s->intermediate;
    add(l, 0, s->vocab, h, "embeddings.word_embeddings.weight");
    add(l, 0, s->positions, h, "embeddings.position_embeddings.weight");
    add(l, 0, 2, h, "embeddings.token_type_embeddings.weight");
    add(l, 1, h, 0, "embeddings.LayerNorm.weight");
    add(l, 0, h, 0, "embeddings.LayerNorm.bias");
    for (unsigned layer = 0; layer < s->layers && l->st == WM_OK; layer++) {
        add_dense(l, h, h, prefix, layer, "attention.self.query");
        add_dense(l, h, h, prefix, layer, "attention.self.key");
        add_dense(l, h, h, prefix, layer, "attention.self.value");
        add_dense(l, h, h, prefix, layer, "attention.output.dense");
        add(l, 1, h, 0, "%s.%u.attention.output.LayerNorm.weight", prefix, layer);
        add(l, 0, h, 0, "%s.%u.attention.output.LayerNorm.bias", prefix, layer);
        add_dense(l, i, h, prefix, layer, "intermediate.dense");
        add_dense(l, h, i, prefix, layer, "output.dense");
        add(l, 1, h, 0, "%s.%u.output.LayerNorm.weight", prefix, layer);
        add(l, 0, h, 0, "%s.%u.output.LayerNorm.bias", prefix, layer);
    }
    add(l, 0, h, h, "pooler.dense.weight");
    add(l, 0, h, 0, "pooler.dense.bias");
}

enum wm_status shape_list_tensors(const struct shape *s, struct arena *arena, struct shape_tensors *tensors,
                                  struct wm_error *err)
{
    struct listing l = {.arena = arena, .tensors = tensors, .dtype = s->dtype, .st = WM_OK, .err = err};
    if (s->arch == SHAPE_MANY)
        for (uint64_t i = 0; i < s->n_many && l.st == WM_OK; i++)
            add(&l, 0, 16, 16, "model.layers.%llu.block.%llu.weight", (unsigned long long)(i / 100),
                (unsigned long long)(i % 100));
    else if (s->arch == SHAPE_BERT)
        add_bert(&l, s);
    else
        add_decoder(&l, s);
    return l.st;
}

/* ---- files beside the weights ------------------------------------------------------------------------------- */

static const char *bool_text(bool value)
{
    return value ? "true" : "false";
}

void shape_config_json(const struct shape *s, struct text *json)
{
    static const struct {
        const char *class_name, *model_type, *extra;
    } kinds[SHAPE_N_ARCHS] = {
        [SHAPE_LLAMA] = {"LlamaForCausalLM", "llama", "  \"attention_bias\": false,\n  \"mlp_bias\": false,\n"},
        [SHAPE_QWEN2] = {"Qwen2ForCausalLM", "qwen2", "  \"use_sliding_window\": false,\n"},
        [SHAPE_MIXTRAL] = {"MixtralForCausalLM", "mixtral", "  \"sliding_window\": null,\n"},
        [SHAPE_QWEN3_MOE] = {"Qwen3MoeForCausalLM", "qwen3_moe",
                             "  \"decoder_sparse_step\": 1,\n  \"mlp_only_layers\": [],\n"
                             "  \"norm_topk_prob\": true,\n  \"use_sliding_window\": false,\n"},
        [SHAPE_BERT] = {"BertModel", "bert",
                        "  \"attention_probs_dropout_prob\": 0.1,\n  \"hidden_dropout_prob\": 0.1,\n"
                        "  \"position_embedding_type\": \"absolute\",\n  \"type_vocab_size\": 2,\n"},
        [SHAPE_MANY] = {"LlamaForCausalLM", "llama", ""},
    };
    text_addf(json, "{\n  \"architectures\": [\n    \"%s\"\n  ],\n  \"model_type\": \"%s\",\n%s",
              kinds[s->arch].class_name, kinds[s->arch].model_type, kinds[s->arch].extra);
    if (s->arch == SHAPE_BERT)
        text_addf(json, "  \"hidden_act\": \"gelu\",\n  \"layer_norm_eps\": %g,\n  \"pad_token_id\": 0,\n",
                  s->norm_eps);
    else
        text_addf(json,
                  "  \"attention_dropout\": 0.0,\n  \"bos_token_id\": 1,\n  \"eos_token_id\": 2,\n"
                  "  \"head_dim\": %llu,\n  \"hidden_act\": \"silu\",\n  \"num_key_value_heads\": %llu,\n"
                  "  \"rms_norm_eps\": %g,\n  \"rope_theta\": %.1f,\n",
                  (unsigned long long)head_dim_of(s), (unsigned long long)s->kv_heads, s->norm_eps, s->rope_theta);
    if (s->experts)
        text_addf(json, "  \"num_experts_per_tok\": %llu,\n  \"%s\": %llu,\n  \"output_router_logits\": false,\n",
                  (unsigned long long)s->experts_per_token,
                  s->arch == SHAPE_MIXTRAL ? "num_local_experts" : "num_experts", (unsigned long long)s->experts);
    /* Qwen3-MoE names the expert's size apart; its dense size is not used by any layer here. */
    if (s->arch == SHAPE_QWEN3_MOE)
        text_addf(json, "  \"moe_intermediate_size\": %llu,\n", (unsigned long long)s->intermediate);
    text_addf(
        json,
        "  \"hidden_size\": %llu,\n  \"initializer_range\": 0.02,\n  \"intermediate_size\": %llu,\n"
        "  \"max_position_embeddings\": %llu,\n  \"num_attention_heads\": %llu,\n"
        "  \"num_hidden_layers\": %llu,\n  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\",\n"
        "  \"use_cache\": true,\n  \"vocab_size\": %llu\n}\n",
        (unsigned long long)s->hidden,
        (unsigned long long)(s->arch == SHAPE_QWEN3_MOE ? s->intermediate * s->experts_per_token : s->intermediate),
        (unsigned long long)s->positions, (unsigned long long)s->heads, (unsigned long long)s->layers,
        bool_text(s->tied || s->arch == SHAPE_BERT), dtype_torch_name(s->dtype), (unsigned long long)s->vocab);
}

void shape_generation_json(const struct shape *s, struct text *json)
{
    (void)s;
    text_add(json, "{\n  \"_from_model_config\": true,\n  \"bos_token_id\": 1,\n  \"eos_token_id\": 2\n}\n");
}

static const char *const special_tokens[] = {"<pad>", "<s>", "</s>", "<unk>"};
#define N_SPECIAL (sizeof special_tokens / sizeof *special_tokens)

/* One token per printable ASCII character: small, and loadable by the tokenizers library. */
void shape_tokenizer_json(const struct shape *s, struct text *json)
{
    size_t n_tokens = s->vocab < N_SPECIAL + 95 ? (size_t)s->vocab : N_SPECIAL + 95;
    size_t n_special = n_tokens < N_SPECIAL ? n_tokens : N_SPECIAL;
    text_add(json, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    for (size_t i = 0; i < n_special; i++)
        text_addf(json,
                  "%s\n    {\"id\": %zu, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, "
                  "\"rstrip\": false, \"normalized\": false, \"special\": true}",
                  i ? "," : "", i, special_tokens[i]);
    text_add(json, "\n  ],\n  \"normalizer\": null,\n"
                   "  \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \".\"}, "
                   "\"behavior\": \"Isolated\", \"invert\": false},\n"
                   "  \"post_processor\": null,\n  \"decoder\": {\"type\": \"Fuse\"},\n"
                   "  \"model\": {\n    \"type\": \"WordLevel\",\n    \"unk_token\": \"<unk>\",\n    \"vocab\": {");
    for (size_t i = 0; i < n_tokens; i++) {
        char letter[2] = {i < N_SPECIAL ? '\0' : (char)(' ' + (int)(i - N_SPECIAL)), '\0'};
        text_add(json, i ? ",\n      " : "\n      ");
        text_add_json(json, i < N_SPECIAL ? special_tokens[i] : letter);
        text_addf(json, ": %zu", i);
    }
    text_add(json, "\n    }\n  }\n}\n");
}

void shape_tokenizer_config_json(const struct shape *s, struct text *json)
{
    text_addf(json,
              "{\n  \"bos_token\": \"<s>\",\n  \"eos_token\": \"</s>\",\n  \"model_max_length\": %llu,\n"
              "  \"pad_token\": \"<pad>\",\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
              "  \"unk_token\": \"<unk>\"\n}\n",
              (unsigned long long)s->positions);
}
