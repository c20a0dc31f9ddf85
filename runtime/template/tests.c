/* Tests: what may stand behind `is`. */
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/ast.h"
#include "runtime/template/filters.h"
#include "runtime/template/text.h"
#include "runtime/tokenizer/unicode.h"

#define TEST(name)                                                                                 \
    static enum phx_status name(struct phx_run *run, const struct phx_tv *value,                   \
                                const struct phx_tv *arg, bool *out)

#define SIMPLE_TEST(name, condition)                                                               \
    TEST(name)                                                                                     \
    {                                                                                              \
        (void)run;                                                                                 \
        (void)arg;                                                                                 \
        *out = (condition);                                                                        \
        return PHX_OK;                                                                             \
    }

SIMPLE_TEST(is_defined, value->type != PHX_TV_UNDEFINED)
SIMPLE_TEST(is_undefined, value->type == PHX_TV_UNDEFINED)
SIMPLE_TEST(is_none, value->type == PHX_TV_NONE)
SIMPLE_TEST(is_boolean, value->type == PHX_TV_BOOL)
SIMPLE_TEST(is_true, value->type == PHX_TV_BOOL && value->truth)
SIMPLE_TEST(is_false, value->type == PHX_TV_BOOL && !value->truth)
SIMPLE_TEST(is_integer, value->type == PHX_TV_INT)
SIMPLE_TEST(is_float, value->type == PHX_TV_FLOAT)
SIMPLE_TEST(is_number, phx_tv_is_number(value))
SIMPLE_TEST(is_string, value->type == PHX_TV_STRING)
SIMPLE_TEST(is_mapping, value->type == PHX_TV_DICT)
SIMPLE_TEST(is_callable, value->type == PHX_TV_CALLABLE)
SIMPLE_TEST(is_iterable, value->type == PHX_TV_STRING || value->type == PHX_TV_LIST ||
                             value->type == PHX_TV_DICT || value->type == PHX_TV_UNDEFINED)
SIMPLE_TEST(is_sequence, value->type == PHX_TV_STRING || value->type == PHX_TV_DICT ||
                             value->type == PHX_TV_UNDEFINED ||
                             (value->type == PHX_TV_LIST && value->list->kind < PHX_TV_VIEW))

static enum phx_status remainder_of(struct phx_run *run, const struct phx_tv *value,
                                    const struct phx_tv *divisor, bool *is_zero)
{
    struct phx_tv rest;
    if (value->type == PHX_TV_STRING) {
        return phx_run_fail(run, "not all arguments converted during string formatting");
    }
    PHX_TRY(phx_tv_binary(run, PHX_TOP_MOD, value, divisor, &rest));
    *is_zero = phx_tv_real(&rest) == 0;
    return PHX_OK;
}

TEST(is_even)
{
    struct phx_tv two = PHX_TV_OF_INT(2);
    (void)arg;
    return remainder_of(run, value, &two, out);
}

TEST(is_odd)
{
    struct phx_tv two = PHX_TV_OF_INT(2), rest;
    bool even;
    (void)arg;
    PHX_TRY(remainder_of(run, value, &two, &even));
    PHX_TRY(phx_tv_binary(run, PHX_TOP_MOD, value, &two, &rest));
    *out = phx_tv_real(&rest) == 1;
    return PHX_OK;
}

TEST(is_divisible)
{
    return remainder_of(run, value, arg, out);
}

#define COMPARISON(name, op)                                                                       \
    TEST(name)                                                                                     \
    {                                                                                              \
        return phx_tv_compare(run, op, value, arg, out);                                           \
    }
COMPARISON(is_eq, PHX_TOP_EQ)
COMPARISON(is_ne, PHX_TOP_NE)
COMPARISON(is_lt, PHX_TOP_LT)
COMPARISON(is_le, PHX_TOP_LE)
COMPARISON(is_gt, PHX_TOP_GT)
COMPARISON(is_ge, PHX_TOP_GE)
COMPARISON(is_in, PHX_TOP_IN)

