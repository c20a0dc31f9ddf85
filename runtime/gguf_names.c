/* The names of tensors in a GGUF and in a Hugging Face checkpoint. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_model.h"

enum row_kind {
    PLAIN,
    HEADS,   /* rows of heads of q or k */
    STACKED, /* experts, one below the other: the second %d is the expert */
    ROUTER,
    FLAT /* a vector in the GGUF, a matrix of one row in the checkpoint */
};

static bool fused(const struct phx_config *config)
{
    return config->fused;
}

static bool apart(const struct phx_config *config)
{
    return !config->fused;
}

static bool post_norm(const struct phx_config *config)
{
    return config->post_norm;
}

static bool only_pre_norm(const struct phx_config *config)
{
    return !config->post_norm;
}

static bool mixtral(const struct phx_config *config)
{
    return config->family == PHX_MIXTRAL;
}

static bool not_mixtral(const struct phx_config *config)
{
    return config->family != PHX_MIXTRAL;
}

/* The first %d is the layer, a second one the expert. */
static const struct name_row {
    const char *gguf, *huggingface;
    enum row_kind kind;
    bool (*wanted)(const struct phx_config *config); /* NULL: always */
} rows[] = {
    {"token_embd.weight", "model.embed_tokens.weight", PLAIN, NULL},
    {"output_norm.weight", "model.norm.weight", PLAIN, NULL},
    {"output.weight", "lm_head.weight", PLAIN, NULL},
    {"blk.%d.attn_norm.weight", "model.layers.%d.input_layernorm.weight", PLAIN, NULL},
    {"blk.%d.attn_q.weight", "model.layers.%d.self_attn.q_proj.weight", HEADS, NULL},
    {"blk.%d.attn_k.weight", "model.layers.%d.self_attn.k_proj.weight", HEADS, NULL},
    {"blk.%d.attn_v.weight", "model.layers.%d.self_attn.v_proj.weight", PLAIN, NULL},
    {"blk.%d.attn_qkv.weight", "model.layers.%d.self_attn.qkv_proj.weight", PLAIN, fused},
    {"blk.%d.attn_q.bias", "model.layers.%d.self_attn.q_proj.bias", HEADS, NULL},
    {"blk.%d.attn_k.bias", "model.layers.%d.self_attn.k_proj.bias", HEADS, NULL},
    {"blk.%d.attn_v.bias", "model.layers.%d.self_attn.v_proj.bias", PLAIN, NULL},
    {"blk.%d.attn_q_norm.weight", "model.layers.%d.self_attn.q_norm.weight", PLAIN, NULL},
    {"blk.%d.attn_k_norm.weight", "model.layers.%d.self_attn.k_norm.weight", PLAIN, NULL},
    {"blk.%d.attn_output.weight", "model.layers.%d.self_attn.o_proj.weight", PLAIN, NULL},
    {"blk.%d.attn_output.bias", "model.layers.%d.self_attn.o_proj.bias", PLAIN, NULL},
    {"blk.%d.ffn_norm.weight", "model.layers.%d.post_attention_layernorm.weight", PLAIN,
     only_pre_norm},
    {"blk.%d.post_attention_norm.weight", "model.layers.%d.post_attention_layernorm.weight", PLAIN,
     post_norm},
    {"blk.%d.ffn_norm.weight", "model.layers.%d.pre_feedforward_layernorm.weight", PLAIN,
     post_norm},
    {"blk.%d.post_ffw_norm.weight", "model.layers.%d.post_feedforward_layernorm.weight", PLAIN,
     post_norm},
    {"blk.%d.ffn_gate.weight", "model.layers.%d.mlp.gate_proj.weight", PLAIN, NULL},
    {"blk.%d.ffn_up.weight", "model.layers.%d.mlp.up_proj.weight", PLAIN, apart},
    {"blk.%d.ffn_up.weight", "model.layers.%d.mlp.gate_up_proj.weight", PLAIN, fused},
    {"blk.%d.ffn_down.weight", "model.layers.%d.mlp.down_proj.weight", PLAIN, NULL},
    {"blk.%d.ffn_gate.bias", "model.layers.%d.mlp.gate_proj.bias", PLAIN, NULL},
    {"blk.%d.ffn_up.bias", "model.layers.%d.mlp.up_proj.bias", PLAIN, NULL},
    {"blk.%d.ffn_down.bias", "model.layers.%d.mlp.down_proj.bias", PLAIN, NULL},

    {"blk.%d.ffn_gate_inp.weight", "model.layers.%d.mlp.gate.weight", ROUTER, not_mixtral},
    {"blk.%d.ffn_gate_exps.weight", "model.layers.%d.mlp.experts.%d.gate_proj.weight", STACKED,
     not_mixtral},
    {"blk.%d.ffn_up_exps.weight", "model.layers.%d.mlp.experts.%d.up_proj.weight", STACKED,
     not_mixtral},
    {"blk.%d.ffn_down_exps.weight", "model.layers.%d.mlp.experts.%d.down_proj.weight", STACKED,
     not_mixtral},
    {"blk.%d.ffn_gate_inp_shexp.weight", "model.layers.%d.mlp.shared_expert_gate.weight", FLAT,
     NULL},
    {"blk.%d.ffn_gate_shexp.weight", "model.layers.%d.mlp.shared_expert.gate_proj.weight", PLAIN,
     NULL},
    {"blk.%d.ffn_up_shexp.weight", "model.layers.%d.mlp.shared_expert.up_proj.weight", PLAIN, NULL},
    {"blk.%d.ffn_down_shexp.weight", "model.layers.%d.mlp.shared_expert.down_proj.weight", PLAIN,
     NULL},

    {"blk.%d.ffn_gate_inp.weight", "model.layers.%d.block_sparse_moe.gate.weight", ROUTER, mixtral},
    {"blk.%d.ffn_gate_exps.weight", "model.layers.%d.block_sparse_moe.experts.%d.w1.weight",
     STACKED, mixtral},
    {"blk.%d.ffn_up_exps.weight", "model.layers.%d.block_sparse_moe.experts.%d.w3.weight", STACKED,
     mixtral},
    {"blk.%d.ffn_down_exps.weight", "model.layers.%d.block_sparse_moe.experts.%d.w2.weight",
     STACKED, mixtral},
    /* as the first files had them */
    {"blk.%d.ffn_gate.%d.weight", "model.layers.%d.block_sparse_moe.experts.%d.w1.weight", PLAIN,
     mixtral},
    {"blk.%d.ffn_up.%d.weight", "model.layers.%d.block_sparse_moe.experts.%d.w3.weight", PLAIN,
     mixtral},
    {"blk.%d.ffn_down.%d.weight", "model.layers.%d.block_sparse_moe.experts.%d.w2.weight", PLAIN,
     mixtral},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

/* The row whose name in a checkpoint is `name`; NULL: none. */
static const struct name_row *row_of(const struct phx_config *config, const char *name,
                                     int64_t numbers[2])
{
    for (int i = 0; i < N_ROWS; i++)
        if ((!rows[i].wanted || rows[i].wanted(config)) &&
            phx_weight_name_is(rows[i].huggingface, name, numbers))
            return &rows[i];
    return NULL;
}

bool phx_gguf_place(const struct phx_config *config, const char *name, struct phx_gguf_place *out)
{
    int64_t numbers[2] = {0, 0};
    const struct name_row *row = row_of(config, name, numbers);
    if (!row) return false;
    *out = (struct phx_gguf_place){
        .heads = row->kind == HEADS,
        .stacked = row->kind == STACKED,
        .is_vector = row->kind == FLAT,
        .is_router = row->kind == ROUTER || row->kind == FLAT,
        .layer = numbers[0],
        .expert = numbers[1],
    };
    phx_weight_name(row->gguf, numbers[0], numbers[1], out->name);
    return true;
}

void phx_gguf_expert_name(const struct phx_config *config, const char *name, int64_t expert,
                          char out[PHX_WEIGHT_NAME_BYTES])
{
    int64_t numbers[2] = {0, 0};
    const struct name_row *row = row_of(config, name, numbers);
    PHX_ASSERT(row != NULL && row->kind == STACKED);
    phx_weight_name(row->huggingface, numbers[0], expert, out);
}

/* ---- a file's tensors ---- */

struct list {
    const struct phx_gguf_family *family;
    struct phx_config *config;
    struct phx_file_tensor *tensors;
    size_t n, capacity;
};

static enum phx_status add(struct list *list, struct phx_file_tensor tensor, const char *name)
{
    if (list->n == list->capacity) {
        size_t capacity = 2 * list->capacity + 16;
        struct phx_file_tensor *grown = realloc(list->tensors, capacity * sizeof *grown);
        if (!grown) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", tensor.file);
        list->tensors = grown;
        list->capacity = capacity;
    }
    tensor.name = strdup(name);
    if (!tensor.name) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", tensor.file);
    list->tensors[list->n++] = tensor;
    return PHX_OK;
}

static enum phx_status add_stacked(struct list *list, struct phx_file_tensor tensor,
                                   const char *pattern, int64_t layer)
{
    int64_t n_experts = tensor.n_dims == 3 ? tensor.shape[0] : 0;
    if (n_experts == 0) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s of experts has %d dimensions instead of 3",
                        tensor.file, tensor.name, tensor.n_dims);
    }
    tensor.n_dims = 2;
    tensor.shape[0] = tensor.shape[1];
    tensor.shape[1] = tensor.shape[2];
    tensor.shape[2] = 0;
    tensor.bytes /= (size_t)n_experts;
    for (int64_t expert = 0; expert < n_experts; expert++) {
        char name[PHX_WEIGHT_NAME_BYTES];
        phx_weight_name(pattern, layer, expert, name);
        PHX_TRY(add(list, tensor, name));
        tensor.data = (const char *)tensor.data + tensor.bytes;
    }
    return PHX_OK;
}

