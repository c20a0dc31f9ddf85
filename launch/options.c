#include "launch/options.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/nearest.h"
#include "launch/options_set.h"

static enum phx_status give(const struct phx_option_target *to, const char *text)
{
    PHX_TRY(phx_option_set(to, text));
    size_t bit = (size_t)(to->row - phx_option_rows);
    to->options->given[bit / 64] |= UINT64_C(1) << bit % 64;
    return PHX_OK;
}

static enum phx_status set_defaults(struct phx_options *options)
{
    PHX_ASSERT(phx_n_option_rows <= 8 * sizeof options->given); /* its bits */
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        const struct phx_option_row *row = &phx_option_rows[i];
        struct phx_option_target to = {.options = options, .row = row, .flag = row->names[0]};
        if (row->fallback) PHX_TRY(phx_option_set(&to, row->fallback));
    }
    return PHX_OK;
}

static enum phx_status read_environment(struct phx_options *options,
                                        char *(*look_up)(const char *name))
{
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        const struct phx_option_row *row = &phx_option_rows[i];
        if (!row->env || !phx_option_taken(row, options->verb)) continue;
        const char *text = look_up(row->env);
        struct phx_option_target to = {.options = options, .row = row, .flag = row->env};
        if (text) PHX_TRY(give(&to, text));
    }
    return PHX_OK;
}

/// The row of this name that the verb takes: verbs may give one name different meanings.
static const struct phx_option_row *find_taken(enum phx_verb verb, const char *name, size_t bytes)
{
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        const struct phx_option_row *row = &phx_option_rows[i];
        for (int j = 0; j < PHX_OPTION_NAMES && row->names[j]; j++)
            if (phx_option_taken(row, verb) && strlen(row->names[j]) == bytes &&
                !memcmp(row->names[j], name, bytes))
                return row;
    }
    return NULL;
}

/* What a word without a dash may have been meant to be. */
static const char *meant(enum phx_verb verb)
{
    static const struct {
        const char *name, *hint;
    } hints[] = {{"--prompt", "; a text is given with -p TEXT"},
                 {"--file", "; a text is given with -f FILE"},
                 {"--model", "; a model is given with -m MODEL"}};
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        if (find_taken(verb, hints[i].name, strlen(hints[i].name)) != NULL) return hints[i].hint;
    return "";
}

static enum phx_status unknown_flag(const struct phx_options *options, const char *flag,
                                    size_t bytes)
{
    const char *verb = phx_verb_name(options->verb);
    const struct phx_option_row *row = phx_option_find(flag, bytes);
    if (row) {
        enum phx_verb taker = 0;
        while (!phx_option_taken(row, taker)) taker++;
        return phx_fail(PHX_USAGE, "%.*s: not an option of %s but of %s", (int)bytes, flag, verb,
                        phx_verb_name(taker));
    }
    if (*flag != '-')
        return phx_fail(PHX_USAGE, "%.100s: not an option of %s%s", flag, verb,
                        meant(options->verb));
    struct phx_nearest nearest = {0};
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        if (!phx_option_taken(&phx_option_rows[i], options->verb)) continue;
        for (int j = 0; j < PHX_OPTION_NAMES && phx_option_rows[i].names[j]; j++) {
            phx_nearest_consider(&nearest, flag, bytes, phx_option_rows[i].names[j]);
        }
    }
    const char *name = nearest.name;
    return phx_fail(PHX_USAGE, "%.*s: no such option%s%s; phalanx help %s lists them",
                    bytes < 100 ? (int)bytes : 100, flag, name ? ", did you mean " : "",
                    name ? name : "", verb);
}

/// Take the option at argv[at], and its value; *out_next is where to go on.
static enum phx_status read_option(struct phx_options *options, int argc, char *const *argv, int at,
                                   int *out_next)
{
    const char *flag = argv[at];
    size_t bytes = strcspn(flag, "=");
    const char *text = flag[bytes] == '=' ? flag + bytes + 1 : NULL;
    const struct phx_option_row *row = find_taken(options->verb, flag, bytes);
    if (!row) return unknown_flag(options, flag, bytes);

    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)bytes, flag);
    struct phx_option_target to = {.options = options, .row = row, .flag = name, .most = argc};
    *out_next = at + 1;
    if (row->kind == PHX_VALUE_FLAG) return give(&to, text ? text : "yes");
    if (text) return give(&to, text);
    if (at + 1 == argc) return phx_fail(PHX_USAGE, "%s: needs a value, %s", name, row->value);
    text = argv[at + 1];
    if (phx_option_find(text, strlen(text))) {
        return phx_fail(PHX_USAGE, "%s: needs a value before %s (if that is the value: %s=%s)",
                        name, text, name, text);
    }
    *out_next = at + 2;
    return give(&to, text);
}

