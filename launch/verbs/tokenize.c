#include <stdio.h>
#include <stdlib.h>

#include "kernels/base/check.h"
#include "launch/model_path.h"
#include "launch/verbs/json_line.h"
#include "launch/verbs/text_input.h"
#include "launch/verbs/verbs.h"
#include "runtime/tokenizer/tokenizer.h"

static enum phx_status print_ids(const int32_t *ids, size_t n, bool json)
{
    if (json)
        return phx_json_line(
            json_pack("{s:o, s:I}", "ids", phx_json_ids(ids, n), "count", (json_int_t)n), stdout);
    for (size_t i = 0; i < n; i++) printf(i + 1 < n ? "%d," : "%d", ids[i]);
    printf("\n");
    return PHX_OK;
}

static enum phx_status encode(const struct phx_tokenizer *tokenizer,
                              const struct phx_options *options)
{
    struct phx_texts texts;
    PHX_TRY(phx_texts_read(options, &texts));
    enum phx_status status = PHX_OK;
    for (size_t i = 0; i < texts.n && status == PHX_OK; i++) {
        int32_t *ids = NULL;
        size_t n = 0;
        status = phx_tokenizer_encode(tokenizer, texts.items[i].text, texts.items[i].bytes,
                                      !options->no_bos, &ids, &n);
        if (status == PHX_OK) status = print_ids(ids, n, options->json);
        free(ids);
    }
    phx_texts_free(&texts);
    return status;
}

static enum phx_status decode(const struct phx_tokenizer *tokenizer,
                              const struct phx_options *options)
{
    char *text = NULL;
    size_t bytes = 0;
    PHX_TRY(
        phx_tokenizer_decode(tokenizer, options->ids.items, options->ids.n, false, &text, &bytes));
    enum phx_status status = PHX_OK;
    if (options->json) {
        status = phx_json_line(json_pack("{s:s%}", "text", text, bytes), stdout);
    } else {
        fwrite(text, 1, bytes, stdout);
        printf("\n");
    }
    free(text);
    return status;
}

static enum phx_status work(const struct phx_options *options)
{
    char directory[PHX_PATH_BYTES];
    struct phx_tokenizer *tokenizer = NULL;
    PHX_TRY(phx_model_path(options->model, directory));
    PHX_TRY(phx_tokenizer_load(directory, &tokenizer));
    enum phx_status status =
        options->ids.n > 0 ? decode(tokenizer, options) : encode(tokenizer, options);
    phx_tokenizer_destroy(tokenizer);
    if (status == PHX_OK && fflush(stdout) != 0)
        status = phx_fail(PHX_IO, "cannot write to standard output");
    return status;
}

enum phx_status phx_verb_tokenize(struct phx_world *world, const struct phx_options *options)
{
    return phx_world_agree(world, world->rank == 0 ? work(options) : PHX_OK);
}