TEST(is_same)
{
    bool whole = value->type == PHX_TV_NONE || value->type == PHX_TV_BOOL;
    *out = false;
    if (value->type != arg->type) return PHX_OK;
    if (!whole) return phx_run_refuse(run, "sameas is supported for none, true and false only");
    return phx_tv_equal(run, value, arg, out);
}

/* islower(), isupper(): a cased character, and none of the other case. */
static enum phx_status has_case(struct phx_run *run, const struct phx_tv *value, bool upper,
                                bool *out)
{
    struct phx_slice text;
    bool cased = false, other = false;
    PHX_TRY(phx_tv_text(run, value, &text));
    PHX_TRY(phx_run_charge(run, 0, text.n));
    for (size_t at = 0; at < text.n; at += phx_utf8_bytes(text.data + at)) {
        uint32_t code = phx_utf8_get(text.data + at);
        bool is_upper = phx_tcase_is_upper(code), is_lower = phx_tcase_is_lower(code);
        cased |= upper ? is_upper : is_lower;
        other |= upper ? is_lower : is_upper;
    }
    *out = cased && !other;
    return PHX_OK;
}

TEST(is_lower)
{
    (void)arg;
    return has_case(run, value, false, out);
}

TEST(is_upper)
{
    (void)arg;
    return has_case(run, value, true, out);
}

TEST(is_filter)
{
    (void)run;
    (void)arg;
    *out = value->type == PHX_TV_STRING && phx_tfilter_find(value->text);
    return PHX_OK;
}

TEST(is_test)
{
    (void)run;
    (void)arg;
    *out = value->type == PHX_TV_STRING && phx_ttest_find(value->text);
    return PHX_OK;
}

static const struct phx_ttest tests[] = {
    {"defined", 0, is_defined},
    {"undefined", 0, is_undefined},
    {"none", 0, is_none},
    {"boolean", 0, is_boolean},
    {"true", 0, is_true},
    {"false", 0, is_false},
    {"integer", 0, is_integer},
    {"float", 0, is_float},
    {"number", 0, is_number},
    {"string", 0, is_string},
    {"mapping", 0, is_mapping},
    {"callable", 0, is_callable},
    {"iterable", 0, is_iterable},
    {"sequence", 0, is_sequence},
    {"even", 0, is_even},
    {"odd", 0, is_odd},
    {"lower", 0, is_lower},
    {"upper", 0, is_upper},
    {"filter", 0, is_filter},
    {"test", 0, is_test},
    {"divisibleby", 1, is_divisible},
    {"eq", 1, is_eq},
    {"==", 1, is_eq},
    {"equalto", 1, is_eq},
    {"ne", 1, is_ne},
    {"!=", 1, is_ne},
    {"lt", 1, is_lt},
    {"<", 1, is_lt},
    {"lessthan", 1, is_lt},
    {"le", 1, is_le},
    {"<=", 1, is_le},
    {"gt", 1, is_gt},
    {">", 1, is_gt},
    {"greaterthan", 1, is_gt},
    {"ge", 1, is_ge},
    {">=", 1, is_ge},
    {"in", 1, is_in},
    {"sameas", 1, is_same},
};

const struct phx_ttest *phx_ttest_find(struct phx_slice name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (phx_slice_is(name, tests[i].name)) return &tests[i];
    }
    return NULL;
}

enum phx_status phx_ttest_run(struct phx_run *run, const struct phx_ttest *test,
                              const struct phx_tv *value, const struct phx_targs *args, bool *out)
{
    struct phx_tv arg = {.type = PHX_TV_MISSING};
    PHX_TRY(phx_targs_bind(run, test->name, args, test->n_args ? "other" : "", (size_t)test->n_args,
                           &arg));
    return test->function(run, value, &arg, out);
}
