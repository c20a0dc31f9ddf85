/// The command line: what good ones become, and help. Bad ones: test_options_refusals.c.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/options.h"
#include "launch/options_table.h"
#include "tests/launch/command_line.h"
#include "tests/support/check.h"

/// Never destroyed while its options are in use: they point into it.
static struct command_line last_line;

static struct phx_options *parse(const char *line)
{
    struct phx_options *options = NULL;
    command_line_split(line, &last_line);
    if (phx_options_create(last_line.argc, last_line.argv, no_environment, &options) != PHX_OK) {
        fail_msg("%s: %s", line, phx_fail_sentence());
    }
    return options;
}

static void test_defaults(void **state)
{
    (void)state;
    struct phx_options *o = parse("generate");
    assert_int_equal(o->verb, PHX_VERB_GENERATE);
    assert_null(o->model);
    assert_int_equal(o->load_format, PHX_LOAD_AUTO);
    assert_int_equal(o->compute, PHX_COMPUTE_AUTO);
    assert_int_equal(o->device, PHX_CHOOSE_AUTO);
    assert_int_equal(o->n_predict, 128);
    assert_int_equal(o->seed, -1);
    assert_true(o->temperature == 0.8 && o->top_p == 0.95 && o->min_p == 0.05);
    assert_true(o->repeat_penalty == 1 && o->presence_penalty == 0 && o->frequency_penalty == 0);
    assert_int_equal(o->top_k, 40);
    assert_int_equal(o->logprobs, -1);
    assert_int_equal(o->threads, 0);
    assert_int_equal(o->tensor_parallel_size, 0);
    assert_int_equal(o->max_seqs, 8);
    assert_int_equal(o->max_batched_tokens, 0);
    assert_int_equal(o->watchdog_timeout, 300);
    assert_int_equal(o->kv_cache, PHX_KV_AUTO);
    assert_true(o->gpu_memory_utilization == 0.9);
    assert_true(o->given[0] == 0 && o->given[1] == 0);
    assert_false(phx_options_given(o, "--temp"));
    phx_options_destroy(o);
    phx_options_destroy(NULL);
}

static void test_every_option_of_generate(void **state)
{
    (void)state;
    struct phx_options *o =
        parse("generate|-m|some/dir|--load-format=dummy|--dtype|bfloat16|--ctx-size|300|-p|one|"
              "--prompt=two=2|-n|-1|--ignore-eos|--stop|a|--stop=b");
    assert_string_equal(o->model, "some/dir");
    assert_int_equal(o->load_format, PHX_LOAD_DUMMY);
    assert_int_equal(o->compute, PHX_COMPUTE_BFLOAT16);
    assert_int_equal(o->context, 300);
    assert_int_equal(o->prompts.n, 2);
    assert_string_equal(o->prompts.items[0], "one");
    assert_string_equal(o->prompts.items[1], "two=2");
    assert_int_equal(o->n_predict, -1);
    assert_true(o->ignore_eos);
    assert_int_equal(o->stop.n, 2);
    assert_string_equal(o->stop.items[1], "b");
    assert_true(phx_options_given(o, "--n-predict") && phx_options_given(o, "-n"));
    assert_true(phx_options_given(o, "--max-model-len"));
    assert_false(phx_options_given(o, "--temp"));
    phx_options_destroy(o);

    o = parse("generate|-s|9223372036854775807|--temp|0|--top-k|0|--top-p|1|--min-p|0|"
              "--repeat-penalty|1.1|--presence-penalty|-2|--frequency-penalty|2e-1|"
              "-l|29+1.5|--logit-bias|0-2|-l|7-inf");
    assert_true(o->seed == INT64_MAX);
    assert_true(o->temperature == 0 && o->top_p == 1 && o->min_p == 0);
    assert_true(o->repeat_penalty == 1.1 && o->presence_penalty == -2);
    assert_true(o->frequency_penalty == 0.2);
    assert_int_equal(o->top_k, 0);
    assert_int_equal(o->logit_bias.n, 3);
    assert_int_equal(o->logit_bias.items[0].id, 29);
    assert_true(o->logit_bias.items[0].value == 1.5f && o->logit_bias.items[1].value == -2.0f);
    assert_true(isinf(o->logit_bias.items[2].value) && o->logit_bias.items[2].value < 0);
    phx_options_destroy(o);

    o = parse("generate|--prompt-ids|1,2,2147483647|--force-ids=0|--no-bos|--json|--logprobs|20|"
              "--logits-out|x.safetensors|-v|--device|cpu|-t|3|-tp|2|--max-num-seqs|1|"
              "--max-num-batched-tokens|64|--kv-cache-dtype|bf16|--gpu-memory-utilization|.5|"
              "--watchdog-timeout|0");
    assert_int_equal(o->prompt_ids.n, 3);
    assert_int_equal(o->prompt_ids.items[2], INT32_MAX);
    assert_int_equal(o->force_ids.n, 1);
    assert_int_equal(o->force_ids.items[0], 0);
    assert_true(o->no_bos && o->json && o->verbose);
    assert_int_equal(o->logprobs, 20);
    assert_string_equal(o->logits_out, "x.safetensors");
    assert_int_equal(o->device, PHX_CHOOSE_CPU);
    assert_int_equal(o->threads, 3);
    assert_int_equal(o->tensor_parallel_size, 2);
    assert_int_equal(o->max_seqs, 1);
    assert_int_equal(o->max_batched_tokens, 64);
    assert_int_equal(o->watchdog_timeout, 0);
    assert_int_equal(o->kv_cache, PHX_KV_BF16);
    assert_true(o->gpu_memory_utilization == 0.5);
    phx_options_destroy(o);
}