/// What no single option can tell.
static enum phx_status check_together(const struct phx_options *o)
{
    static const char *const sources[] = {"--prompt", "--file", "--prompts", "--prompt-ids",
                                          "--ids"};
    const char *source = NULL;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        if (!phx_options_given(o, sources[i])) continue;
        if (source) {
            return phx_fail(PHX_USAGE, "%s and %s: give the text in one way only", source,
                            sources[i]);
        }
        source = sources[i];
    }
    if (o->verb == PHX_VERB_GENERATE && o->logprobs >= 0 && !o->json)
        return phx_fail(PHX_USAGE, "--logprobs goes into the JSON: give --json too");
    /* What a request must hold too (runtime/request.h), but there nobody knows the flag. */
    if (o->temperature != 0 && (float)o->temperature < 1e-6f)
        return phx_fail(PHX_USAGE, "--temp %g: must be 0, or 0.000001 or more", o->temperature);
    if (o->api_key && o->api_key_file)
        return phx_fail(PHX_USAGE, "--api-key and --api-key-file: give one of them");
    if (!o->ssl_certfile != !o->ssl_keyfile)
        return phx_fail(PHX_USAGE, "--ssl-certfile and --ssl-keyfile: give both, or none");
    if (o->brief && o->heads)
        return phx_fail(PHX_USAGE, "--brief shows no single heads: leave out --heads or --brief");
    const char *single = o->logits_out ? "--logits-out" : o->force_ids.n ? "--force-ids" : NULL;
    if (single && (o->prompts.n > 1 || o->prompts_file)) {
        return phx_fail(PHX_USAGE, "%s: needs a single prompt (-p, -f or --prompt-ids)", single);
    }
    if (o->window > 0 && o->stride > o->window) {
        return phx_fail(PHX_USAGE, "--stride %d: must be at most the window, %d", o->stride,
                        o->window);
    }
    bool plans = o->verb == PHX_VERB_PLAN;
    int32_t n_seqs = plans ? o->batch : o->max_seqs;
    bool takes_seqs = plans || o->verb == PHX_VERB_GENERATE || o->verb == PHX_VERB_PERPLEXITY;
    if (takes_seqs && o->max_batched_tokens != 0 && o->max_batched_tokens < n_seqs) {
        return phx_fail(PHX_USAGE,
                        "%s %d takes as many tokens a step, and --max-num-batched-tokens is %d: "
                        "raise that or lower this",
                        plans ? "--batch" : "--max-num-seqs", n_seqs, o->max_batched_tokens);
    }
    return PHX_OK;
}

static bool is_one_of(const char *text, const char *a, const char *b)
{
    return !strcmp(text, a) || !strcmp(text, b);
}

static enum phx_status read_verb(const char *text, enum phx_verb *out)
{
    if (is_one_of(text, "--help", "-h")) text = phx_verb_name(PHX_VERB_HELP);
    if (!strcmp(text, "--version")) text = phx_verb_name(PHX_VERB_VERSION);
    struct phx_nearest nearest = {0};
    for (enum phx_verb verb = 0; verb < PHX_VERB_COUNT; verb++) {
        const char *name = phx_verb_name(verb);
        if (!strcmp(text, name)) {
            *out = verb;
            return PHX_OK;
        }
        phx_nearest_consider(&nearest, text, strlen(text), name);
    }
    if (phx_option_find(text, strcspn(text, "="))) {
        return phx_fail(PHX_USAGE, "%.100s: first say what to do, as in: phalanx generate %.100s",
                        text, text);
    }
    return phx_fail(PHX_USAGE, "%.100s: no such verb%s%s; phalanx help lists them", text,
                    nearest.name ? ", did you mean " : "", nearest.name ? nearest.name : "");
}

static enum phx_status parse(struct phx_options *options, int argc, char *const *argv,
                             char *(*look_up)(const char *name))
{
    PHX_TRY(set_defaults(options));
    if (argc < 2) return phx_fail(PHX_USAGE, "say what to do; phalanx help lists what there is");
    PHX_TRY(read_verb(argv[1], &options->verb));
    options->help_about = PHX_VERB_HELP;
    if (!phx_verb_rows[options->verb].usage) {
        bool about = options->verb == PHX_VERB_HELP && argc > 2;
        return about ? read_verb(argv[2], &options->help_about) : PHX_OK;
    }
    PHX_TRY(read_environment(options, look_up));
    for (int i = 2; i < argc;) {
        if (is_one_of(argv[i], "--help", "-h")) {
            options->help_about = options->verb;
            options->verb = PHX_VERB_HELP;
            return PHX_OK;
        }
        PHX_TRY(read_option(options, argc, argv, i, &i));
    }
    return check_together(options);
}

enum phx_status phx_options_create(int argc, char *const *argv, char *(*look_up)(const char *name),
                                   struct phx_options **out)
{
    struct phx_options *options = calloc(1, sizeof *options);
    if (!options) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the command line");
    enum phx_status status = parse(options, argc, argv, look_up);
    if (status != PHX_OK) {
        phx_options_destroy(options);
        return status;
    }
    *out = options;
    return PHX_OK;
}

void phx_options_destroy(struct phx_options *options)
{
    if (!options) return;
    free(options->prompts.items);
    free(options->prompt_ids.items);
    free(options->ids.items);
    free(options->stop.items);
    free(options->force_ids.items);
    free(options->logit_bias.items);
    struct phx_int_list *lists[] = {
        &options->bench_prompt, &options->bench_generate, &options->depth,        &options->batches,
        &options->step_tokens,  &options->part_tokens,    &options->thread_counts};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) free(lists[i]->items);
    free(options->bench_both.items);
    free(options->tests.items);
    free(options);
}

bool phx_options_given(const struct phx_options *options, const char *name)
{
    const struct phx_option_row *row = phx_option_find(name, strlen(name));
    PHX_ASSERT(row);
    return phx_option_row_given(options, row);
}
