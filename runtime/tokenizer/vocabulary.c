#include "runtime/tokenizer/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

enum phx_status phx_vocabulary_create(int32_t n_ids, size_t n_tokens, struct phx_vocabulary *out)
{
    *out = (struct phx_vocabulary){.n_ids = n_ids, .text_slots = phx_slots_for(n_tokens)};
    out->tokens = calloc((size_t)n_ids + 1, sizeof *out->tokens);
    out->by_text = malloc(out->text_slots * sizeof *out->by_text);
    if (!out->tokens || !out->by_text) {
        phx_vocabulary_destroy(out);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a vocabulary of %zu tokens", n_tokens);
    }
    for (size_t i = 0; i < out->text_slots; i++) out->by_text[i] = -1;
    return PHX_OK;
}

void phx_vocabulary_destroy(struct phx_vocabulary *vocabulary)
{
    free(vocabulary->tokens);
    free(vocabulary->by_text);
    *vocabulary = (struct phx_vocabulary){0};
}

/* The slot that holds the text, or the empty one where it would go. */
static int32_t *text_slot(const struct phx_vocabulary *vocabulary, const char *data, size_t n)
{
    size_t slot = phx_text_hash(data, n) & (vocabulary->text_slots - 1);
    for (;; slot = (slot + 1) & (vocabulary->text_slots - 1)) {
        int32_t id = vocabulary->by_text[slot];
        if (id < 0) return &vocabulary->by_text[slot];
        const struct phx_slice *token = &vocabulary->tokens[id];
        if (token->n == n && memcmp(token->data, data, n) == 0) return &vocabulary->by_text[slot];
    }
}

void phx_vocabulary_add(struct phx_vocabulary *vocabulary, struct phx_slice text, int32_t id)
{
    PHX_ASSERT(id >= 0 && id < vocabulary->n_ids && !vocabulary->tokens[id].data);
    int32_t *slot = text_slot(vocabulary, text.data, text.n);
    PHX_ASSERT(*slot < 0);
    vocabulary->tokens[id] = text;
    *slot = id;
    if (text.n > vocabulary->longest) vocabulary->longest = text.n;
}

int32_t phx_vocabulary_find(const struct phx_vocabulary *vocabulary, const char *data, size_t n)
{
    return n > vocabulary->longest ? -1 : *text_slot(vocabulary, data, n);
}

void phx_vocabulary_find_bytes(const struct phx_vocabulary *vocabulary, int32_t byte_ids[256])
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        int n = snprintf(text, sizeof text, "<0x%02X>", byte);
        byte_ids[byte] = phx_vocabulary_find(vocabulary, text, (size_t)n);
    }
}