static void test_values_that_look_like_something_else(void **state)
{
    (void)state;
    struct phx_options *o = parse("generate|-p|-dash|-p=--temp|-p| |-n|1|-n|2|--json|--json=no");
    assert_int_equal(o->prompts.n, 3);
    assert_string_equal(o->prompts.items[0], "-dash");
    assert_string_equal(o->prompts.items[1], "--temp");
    assert_string_equal(o->prompts.items[2], " ");
    assert_int_equal(o->n_predict, 2); /* the last one counts */
    assert_false(o->json);
    assert_true(phx_options_given(o, "--json"));
    phx_options_destroy(o);

    o = parse("generate|--prompt-ids|9,9|--prompt-ids|1");
    assert_int_equal(o->prompt_ids.n, 1);
    assert_int_equal(o->prompt_ids.items[0], 1);
    phx_options_destroy(o);
}

static void test_other_verbs(void **state)
{
    (void)state;
    struct phx_options *o = parse("perplexity|-f|-|--window|256|--stride|256");
    assert_int_equal(o->verb, PHX_VERB_PERPLEXITY);
    assert_string_equal(o->prompt_file, "-");
    assert_int_equal(o->window, 256);
    assert_int_equal(o->stride, 256);
    phx_options_destroy(o);

    o = parse("tokenize|--ids|5,6");
    assert_int_equal(o->verb, PHX_VERB_TOKENIZE);
    assert_int_equal(o->ids.n, 2);
    phx_options_destroy(o);

    o = parse("topology|--share-gpu|--device=cuda|--json|-t|2");
    assert_int_equal(o->verb, PHX_VERB_TOPOLOGY);
    assert_true(o->share_gpu && o->json && o->threads == 2 && o->device == PHX_CHOOSE_CUDA);
    phx_options_destroy(o);

    o = parse("plan|--gpu|h100|-c|4096|--batch=16|-t|2");
    assert_int_equal(o->verb, PHX_VERB_PLAN);
    assert_string_equal(o->gpu, "h100");
    assert_string_equal(o->ranks, "all");
    assert_true(o->context == 4096 && o->batch == 16 && o->threads == 2);
    phx_options_destroy(o);
}

/* --json is a file for these, a flag for the others. */
static void test_audit_and_compare(void **state)
{
    (void)state;
    struct phx_options *o = parse("audit|-p|x|--layers|0,5|--heads=all|--json|a.json");
    assert_int_equal(o->verb, PHX_VERB_AUDIT);
    assert_string_equal(o->layers, "0,5");
    assert_string_equal(o->heads, "all");
    assert_string_equal(o->json_out, "a.json");
    assert_false(o->json);
    phx_options_destroy(o);

    o = parse("audit|--brief");
    assert_true(o->brief && o->heads == NULL);
    phx_options_destroy(o);

    o = parse("compare|--prompt-ids|1,2|--dump|out|--quick");
    assert_int_equal(o->verb, PHX_VERB_COMPARE);
    assert_string_equal(o->against, "solo");
    assert_string_equal(o->dump, "out");
    assert_true(o->quick && o->json_out == NULL);
    phx_options_destroy(o);
}

