#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/tokenizer_impl.h"

static enum phx_status no_memory(const char *file)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for the tokenizer", file);
}

/* The content as the normalizer would leave it in a text. */
static enum phx_status normalize_content(const char *file, const struct phx_steps *normalizer,
                                         struct phx_added *token)
{
    struct phx_text text;
    enum phx_status status;
    PHX_TRY(phx_text_create(token->content, strlen(token->content), &text));
    PHX_TRY_GOTO(phx_steps_run(normalizer, &text), done);
    if (text.pieces.n == 0) {
        status =
            phx_fail(PHX_BAD_DATA, "%s: the normalizer leaves nothing of the added token \"%s\"",
                     file, token->content);
        goto done;
    }
    token->match = strndup(text.bytes.data, text.bytes.n);
    if (!token->match) status = no_memory(file);
done:
    phx_text_destroy(&text);
    return status;
}

/* What is searched for, and that the vocabulary agrees. `taken`: an added token has the id. */
static enum phx_status finish_added(const char *file, const struct phx_tokenizer *t, bool taken,
                                    struct phx_added *token)
{
    int32_t known = phx_vocabulary_find(&t->vocabulary, token->content, strlen(token->content));
    if (known >= 0 && known != token->id) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: the added token \"%s\" has the id %d, but %d in the vocabulary", file,
                        token->content, token->id, known);
    }
    const char *other = t->tokens[token->id].text.data;
    if (taken || (other && known < 0)) {
        return phx_fail(PHX_BAD_DATA, PHX_SAME_ID, file, other, token->content, token->id);
    }
    if (token->match) return PHX_OK; /* it is known already */
    if (token->normalized) return normalize_content(file, &t->normalizer, token);
    token->match = strdup(token->content);
    return token->match ? PHX_OK : no_memory(file);
}

/* The table by id: the model's tokens, and over them the added ones. */
static enum phx_status fill_tokens(const char *file, struct phx_tokenizer *t)
{
    t->tokens = calloc((size_t)t->n_tokens + 1, sizeof *t->tokens);
    bool *taken = calloc((size_t)t->n_tokens + 1, sizeof *taken);
    enum phx_status status = PHX_OK;
    if (!t->tokens || !taken) {
        status = no_memory(file);
        goto done;
    }
    for (int32_t id = 0; id < t->n_tokens; id++) t->tokens[id].text = t->vocabulary.tokens[id];
    for (size_t i = 0; i < t->n_added; i++) {
        struct phx_added *token = &t->added[i];
        PHX_TRY_GOTO(finish_added(file, t, taken[token->id], token), done);
        taken[token->id] = true;
        t->tokens[token->id].text = (struct phx_slice){token->match, strlen(token->match)};
        t->tokens[token->id].special = token->special;
    }
done:
    free(taken);
    return status;
}

enum phx_status phx_tokenizer_assemble(const char *file, struct phx_tokenizer *tokenizer)
{
    struct phx_tokenizer *t = tokenizer;
    PHX_TRY(fill_tokens(file, t));
    PHX_TRY(phx_added_set_create(file, t->added, t->n_added, false, &t->originals));
    return phx_added_set_create(file, t->added, t->n_added, true, &t->normalized);
}

enum phx_status phx_template_fill(int32_t bos, int32_t eos, struct phx_tokenizer *tokenizer)
{
    tokenizer->has_template = true;
    if (bos >= 0) PHX_TRY(phx_ids_append(&tokenizer->template, bos));
    PHX_TRY(phx_ids_append(&tokenizer->template, -1));
    return eos >= 0 ? phx_ids_append(&tokenizer->template, eos) : PHX_OK;
}
