#include "launch/verbs/probe.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/verbs/text_input.h"
#include "runtime/tokenizer/tokenizer.h"

static const char default_text[] =
    "Now is the winter of our discontent made glorious summer by this sun of York.";

/* Every id of the vocabulary is as good as another. */
static enum phx_status made_up_ids(const struct phx_config *config, int32_t **out_ids,
                                   int32_t *out_n)
{
    enum { N = 29 };
    int32_t *ids = malloc(N * sizeof *ids);
    if (ids == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the prompt");
    for (int64_t i = 0; i < N; i++) ids[i] = (int32_t)((i * i * 7 + 3 * i + 1) % config->vocab);
    *out_ids = ids;
    *out_n = N;
    return PHX_OK;
}

static enum phx_status given_ids(const struct phx_options *options, int32_t **out_ids,
                                 int32_t *out_n)
{
    const struct phx_id_list *list = &options->prompt_ids;
    *out_ids = malloc(list->n * sizeof **out_ids);
    if (*out_ids == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the prompt");
    memcpy(*out_ids, list->items, list->n * sizeof **out_ids);
    *out_n = (int32_t)list->n;
    return PHX_OK;
}

static enum phx_status encode(const struct phx_options *options, const char *directory,
                              const char *text, size_t bytes, int32_t **out_ids, int32_t *out_n)
{
    struct phx_tokenizer *tokenizer = NULL;
    size_t n = 0;
    PHX_TRY(phx_tokenizer_load(directory, &tokenizer));
    enum phx_status status =
        phx_tokenizer_encode(tokenizer, text, bytes, !options->no_bos, out_ids, &n);
    phx_tokenizer_destroy(tokenizer);
    *out_n = (int32_t)n;
    return status;
}

enum phx_status phx_probe_prompt(const struct phx_options *options, const struct phx_run *run,
                                 int32_t **out_ids, int32_t *out_n)
{
    struct phx_texts texts;
    if (options->prompt_ids.n > 0) return given_ids(options, out_ids, out_n);
    if (options->prompts.n == 0 && options->prompt_file == NULL) {
        enum phx_status status =
            encode(options, run->directory, default_text, sizeof default_text - 1, out_ids, out_n);
        if (status != PHX_NOT_FOUND) return status;
        phx_fail_clear(); /* no tokenizer.json: weights can be audited without it */
        return made_up_ids(run->config, out_ids, out_n);
    }
    PHX_TRY(phx_texts_read(options, &texts));
    enum phx_status status = PHX_OK;
    if (texts.n > 1)
        status = phx_fail(PHX_USAGE, "%zu prompts: give one", texts.n);
    else
        status = encode(options, run->directory, texts.items[0].text, texts.items[0].bytes, out_ids,
                        out_n);
    phx_texts_free(&texts);
    return status;
}

enum phx_status phx_probe_choose(const char *flag, const char *text, const char *what, int32_t n,
                                 bool **out)
{
    bool all = text == NULL || strcmp(text, "all") == 0;
    bool *chosen = calloc((size_t)n, sizeof *chosen);
    if (chosen == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %s", flag);
    for (int32_t i = 0; i < n && all; i++) chosen[i] = true;
    for (const char *at = text; !all;) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != '\0') || value < 0 || value >= n) {
            free(chosen);
            return phx_fail(PHX_USAGE, "%s %s: must be all, or a list like 0,%d of the model's %s",
                            flag, text, n - 1, what);
        }
        chosen[value] = true;
        if (*end == '\0') break;
        at = end + 1;
    }
    *out = chosen;
    return PHX_OK;
}

double phx_probe_tolerance(const struct phx_run_settings *settings, const struct phx_config *config)
{
    bool gpu = settings->device == PHX_DEVICE_CUDA;
    enum phx_dtype compute = gpu && settings->weights_type ? config->dtype : settings->compute;
    if (compute != PHX_F32) return 3e-2;
    if (settings->choose_kv && settings->kv_dtype != PHX_F32) return 1e-2;
    return gpu ? 1e-3 : 1e-4;
}
