/* Pages and what is known of them, with no device: against a naive model of who holds what. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/random.h"
#include "kernels/ops.h"
#include "runtime/kv_cache.h"

enum { MAX_PAGES = 24, MAX_SLOTS = 5, MAX_BLOCKS = 9, N_KINDS = 3, MAX_TEXT = MAX_BLOCKS + 1 };

/* A text is a row of blocks of few kinds, so that the same block often follows other ones. */
static void spell(const char *kinds, int n, int32_t *ids)
{
    for (int b = 0; b < n; b++)
        for (int i = 0; i < PHX_PAGE_TOKENS; i++)
            ids[b * PHX_PAGE_TOKENS + i] = i == 40 ? kinds[b] : i;
}

/* What should be in a page, written down when it was computed. */
struct model {
    char content[MAX_PAGES]
                [MAX_TEXT];         /* the kinds of all blocks up to this one; "": not computed */
    char text[MAX_SLOTS][MAX_TEXT]; /* what the slot's request goes on to say */
    int n_blocks[MAX_SLOTS];
    int n_computed[MAX_SLOTS];
    int32_t page[MAX_SLOTS][MAX_BLOCKS];
};

static uint64_t state_of_random;

static int draw(int below)
{
    state_of_random = phx_mix64(state_of_random + 0x9e3779b97f4a7c15ull);
    return (int)((state_of_random >> 33) % (uint64_t)below);
}

static void check_model(const struct phx_kv_cache *c, const struct model *m, int n_pages,
                        int n_slots)
{
    int users[MAX_PAGES] = {0}, n_free = 0;
    for (int s = 0; s < n_slots; s++) {
        assert_int_equal(phx_kv_cache_slot_blocks(c, s), m->n_blocks[s]);
        for (int b = 0; b < m->n_blocks[s]; b++) {
            int32_t page = phx_kv_cache_page(c, s, b);
            assert_in_range(page, 0, n_pages - 1);
            assert_int_equal(page, m->page[s][b]);
            users[page]++;
            if (b >= m->n_computed[s]) continue;
            /* What it has computed or found is still there, and is its own text's. */
            assert_int_equal(strlen(m->content[page]), b + 1);
            assert_memory_equal(m->content[page], m->text[s], (size_t)b + 1);
        }
    }
    for (int p = 0; p < n_pages; p++) {
        assert_int_equal(phx_kv_cache_users(c, p), users[p]);
        n_free += users[p] == 0;
    }
    assert_int_equal(phx_kv_cache_free_pages(c), n_free);
    assert_in_range(phx_kv_cache_known_pages(c), 0, n_pages);
}

static void begin(struct phx_kv_cache *c, struct model *m, int s)
{
    int32_t ids[MAX_BLOCKS * PHX_PAGE_TOKENS];
    int n = 1 + draw(MAX_BLOCKS);
    for (int b = 0; b < n; b++) m->text[s][b] = (char)('a' + draw(N_KINDS));
    m->text[s][n] = '\0';
    spell(m->text[s], n, ids);
    int found = phx_kv_cache_share(c, s, ids, draw(n + 1));
    for (int b = 0; b < found; b++) m->page[s][b] = phx_kv_cache_page(c, s, b);
    m->n_blocks[s] = m->n_computed[s] = found;
}

static void grow(struct phx_kv_cache *c, struct model *m, int s)
{
    int most = (int)strlen(m->text[s]), have = m->n_blocks[s];
    int want = have + draw(most - have + 1);
    bool fits = want - have <= phx_kv_cache_free_pages(c);
    assert_int_equal(phx_kv_cache_grow(c, s, want), fits);
    for (int b = have; fits && b < want; b++) {
        m->page[s][b] = phx_kv_cache_page(c, s, b);
        m->content[m->page[s][b]][0] = '\0';
    }
    if (fits) m->n_blocks[s] = want;
}

static void compute(struct phx_kv_cache *c, struct model *m, int s)
{
    int32_t ids[MAX_BLOCKS * PHX_PAGE_TOKENS];
    int to = m->n_computed[s] + draw(m->n_blocks[s] - m->n_computed[s] + 1);
    spell(m->text[s], to, ids);
    for (int b = m->n_computed[s]; b < to; b++) {
        int32_t page = m->page[s][b];
        assert_int_equal(phx_kv_cache_users(c, page), 1);
        memcpy(m->content[page], m->text[s], (size_t)b + 1);
        m->content[page][b + 1] = '\0';
    }
    m->n_computed[s] = to;
    phx_kv_cache_know(c, s, ids, to * PHX_PAGE_TOKENS);
}

