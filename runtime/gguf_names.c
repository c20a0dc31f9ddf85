/* The names of tensors in a GGUF and in a Hugging Face checkpoint. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf_model.h"

enum row_kind {
    PLAIN,
    HEADS,  /* rows of heads of q or k */
    STACKED /* experts, one below the other: the second %d is the expert */
};

/* The first %d is the layer. Names mean the same in all architectures. */
static const struct name_row {
    const char *gguf, *huggingface;
    enum row_kind kind;
} rows[] = {
    {"token_embd.weight", "model.embed_tokens.weight", PLAIN},
    {"output_norm.weight", "model.norm.weight", PLAIN},
    {"output.weight", "lm_head.weight", PLAIN},
    {"blk.%d.attn_norm.weight", "model.layers.%d.input_layernorm.weight", PLAIN},
    {"blk.%d.attn_q.weight", "model.layers.%d.self_attn.q_proj.weight", HEADS},
    {"blk.%d.attn_k.weight", "model.layers.%d.self_attn.k_proj.weight", HEADS},
    {"blk.%d.attn_v.weight", "model.layers.%d.self_attn.v_proj.weight", PLAIN},
    {"blk.%d.attn_q.bias", "model.layers.%d.self_attn.q_proj.bias", HEADS},
    {"blk.%d.attn_k.bias", "model.layers.%d.self_attn.k_proj.bias", HEADS},
    {"blk.%d.attn_v.bias", "model.layers.%d.self_attn.v_proj.bias", PLAIN},
    {"blk.%d.attn_q_norm.weight", "model.layers.%d.self_attn.q_norm.weight", PLAIN},
    {"blk.%d.attn_k_norm.weight", "model.layers.%d.self_attn.k_norm.weight", PLAIN},
    {"blk.%d.attn_output.weight", "model.layers.%d.self_attn.o_proj.weight", PLAIN},
    {"blk.%d.attn_output.bias", "model.layers.%d.self_attn.o_proj.bias", PLAIN},
    {"blk.%d.ffn_norm.weight", "model.layers.%d.post_attention_layernorm.weight", PLAIN},
    {"blk.%d.ffn_gate.weight", "model.layers.%d.mlp.gate_proj.weight", PLAIN},
    {"blk.%d.ffn_up.weight", "model.layers.%d.mlp.up_proj.weight", PLAIN},
    {"blk.%d.ffn_down.weight", "model.layers.%d.mlp.down_proj.weight", PLAIN},
    {"blk.%d.ffn_gate.bias", "model.layers.%d.mlp.gate_proj.bias", PLAIN},
    {"blk.%d.ffn_up.bias", "model.layers.%d.mlp.up_proj.bias", PLAIN},
    {"blk.%d.ffn_down.bias", "model.layers.%d.mlp.down_proj.bias", PLAIN},
    {"blk.%d.ffn_gate_inp.weight", "model.layers.%d.mlp.gate.weight", PLAIN},
    {"blk.%d.ffn_gate_exps.weight", "model.layers.%d.mlp.experts.%d.gate_proj.weight", STACKED},
    {"blk.%d.ffn_up_exps.weight", "model.layers.%d.mlp.experts.%d.up_proj.weight", STACKED},
    {"blk.%d.ffn_down_exps.weight", "model.layers.%d.mlp.experts.%d.down_proj.weight", STACKED},
};

static const char rope_freqs[] = "rope_freqs.weight";

/* `pattern` with each %d in turn replaced. Longer names are cut, and then found by nobody. */
static void fill(const char *pattern, const int64_t *numbers, char *out, size_t bytes)
{
    size_t used = 0;
    *out = '\0';
    while (used < bytes) {
        const char *mark = strstr(pattern, "%d");
        if (!mark) {
            snprintf(out + used, bytes - used, "%s", pattern);
            return;
        }
        used += (size_t)snprintf(out + used, bytes - used, "%.*s%" PRId64, (int)(mark - pattern),
                                 pattern, *numbers++);
        pattern = mark + 2;
    }
}

/* True if `name` is the pattern, which has at most one %d, with a number as one would write it. */
static bool matches(const char *pattern, const char *name, int64_t *out)
{
    const char *mark = strstr(pattern, "%d");
    if (!mark) return strcmp(pattern, name) == 0;
    size_t prefix = (size_t)(mark - pattern);
    if (strncmp(pattern, name, prefix) != 0) return false;
    char expected[PHX_GGUF_NAME_BYTES];
    *out = strtol(name + prefix, NULL, 10);
    fill(pattern, out, expected, sizeof expected);
    return *out >= 0 && strcmp(expected, name) == 0;
}

bool phx_gguf_name(const char *name, char out[PHX_GGUF_NAME_BYTES], bool *out_interleaved)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t layer = 0;
        if (rows[i].kind == STACKED || !matches(rows[i].huggingface, name, &layer)) continue;
        fill(rows[i].gguf, &layer, out, PHX_GGUF_NAME_BYTES);
        *out_interleaved = rows[i].kind == HEADS;
        return true;
    }
    return false;
}

/* ---- a file's tensors ---- */

struct list {
    const struct phx_gguf *gguf;
    const struct phx_gguf_family *family;
    int64_t head_dim;
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
        char name[PHX_GGUF_NAME_BYTES];
        fill(pattern, (int64_t[]){layer, expert}, name, sizeof name);
        PHX_TRY(add(list, tensor, name));
        tensor.data = (const char *)tensor.data + tensor.bytes;
    }
    return PHX_OK;
}

static enum phx_status add_as_called(struct list *list, struct phx_file_tensor tensor)
{
    if (strcmp(tensor.name, rope_freqs) == 0) return PHX_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t layer = 0;
        char name[PHX_GGUF_NAME_BYTES];
        if (!matches(rows[i].gguf, tensor.name, &layer)) continue;
        if (rows[i].kind == STACKED) return add_stacked(list, tensor, rows[i].huggingface, layer);
        if (rows[i].kind == HEADS && list->family->interleaves) tensor.head_rows = list->head_dim;
        fill(rows[i].huggingface, &layer, name, sizeof name);
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
    struct list list = {.gguf = gguf};
    struct phx_config *config = NULL;
    enum phx_status status;
    PHX_TRY(phx_gguf_family(gguf, &list.family));
    PHX_TRY(phx_gguf_config(gguf, &config));
    list.head_dim = config->layers[0].shape.head_dim;
    phx_config_destroy(config);
    for (size_t i = 0; i < phx_gguf_tensor_count(gguf); i++)
        PHX_TRY_GOTO(add_as_called(&list, *phx_gguf_tensor_at(gguf, i)), failed);
    if (list.n > 0) qsort(list.tensors, list.n, sizeof *list.tensors, by_name);
    *out = list.tensors;
    *out_n = list.n;
    return PHX_OK;
failed:
    phx_safetensors_free_header(list.tensors, list.n);
    return status;
}
