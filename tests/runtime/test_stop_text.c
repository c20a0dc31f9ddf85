#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/stop_text.h"

/* Pieces are separated by '|'; `shown` is what each push hands out, the flush last. */
static const struct {
    const char *stops[3];
    const char *pieces, *shown;
    bool stopped;
} cases[] = {
    {{NULL}, "a|bc", "a|bc|", false},       {{"END"}, "aE|N|x", "a||ENx|", false},
    {{"END"}, "aE|ND rest", "a|", true},    {{"END"}, "aEN", "a|EN", false},
    {{"aab"}, "aa|ab!", "|a", true},        {{"abc", "b"}, "ab", "a", true},
    {{"x", "abcx"}, "abc|x", "|", true},    {{"\n\n"}, "line\n|line\n\nmore", "line|\nline", true},
    {{"stop"}, "|s|t||o|p", "|||||", true},
};

static void table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = 0;
        while (n < 3 && cases[i].stops[n] != NULL) n++;
        struct phx_stop_text *t = NULL;
        assert_ok(phx_stop_text_create(cases[i].stops, n, &t));
        char got[256] = "";
        bool stopped = false;
        const char *piece = cases[i].pieces;
        for (bool more = true; more && !stopped;) {
            size_t length = strcspn(piece, "|"), bytes;
            const char *text;
            char *own = malloc(length + 1); /* so that sanitizers see its end */
            memcpy(own, piece, length);
            assert_ok(phx_stop_text_push(t, own, length, &text, &bytes, &stopped));
            strncat(got, text, bytes);
            if (!stopped) strcat(got, "|");
            free(own);
            more = piece[length] == '|';
            piece += length + 1;
        }
        const char *text;
        size_t bytes;
        phx_stop_text_flush(t, &text, &bytes);
        strncat(got, text, bytes);
        if (stopped != cases[i].stopped || strcmp(got, cases[i].shown) != 0)
            fail_msg("case %zu: \"%s\", stopped %d; expected \"%s\", %d", i, got, stopped,
                     cases[i].shown, cases[i].stopped);
        phx_stop_text_destroy(t);
    }
    struct phx_stop_text *t = NULL;
    const char *empty = "";
    assert_fails(phx_stop_text_create(&empty, 1, &t), PHX_USAGE, "must not be empty");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