static void random_texts(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        state_of_random = seed;
        int n_pages = 2 + draw(MAX_PAGES - 1), n_slots = 1 + draw(MAX_SLOTS);
        bool shares = draw(5) > 0;
        struct phx_kv_cache *c = NULL;
        struct model m;
        memset(&m, 0, sizeof m);
        assert_ok(phx_kv_cache_create(n_pages, n_slots, MAX_BLOCKS, shares, &c));
        for (int i = 0; i < 3000; i++) {
            int s = draw(n_slots);
            if (m.text[s][0] == '\0') {
                begin(c, &m, s);
            } else if (draw(8) == 0) {
                phx_kv_cache_release(c, s);
                m.n_blocks[s] = m.n_computed[s] = 0;
                m.text[s][0] = '\0';
            } else if (draw(2) == 0) {
                grow(c, &m, s);
            } else {
                compute(c, &m, s);
            }
            check_model(c, &m, n_pages, n_slots);
            if (!shares) assert_int_equal(phx_kv_cache_known_pages(c), 0);
        }
        phx_kv_cache_destroy(c);
    }
}

/* A text that is computed and let go. */
static void say(struct phx_kv_cache *c, int slot, const char *text)
{
    int32_t ids[MAX_BLOCKS * PHX_PAGE_TOKENS];
    int n = (int)strlen(text);
    spell(text, n, ids);
    phx_kv_cache_share(c, slot, ids, n);
    assert_true(phx_kv_cache_grow(c, slot, n));
    phx_kv_cache_know(c, slot, ids, n * PHX_PAGE_TOKENS);
    phx_kv_cache_release(c, slot);
}

/* How many of its blocks are known. It is not used by that. */
static int known(struct phx_kv_cache *c, const char *text)
{
    int32_t ids[MAX_BLOCKS * PHX_PAGE_TOKENS];
    spell(text, (int)strlen(text), ids);
    int n = phx_kv_cache_share(c, MAX_SLOTS - 1, ids, (int)strlen(text));
    phx_kv_cache_release(c, MAX_SLOTS - 1);
    return n;
}

static void the_oldest_end_goes_first(void **state)
{
    (void)state;
    struct phx_kv_cache *c = NULL;
    assert_ok(phx_kv_cache_create(8, MAX_SLOTS, MAX_BLOCKS, true, &c));
    say(c, 0, "abc");
    say(c, 0, "bbc"); /* shares nothing: its blocks follow others */
    assert_int_equal(phx_kv_cache_known_pages(c), 6);
    assert_int_equal(phx_kv_cache_free_pages(c), 8);
    assert_true(phx_kv_cache_grow(c, 1, 3)); /* two that nobody knows, and the end of "abc" */
    assert_int_equal(phx_kv_cache_known_pages(c), 5);
    assert_int_equal(known(c, "bbc"), 3);
    assert_int_equal(known(c, "abc"), 2); /* and so used last */
    assert_true(phx_kv_cache_grow(c, 1, 5));
    assert_int_equal(known(c, "bbc"), 1);
    assert_int_equal(known(c, "abc"), 2);
    assert_true(phx_kv_cache_grow(c, 1, 8));
    assert_false(phx_kv_cache_grow(c, 1, 9));
    assert_int_equal(phx_kv_cache_known_pages(c), 0);
    phx_kv_cache_destroy(c);
}

/* Two that compute the same at the same time keep their own pages; one of them is known. */
static void side_by_side(void **state)
{
    (void)state;
    struct phx_kv_cache *c = NULL;
    int32_t ids[2 * PHX_PAGE_TOKENS];
    spell("ab", 2, ids);
    assert_ok(phx_kv_cache_create(6, MAX_SLOTS, MAX_BLOCKS, true, &c));
    for (int s = 0; s < 2; s++) assert_true(phx_kv_cache_grow(c, s, 2));
    for (int s = 0; s < 2; s++) phx_kv_cache_know(c, s, ids, PHX_PAGE_TOKENS + 63);
    assert_int_equal(phx_kv_cache_known_pages(c), 1); /* the second block was not full */
    for (int s = 1; s >= 0; s--) phx_kv_cache_know(c, s, ids, 2 * PHX_PAGE_TOKENS);
    assert_int_equal(phx_kv_cache_known_pages(c), 2);
    assert_int_equal(phx_kv_cache_share(c, 2, ids, 2), 2);
    assert_int_equal(phx_kv_cache_page(c, 2, 0), phx_kv_cache_page(c, 0, 0));
    assert_int_equal(phx_kv_cache_page(c, 2, 1), phx_kv_cache_page(c, 1, 1));
    assert_int_equal(phx_kv_cache_users(c, phx_kv_cache_page(c, 2, 1)), 2);
    for (int s = 0; s < 3; s++) phx_kv_cache_release(c, s);
    assert_int_equal(phx_kv_cache_free_pages(c), 6);
    assert_int_equal(known(c, "ab"), 2);
    phx_kv_cache_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_texts),
        cmocka_unit_test(the_oldest_end_goes_first),
        cmocka_unit_test(side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