/* What the config says. */
static bool is_left_out(const char *name)
{
    static const char *const names[] = {"rope_freqs.weight", "rope_factors_short.weight",
                                        "rope_factors_long.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static enum phx_status add_as_called(struct list *list, struct phx_file_tensor tensor)
{
    if (is_left_out(tensor.name)) return PHX_OK;
    for (int i = 0; i < N_ROWS; i++) {
        const struct name_row *row = &rows[i];
        int64_t numbers[2] = {0, 0};
        char name[PHX_WEIGHT_NAME_BYTES];
        if (row->wanted && !row->wanted(list->config)) continue;
        if (!phx_weight_name_is(row->gguf, tensor.name, numbers)) continue;
        if (row->kind == STACKED) return add_stacked(list, tensor, row->huggingface, numbers[0]);
        if (row->kind == HEADS && list->family->interleaves)
            tensor.head_rows = list->config->layers[0].shape.head_dim;
        if (row->kind == FLAT && tensor.n_dims == 1) {
            tensor.n_dims = 2;
            tensor.shape[1] = tensor.shape[0];
            tensor.shape[0] = 1;
        }
        phx_weight_name(row->huggingface, numbers[0], numbers[1], name);
        return add(list, tensor, name);
    }
    return add(list, tensor, tensor.name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct phx_file_tensor *)a)->name,
                  ((const struct phx_file_tensor *)b)->name);
}

enum phx_status phx_gguf_model_tensors(const struct phx_gguf *gguf, struct phx_file_tensor **out,
                                       size_t *out_n)
{
    struct list list = {.n = 0};
    enum phx_status status;
    PHX_TRY(phx_gguf_family(gguf, &list.family));
    PHX_TRY(phx_gguf_config(gguf, &list.config));
    for (size_t i = 0; i < phx_gguf_tensor_count(gguf); i++)
        PHX_TRY_GOTO(add_as_called(&list, *phx_gguf_tensor_at(gguf, i)), failed);
    if (list.n > 0) qsort(list.tensors, list.n, sizeof *list.tensors, by_name);
    phx_config_destroy(list.config);
    *out = list.tensors;
    *out_n = list.n;
    return PHX_OK;
failed:
    phx_config_destroy(list.config);
    phx_safetensors_free_header(list.tensors, list.n);
    return status;
}
