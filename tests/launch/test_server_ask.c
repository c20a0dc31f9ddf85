#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "launch/server/ask.h"

static const struct phx_sampling defaults = {
    .temperature = 0.6f, .top_p = 0.9f, .min_p = 0.1f, .top_k = 20, .repeat_penalty = 1.05f};

static struct phx_ask *parse(enum phx_ask_kind kind, const char *body, struct phx_problem *problem)
{
    struct phx_ask *ask;
    memset(problem, 0, sizeof *problem);
    bool ok = phx_ask_parse(kind, &defaults, body, strlen(body), &ask, problem);
    assert_true(ok == (ask != NULL));
    assert_true(ok == (problem->http == 0));
    return ask;
}

static struct phx_ask *completion(const char *body)
{
    struct phx_problem problem;
    struct phx_ask *ask = parse(PHX_ASK_COMPLETION, body, &problem);
    if (ask == NULL) fail_msg("%s: %s", body, problem.message);
    return ask;
}

static void test_defaults(void **state)
{
    (void)state;
    struct phx_ask *a = completion("{\"prompt\": \"To be\"}");
    assert_int_equal(a->n_prompts, 1);
    assert_int_equal(a->prompts[0].bytes, 5);
    assert_memory_equal(a->prompts[0].text, "To be", 5);
    assert_null(a->prompts[0].ids);
    assert_null(a->model);
    assert_true(a->sampling.temperature == 0.6f && a->sampling.top_p == 0.9f);
    assert_true(a->sampling.min_p == 0.1f && a->sampling.repeat_penalty == 1.05f);
    assert_int_equal(a->sampling.top_k, 20);
    assert_int_equal(a->n_choices, 1);
    assert_int_equal(a->max_new, -1);
    assert_int_equal(a->n_logprobs, -1);
    assert_false(a->seeded || a->stream || a->echo || a->ignore_eos || a->include_usage);
    assert_true(a->add_special_tokens);
    phx_ask_destroy(a);
}

static void test_every_field(void **state)
{
    (void)state;
    struct phx_ask *a = completion(
        "{\"model\":\"m\",\"prompt\":[[1,2.0],[3]],\"max_tokens\":7,\"max_completion_tokens\":9,"
        "\"min_tokens\":2,\"n\":3,\"best_of\":3,\"temperature\":0,\"top_p\":1,\"top_k\":-1,"
        "\"min_p\":0,\"presence_penalty\":-2,\"frequency_penalty\":2,\"repetition_penalty\":1.5,"
        "\"seed\":-5,\"stop\":[\"a\",\"b\"],\"stop_token_ids\":[7,8],\"ignore_eos\":true,"
        "\"logit_bias\":{\"29\":-100,\"0\":1.5},\"logprobs\":20,\"echo\":true,\"stream\":true,"
        "\"stream_options\":{\"include_usage\":true},\"add_special_tokens\":false,"
        "\"user\":\"u\",\"something\":{\"else\":[]},\"suffix\":null,\"tools\":[]}");
    assert_string_equal(a->model, "m");
    assert_int_equal(a->n_prompts, 2);
    assert_int_equal(a->prompts[0].n_ids, 2);
    assert_int_equal(a->prompts[0].ids[1], 2);
    assert_int_equal(a->prompts[1].ids[0], 3);
    assert_int_equal(a->max_new, 9);
    assert_int_equal(a->min_new, 2);
    assert_int_equal(a->n_choices, 3);
    assert_true(a->sampling.temperature == 0 && a->sampling.top_p == 1 && a->sampling.min_p == 0);
    assert_int_equal(a->sampling.top_k, 0);
    assert_true(a->sampling.presence_penalty == -2 && a->sampling.frequency_penalty == 2);
    assert_true(a->sampling.repeat_penalty == 1.5f);
    assert_true(a->seeded && a->sampling.seed == (uint64_t)-5);
    assert_int_equal(a->n_stops, 2);
    assert_string_equal(a->stops[1], "b");
    assert_int_equal(a->n_stop_ids, 2);
    assert_int_equal(a->stop_ids[1], 8);
    assert_int_equal(a->n_bias, 2);
    assert_int_equal(a->n_logprobs, 20);
    assert_true(a->ignore_eos && a->echo && a->stream && a->include_usage);
    assert_false(a->add_special_tokens);
    phx_ask_destroy(a);
}

