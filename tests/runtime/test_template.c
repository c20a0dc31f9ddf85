/* Chat templates against what jinja2 makes of them (tests/data/templates), and the sentence for
 * every template that is wrong, not supported or hostile. */
#include "tests/support/check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/template/template.h"

static json_t *load(const char *file)
{
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, "%s/templates/%s", PHX_TEST_DATA, file);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    return root;
}

static json_t *load_source(const char *name)
{
    char path[512], text[1 << 14];
    snprintf(path, sizeof path, "%s/templates/%s.jinja", PHX_TEST_DATA, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text, file);
    fclose(file);
    assert_true(n < sizeof text);
    return json_stringn(text, n);
}

/* Each vector: name, template or the file that it is in, variables, now; and text, or failed: true
 * where jinja2 fails. */
static void check(json_t *vector)
{
    const char *file = json_string_value(json_object_get(vector, "file"));
    if (file) json_object_set_new(vector, "template", load_source(file));
    const json_t *source = json_object_get(vector, "template");
    const json_t *expected = json_object_get(vector, "text");
    const char *name = json_string_value(json_object_get(vector, "name"));
    struct phx_template *tmpl = NULL;
    char *text = NULL;
    size_t n = 0;
    enum phx_status status = phx_template_parse("template", json_string_value(source),
                                                json_string_length(source), &tmpl);
    if (status == PHX_OK) {
        status = phx_template_render(tmpl, json_object_get(vector, "variables"),
                                     json_integer_value(json_object_get(vector, "now")), &text, &n);
    }
    if (!expected && status == PHX_OK) fail_msg("%s: gives \"%s\", should fail", name, text);
    if (expected && status != PHX_OK) fail_msg("%s: %s", name, phx_fail_sentence());
    if (expected &&
        (n != json_string_length(expected) || memcmp(text, json_string_value(expected), n) != 0)) {
        fail_msg("%s: gives\n%s\nexpected\n%s", name, text, json_string_value(expected));
    }
    phx_fail_clear();
    free(text);
    phx_template_destroy(tmpl);
}

static void check_file(const char *file)
{
    json_t *vectors = load(file), *vector;
    size_t index;
    json_array_foreach(vectors, index, vector) check(vector);
    assert_true(json_array_size(vectors) > 20);
    json_decref(vectors);
}

static void test_chats(void **state)
{
    (void)state;
    check_file("chats.json");
}

static void test_expressions(void **state)
{
    (void)state;
    check_file("expressions.json");
}

static enum phx_status render(const char *source)
{
    struct phx_template *tmpl;
    char *text = NULL;
    size_t n = 0;
    enum phx_status status = phx_template_parse("x", source, strlen(source), &tmpl);
    if (status != PHX_OK) return status;
    json_t *variables = json_object();
    status = phx_template_render(tmpl, variables, 0, &text, &n);
    json_decref(variables);
    free(text);
    phx_template_destroy(tmpl);
    return status;
}

static const struct {
    const char *source;
    enum phx_status status;
    const char *text;
} refusals[] = {
    {"a\n{{ 1 + }}", PHX_BAD_DATA, "x line 2: an expression is expected"},
    {"{% if a %}", PHX_BAD_DATA, "'endif' is expected"},
    {"\n\n{% endif %}", PHX_BAD_DATA, "x line 3: there is no block"},
    {"{{ 'a }}", PHX_BAD_DATA, "a string is not closed"},
    {"{# a", PHX_BAD_DATA, "a comment {# is not closed"},
    {"{{ a", PHX_BAD_DATA, "a tag is not closed"},
    {"{{ (1 }}", PHX_BAD_DATA, "unexpected '}'"},
    {"{% break %}", PHX_BAD_DATA, "there is no loop around this"},
    {"\xff", PHX_BAD_DATA, "not valid UTF-8 at byte 0"},
    {"{% include 'a' %}", PHX_UNSUPPORTED, "the statement is not supported here, at 'include'"},
    {"{{ a | pprint }}", PHX_UNSUPPORTED, "there is no filter 'pprint'"},
    {"{{ a is odder }}", PHX_UNSUPPORTED, "there is no test 'odder'"},
    {"{% for a in b recursive %}", PHX_UNSUPPORTED, "recursive loops are not supported"},
    {"{{ f(*a) }}", PHX_UNSUPPORTED, "arguments with * are not supported"},
    {"\n{{ raise_exception('No ' ~ 'roles') }}", PHX_USAGE, "x line 2: No roles"},
    {"{{ a.b }}", PHX_USAGE, "'a' is undefined"},
    {"{{ [].append(1) }}", PHX_USAGE, "not safe"},
    {"{{ 1 // 0 }}", PHX_USAGE, "division by zero"},
    {"{{ 9223372036854775807 }}", PHX_UNSUPPORTED, "the number 9223372036854775807"},
    {"{{ 2 ** 64 }}", PHX_UNSUPPORTED, "beyond 64 bits"},
    {"{{ range(100001) }}", PHX_USAGE, "Range too big"},
    {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
     PHX_UNSUPPORTED, "more than the 268435456 bytes"},
    {"{% set r = range(3000) %}{% for a in r %}{% for b in r %}{{ b + b * b - b }}{% endfor %}"
     "{% endfor %}",
     PHX_UNSUPPORTED, "more than 4194304 steps"},
    {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", PHX_UNSUPPORTED, "nested more than"},
    {"{% set n = namespace(s='aaaaaaaaaaaaaaaa') %}{% for a in range(99) %}"
     "{% set n.s = n.s ~ n.s %}{% endfor %}",
     PHX_UNSUPPORTED, "more than"},
    {"{{ 'a' * 999999999999 }}", PHX_UNSUPPORTED, "more than"},
    {"{{ [1, 2, 3] * 999999999999 }}", PHX_UNSUPPORTED, "more than"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        assert_fails(render(refusals[i].source), refusals[i].status, refusals[i].text);
    }
    char *deep = malloc(60001);
    memset(deep, '(', 60000);
    deep[0] = deep[1] = '{';
    deep[60000] = '\0';
    assert_fails(render(deep), PHX_UNSUPPORTED, "nested more than");
    free(deep);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chats),
        cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