static void check_ints(const struct phx_int_list *list, const char *expected)
{
    char text[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < list->n; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", i > 0 ? "," : "",
                                 list->items[i]);
    assert_string_equal(text, expected);
}

static void test_bench(void **state)
{
    (void)state;
    struct phx_options *o = parse("bench");
    check_ints(&o->bench_prompt, "512");
    check_ints(&o->bench_generate, "128");
    check_ints(&o->depth, "0");
    check_ints(&o->batches, "1");
    check_ints(&o->step_tokens, "2048");
    check_ints(&o->part_tokens, "0");
    check_ints(&o->thread_counts, "");
    assert_true(o->bench_both.n == 0 && o->repetitions == 5 && !o->breakdown);
    assert_true(o->output == PHX_OUTPUT_MD && o->fill == PHX_FILL_COMPUTED);
    phx_options_destroy(o);

    o = parse(
        "bench|-p|0|-n|1,2|-n|8-11|--batch|1-64*4|-d|0,5-10+2|-t|1-3|-b|7|-ub=9-9|-pg|512,128|"
        "-pg|1,1|-r|3|-o|jsonl|--fill|noise|--breakdown|--load-format|dummy|-tp|2");
    check_ints(&o->bench_prompt, "0");
    check_ints(&o->bench_generate, "1,2,8,9,10,11");
    check_ints(&o->batches, "1,4,16,64");
    check_ints(&o->depth, "0,5,7,9");
    check_ints(&o->thread_counts, "1,2,3");
    check_ints(&o->step_tokens, "7");
    check_ints(&o->part_tokens, "9");
    assert_int_equal(o->bench_both.n, 2);
    assert_true(o->bench_both.items[0].first == 512 && o->bench_both.items[0].second == 128);
    assert_true(o->bench_both.items[1].first == 1 && o->bench_both.items[1].second == 1);
    assert_true(o->repetitions == 3 && o->output == PHX_OUTPUT_JSONL && o->breakdown);
    assert_true(o->fill == PHX_FILL_NOISE && o->tensor_parallel_size == 2);
    phx_options_destroy(o);

    o = parse("bench|--test|0,1,2,3|--test=4,5,6,7|-d|9");
    assert_int_equal(o->tests.n, 2);
    assert_string_equal(o->tests.items[1], "4,5,6,7");
    phx_options_destroy(o);
}

static void test_help_and_version(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        enum phx_verb verb, about;
    } cases[] = {
        {"--help", PHX_VERB_HELP, PHX_VERB_HELP},
        {"-h", PHX_VERB_HELP, PHX_VERB_HELP},
        {"help", PHX_VERB_HELP, PHX_VERB_HELP},
        {"help|generate", PHX_VERB_HELP, PHX_VERB_GENERATE},
        {"help|help", PHX_VERB_HELP, PHX_VERB_HELP},
        {"tokenize|--help", PHX_VERB_HELP, PHX_VERB_TOKENIZE},
        {"generate|-n|5|-h|--nonsense", PHX_VERB_HELP, PHX_VERB_GENERATE},
        {"--version", PHX_VERB_VERSION, PHX_VERB_HELP},
        {"version", PHX_VERB_VERSION, PHX_VERB_HELP},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct phx_options *o = parse(cases[i].line);
        assert_int_equal(o->verb, cases[i].verb);
        assert_int_equal(o->help_about, cases[i].about);
        phx_options_destroy(o);
    }
}

static char *verbose_variable, *isa_variable;

static char *some_environment(const char *name)
{
    if (!strcmp(name, "PHX_VERBOSE")) return verbose_variable;
    return !strcmp(name, "PHX_CPU_ISA") ? isa_variable : NULL;
}