static void test_chat(void **state)
{
    (void)state;
    struct phx_problem problem;
    struct phx_ask *a = parse(
        PHX_ASK_CHAT,
        "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":"
        "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],"
        "\"logprobs\":true,\"top_logprobs\":2,\"stop\":\"x\",\"chat_template_kwargs\":{\"k\":1}}",
        &problem);
    assert_non_null(a);
    assert_int_equal(json_array_size(a->messages), 2);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(a->messages, 1), "content")), "ab");
    assert_int_equal(a->n_logprobs, 2);
    assert_int_equal(a->n_stops, 1);
    assert_non_null(a->template_arguments);
    assert_true(a->add_generation_prompt);
    assert_false(a->add_special_tokens);
    phx_ask_destroy(a);
}

/* What is refused, and the field that is named. */
static const struct {
    enum phx_ask_kind kind;
    const char *body, *param, *says;
} refused[] = {
    {PHX_ASK_COMPLETION, "", "", "the body is empty: it must be a JSON object"},
    {PHX_ASK_COMPLETION, "[1]", "", "the body is an array"},
    {PHX_ASK_COMPLETION, "{\"prompt\":\"a\",\"prompt\":\"b\"}", "", "not valid JSON"},
    {PHX_ASK_COMPLETION, "{\"prompt\":\"\xff\"}", "", "not valid JSON"},
    {PHX_ASK_COMPLETION, "{}", "prompt", "missing"},
    {PHX_ASK_COMPLETION, "{\"prompt\":\"\"}", "prompt", "empty"},
    {PHX_ASK_COMPLETION, "{\"prompt\":[]}", "prompt", "empty"},
    {PHX_ASK_COMPLETION, "{\"prompt\":5}", "prompt", "a number"},
    {PHX_ASK_COMPLETION, "{\"prompt\":[\"a\",1]}", "prompt", "a number"},
    {PHX_ASK_COMPLETION, "{\"prompt\":[1,\"a\"]}", "prompt", "entry 1"},
    {PHX_ASK_COMPLETION, "{\"prompt\":[1,-2]}", "prompt", "entry 1"},
    {PHX_ASK_COMPLETION, "{\"prompt\":[1.5]}", "prompt", "entry 0"},
    {PHX_ASK_CHAT, "{\"prompt\":\"a\"}", "messages", "missing"},
    {PHX_ASK_CHAT, "{\"messages\":[]}", "messages", "at least one"},
    {PHX_ASK_CHAT, "{\"messages\":[1]}", "messages", "messages[0] is a number"},
    {PHX_ASK_CHAT, "{\"messages\":[{\"content\":\"a\"}]}", "messages", "messages[0].role"},
    {PHX_ASK_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages", "messages[0].content"},
    {PHX_ASK_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
     "messages", "content[0] is no text"},
    {PHX_ASK_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"echo\":true}", "echo",
     "not supported"},
    {PHX_ASK_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":3}",
     "logprobs", "true or false"},
    {PHX_ASK_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"top_logprobs\":3}",
     "top_logprobs", "needs"},
};

/* The same for one more field of a completion. */
static const struct {
    const char *field, *value, *says;
} refused_fields[] = {
    {"temperature", "2.1", "at most 2"},
    {"temperature", "-0.1", "at least 0"},
    {"temperature", "\"hot\"", "a string"},
    {"temperature", "1e-9", "0.000001"},
    {"top_p", "0", "above 0"},
    {"top_p", "1.01", "at most 1"},
    {"top_k", "-2", "at least -1"},
    {"top_k", "1.5", "whole number"},
    {"min_p", "2", "at most 1"},
    {"presence_penalty", "3", "at most 2"},
    {"frequency_penalty", "-3", "at least -2"},
    {"repetition_penalty", "0", "above 0"},
    {"seed", "\"x\"", "a string"},
    {"seed", "1.5", "whole number"},
    {"n", "0", "at least 1"},
    {"n", "129", "at most 128"},
    {"best_of", "2", "not supported"},
    {"max_tokens", "-1", "at least 0"},
    {"max_completion_tokens", "true", "a boolean"},
    {"min_tokens", "-1", "at least 0"},
    {"stop", "7", "a number"},
    {"stop", "\"\"", "empty"},
    {"stop", "[\"a\",7]", "a number"},
    {"stop", "\"a\\u0000b\"", "zero character"},
    {"stop_token_ids", "7", "an array"},
    {"stop_token_ids", "[-7]", "entry 0"},
    {"ignore_eos", "1", "a number"},
    {"logit_bias", "[]", "an array"},
    {"logit_bias", "{\"x\":1}", "no token id"},
    {"logit_bias", "{\"07\":1}", "no token id"},
    {"logit_bias", "{\"7\":101}", "-100 to 100"},
    {"logit_bias", "{\"7\":\"a\"}", "-100 to 100"},
    {"logprobs", "21", "at most 20"},
    {"logprobs", "true", "a boolean"},
    {"echo", "\"yes\"", "a string"},
    {"stream", "\"yes\"", "a string"},
    {"stream_options", "{}", "needs"},
    {"model", "5", "a number"},
    {"model", "\"a\\u0000\"", "zero character"},
    {"suffix", "\"x\"", "not supported"},
    {"tools", "[{}]", "not supported"},
    {"tool_choice", "\"required\"", "not supported"},
    {"functions", "[{}]", "not supported"},
    {"guided_json", "{\"a\":1}", "not supported"},
    {"modalities", "[\"audio\"]", "not supported"},
    {"response_format", "{\"type\":\"json_object\"}", "\"text\""},
    {"response_format", "\"text\"", "an object"},
};

static void check_refused(enum phx_ask_kind kind, const char *body, const char *param,
                          const char *says)
{
    struct phx_problem problem;
    struct phx_ask *ask = parse(kind, body, &problem);
    if (ask != NULL) fail_msg("%s: taken", body);
    if (strcmp(problem.param, param) != 0 || strstr(problem.message, says) == NULL)
        fail_msg("%s: %s: %s", body, problem.param, problem.message);
    assert_int_equal(problem.http, 400);
}

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        check_refused(refused[i].kind, refused[i].body, refused[i].param, refused[i].says);
    for (size_t i = 0; i < sizeof refused_fields / sizeof refused_fields[0]; i++) {
        char body[256];
        snprintf(body, sizeof body, "{\"prompt\":\"a\",\"%s\":%s}", refused_fields[i].field,
                 refused_fields[i].value);
        check_refused(PHX_ASK_COMPLETION, body, refused_fields[i].field, refused_fields[i].says);
        /* null is as good as nothing */
        snprintf(body, sizeof body, "{\"prompt\":\"a\",\"%s\":null}", refused_fields[i].field);
        phx_ask_destroy(completion(body));
    }
    check_refused(PHX_ASK_COMPLETION, "{\"prompt\":\"a\",\"max_tokens\":3,\"min_tokens\":4}",
                  "min_tokens", "more than max_tokens");
}

/* jansson's limit of depth, not the stack's. */
static void test_depth(void **state)
{
    (void)state;
    static char body[200000];
    struct phx_problem problem;
    int n = snprintf(body, sizeof body, "{\"prompt\":");
    memset(body + n, '[', sizeof body - (size_t)n - 1);
    assert_null(parse(PHX_ASK_COMPLETION, body, &problem));
    assert_int_equal(problem.http, 400);
}

static void test_problem_json(void **state)
{
    (void)state;
    struct phx_problem problem;
    phx_problem_set(&problem, 400, "c", "p", "%s", "caf\xc3\xa9 cut short \xc3");
    json_t *json = phx_problem_json(&problem);
    assert_non_null(json);
    const json_t *error = json_object_get(json, "error");
    assert_string_equal(json_string_value(json_object_get(error, "message")),
                        "caf\xc3\xa9 cut short ");
    assert_string_equal(json_string_value(json_object_get(error, "type")), "invalid_request_error");
    assert_string_equal(json_string_value(json_object_get(error, "param")), "p");
    assert_string_equal(json_string_value(json_object_get(error, "code")), "c");
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_chat),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_depth),    cmocka_unit_test(test_problem_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
