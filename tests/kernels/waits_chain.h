/* What the ops of decoder steps read and write, for tests of how they follow each other. */
#ifndef PHX_TESTS_KERNELS_WAITS_CHAIN_H
#define PHX_TESTS_KERNELS_WAITS_CHAIN_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

enum {
    MAX_PLACES = 64,
    BUFFER_BYTES = 48 << 20,
    LAYERS = 2,
    BLOCKS = 16, /* of a sequence */
    VOCAB = 1500,
    CANDIDATES = 40,
    EXPERTS = 9, /* of which this rank has all but the first and the last */
    CHOSEN = 3,
    SPARE_BYTES = 1000 /* copied and zeroed */
};

/* What decides which kernels run. The last sequence is padding. */
struct shape {
    const char *name;
    enum phx_dtype act, weight;
    int32_t hidden, ffn, heads, kv_heads, dim;
    int32_t n_single; /* sequences of one row */
    int32_t n_prompt; /* rows of one more */
};

/* Everything that ops read and write lies in one buffer, as `image` before the first step. */
struct chain {
    const struct shape *shape;
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_buffer *buffer;
    unsigned char *image;
    int32_t *pinned; /* ids as they were downloaded */
    size_t used;
    int n_places;
    struct {
        const char *name;
        size_t begin;
    } places[MAX_PLACES];

    int32_t n_rows, n_seqs, n_slots, n_pages;
    struct phx_weight *table, *qkv_w, *o_w, *gate_up_w, *down_w, *head_w;
    struct phx_weight *router_w, *experts_gate_up_w, *experts_down_w;
    struct phx_tensor qkv_bias, gate_up_bias, norm, head_norm, inv_freq;
    struct phx_step_layout layout;
    struct phx_kv_pages kv[LAYERS];
    struct phx_tensor ids, slots, out_rows, out_slots, out_positions;
    struct phx_sampling_table sampling;

    struct phx_tensor rope, partial, residual, x, qkv, attended, lse, ffn;
    struct phx_tensor router, mixed, experts, parts;
    struct phx_routing routing;
    struct phx_tensor out_residual, out_partial, out_x, logits, adjusted, records;
    struct phx_tensor new_ids, logprobs, last_ids;
    struct phx_tensor full_ids, full_logprobs, full_last_ids;
    struct phx_tensor spare;
};

/* All of it, at its first step. */
struct chain *chain_open(struct phx_device *device, const struct shape *shape);
void chain_close(struct chain *chain);

/* Texts grow from step to step; all else stays. Changes the image. */
void chain_set_step(struct chain *chain, int32_t step);
/* A tensor as the image has it. */
void chain_upload(struct chain *chain, struct phx_tensor tensor);

#endif