static enum phx_status parse_with_environment(const char *line, struct phx_options **out)
{
    command_line_split(line, &last_line);
    return phx_options_create(last_line.argc, last_line.argv, some_environment, out);
}

static void test_environment(void **state)
{
    (void)state;
    static const struct {
        char *value;
        bool verbose;
    } cases[] = {{NULL, false},  {"", false},    {"0", false},     {"no", false},
                 {"off", false}, {"OFF", false}, {"False", false}, {"1", true},
                 {"yes", true},  {"on", true},   {"True", true}};
    struct phx_options *o = NULL;
    isa_variable = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        verbose_variable = cases[i].value;
        assert_int_equal(parse_with_environment("generate", &o), PHX_OK);
        assert_int_equal(o->verbose, cases[i].verbose);
        phx_options_destroy(o);
    }
    verbose_variable = "1"; /* the command line has the last word */
    assert_int_equal(parse_with_environment("generate|--verbose=no", &o), PHX_OK);
    assert_false(o->verbose);
    phx_options_destroy(o);

    verbose_variable = "perhaps";
    assert_int_equal(parse_with_environment("generate", &o), PHX_USAGE);
    assert_string_equal(phx_fail_sentence(), "PHX_VERBOSE perhaps: must be yes, on, true or 1, "
                                             "or no, off, false or 0");
    verbose_variable = NULL;
    isa_variable = "avx2";
    assert_int_equal(parse_with_environment("perplexity", &o), PHX_OK);
    assert_string_equal(o->cpu_isa, "avx2");
    phx_options_destroy(o);
    assert_int_equal(parse_with_environment("tokenize", &o), PHX_OK);
    assert_null(o->cpu_isa);
    phx_options_destroy(o);
    isa_variable = "sse2";
    assert_int_equal(parse_with_environment("generate", &o), PHX_USAGE);
    assert_string_equal(phx_fail_sentence(),
                        "PHX_CPU_ISA sse2: must be portable, avx2, avx512 or avx512_bf16");
}

/// Each name leads to its own row in each verb, and every row can be parsed and shown.
static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        const struct phx_option_row *row = &phx_option_rows[i];
        assert_true(row->names[0] || row->env);
        assert_true(row->verbs != 0 && row->help != NULL);
        assert_true(row->kind == PHX_VALUE_FLAG || row->value || !row->names[0]);
        for (int j = 0; j < PHX_OPTION_NAMES && row->names[j]; j++) {
            const char *name = row->names[j];
            assert_true(name[0] == '-' && !strchr(name, '=') && strlen(name) < 40);
            const struct phx_option_row *first = phx_option_find(name, strlen(name));
            assert_true(first == row || (first->verbs & row->verbs) == 0);
        }
    }
}

static void test_help_pages(void **state)
{
    (void)state;
    for (enum phx_verb verb = 0; verb < PHX_VERB_COUNT; verb++) {
        char *page = NULL;
        size_t bytes = 0;
        FILE *stream = open_memstream(&page, &bytes);
        assert_non_null(stream);
        phx_options_help(stream, verb);
        fclose(stream);
        for (char *rest = page, *line; (line = strsep(&rest, "\n")) != NULL;) {
            if (strlen(line) > 90) fail_msg("help of %s is wide: %s", phx_verb_name(verb), line);
            size_t n = strlen(line);
            if (n && line[n - 1] == ' ')
                fail_msg("help of %s: blank at the end: %s", phx_verb_name(verb), line);
        }
        free(page);

        stream = open_memstream(&page, &bytes);
        phx_options_help(stream, verb);
        fclose(stream);
        for (size_t i = 0; i < phx_n_option_rows && phx_verb_rows[verb].usage; i++) {
            const char *name = phx_option_rows[i].names[0];
            bool shown = name && phx_option_taken(&phx_option_rows[i], verb);
            char needle[64];
            snprintf(needle, sizeof needle, "\n  %s", name ? name : "none");
            if (shown && !strstr(page, needle)) fail_msg("help lacks %s", name);
        }
        free(page);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_option_of_generate),
        cmocka_unit_test(test_values_that_look_like_something_else),
        cmocka_unit_test(test_other_verbs),
        cmocka_unit_test(test_audit_and_compare),
        cmocka_unit_test(test_bench),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_help_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
