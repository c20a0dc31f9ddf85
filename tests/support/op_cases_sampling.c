/* Cases of the samplers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/ops.h"
#include "tests/support/op_cases.h"
#include "tests/support/reference_ops.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Rows that draw in many ways from one vocabulary. */
static const struct phx_sampling styles[] = {
    {.temperature = 0, .top_p = 1, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .repeat_penalty = 1},
    {.temperature = 0.5f, .top_p = 1, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .top_k = 1, .repeat_penalty = 1},
    {.temperature = 0.8f, .top_p = 1, .top_k = 17, .repeat_penalty = 1},
    {.temperature = 2, .top_p = 1, .top_k = 40, .repeat_penalty = 1},
    {.temperature = 0.8f, .top_p = 0.9f, .top_k = 40, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 0.5f, .min_p = 0.05f, .top_k = 33, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .min_p = 0.2f, .top_k = 40, .repeat_penalty = 1},
    {.temperature = 0, .top_p = 0.3f, .top_k = 5, .repeat_penalty = 1},
    {.temperature = 1e-3f, .top_p = 1, .repeat_penalty = 1},
    /* from here on: whole rows only */
    {.temperature = 1, .top_p = 0.9f, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1e-6f, .repeat_penalty = 1},
    {.temperature = 1.5f, .top_p = 0.9999f, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .min_p = 0.1f, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 1, .min_p = 1, .repeat_penalty = 1},
    {.temperature = 0.7f, .top_p = 0.8f, .min_p = 0.02f, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 0.7f, .top_k = 100, .repeat_penalty = 1},
    {.temperature = 1, .top_p = 0.95f, .top_k = 100000, .repeat_penalty = 1},
};
enum { N_STYLES = COUNT(styles), N_SHARED_STYLES = 11 };

static const struct sample_case {
    int32_t m, vocab, n_ranks, n_candidates;
    bool ties; /* logits are multiples of 1/4: many are equal */
    bool large;
} sample_cases[] = {
    {11, 50, 1, 40, false, false},   {11, 97, 1, 64, true, false},
    {22, 1000, 2, 40, false, false}, {33, 333, 3, 40, true, false},
    {22, 131, 5, 256, true, false},  {1, 128256, 1, 1, false, true},
    {1, 128256, 2, 40, false, true},
};

struct rows {
    struct phx_sampling *params; /* [m] of slots; row m has slot slots[m] */
    int32_t *slots, *positions;
    struct operand *logits, *adjusted, *params_operand, *slots_operand, *positions_operand;
};

/* Every seventh row is padding. */
static void rows_open(struct op_run *run, const struct sample_case *c, int n_styles, struct rows *r)
{
    const int64_t n = (int64_t)c->m * c->vocab;
    double *logits = op_alloc(n, sizeof *logits), *adjusted = op_alloc(n, sizeof *adjusted);
    *r = (struct rows){op_alloc(c->m, sizeof *r->params),
                       op_shuffled(run, c->m),
                       op_alloc(c->m, sizeof *r->positions),
                       0,
                       0,
                       0,
                       0,
                       0};
    for (int64_t i = 0; i < n; i++) {
        logits[i] = 3 * op_normal(run);
        if (c->ties) logits[i] = floor(logits[i]) / 4;
        adjusted[i] = logits[i] - (op_below(run, 3) == 0 ? 1.25 : 0);
    }
    for (int32_t m = 0; m < c->m; m++) {
        struct phx_sampling *p = &r->params[r->slots[m]];
        *p = styles[(c->large ? 6 : m) % n_styles];
        if (p->top_k > c->n_candidates && n_styles == N_SHARED_STYLES) p->top_k = c->n_candidates;
        p->seed = (uint64_t)op_below(run, (int64_t)1 << 50);
        p->choice = m % 3;
        r->positions[m] = (int32_t)op_below(run, 5000);
    }
    r->params_operand = op_bytes(run, c->m, sizeof *r->params, r->params);
    for (int32_t m = 6; m < c->m; m += 7) r->slots[m] = -1;
    r->slots_operand = op_ints(run, c->m, 1, r->slots);
    r->positions_operand = op_ints(run, c->m, 1, r->positions);
    r->logits = op_values(run, PHX_F32, c->m, c->vocab, 3, logits);
    r->adjusted = op_values(run, PHX_F32, c->m, c->vocab, 5, adjusted);
    free(logits);
    free(adjusted);
}

static void rows_close(struct rows *r)
{
    free(r->params);
    free(r->slots);
    free(r->positions);
}

static const struct phx_sampling *row_params(const struct rows *r, int32_t m)
{
    return &r->params[r->slots[m]];
}

static enum phx_status launch_candidates(struct phx_stream *stream, const void *args)
{
    return phx_op_sample_candidates(stream, args);
}

static void sample_describe(const struct sample_case *c, double bytes, struct op_case *out)
{
    snprintf(out->name, sizeof out->name, "%d x %d, %d ranks, K %d%s", c->m, c->vocab, c->n_ranks,
             c->n_candidates, c->ties ? ", ties" : "");
    out->tolerance = 1e-5;
    out->bytes = bytes;
    out->large = c->large;
}

static void candidates_describe(size_t index, const struct phx_device_info *info,
                                struct op_case *out)
{
    const struct sample_case *c = &sample_cases[index];
    (void)info;
    sample_describe(c, 8.0 * c->m * c->vocab / c->n_ranks, out);
}

/* Columns of rank r: uneven. */
static int32_t share_begin(const struct sample_case *c, int32_t rank)
{
    if (rank == c->n_ranks) return c->vocab;
    return (int32_t)((int64_t)c->vocab * rank / c->n_ranks) +
           (rank > 0 ? rank - c->n_ranks / 2 : 0);
}

static struct phx_sample_candidates candidates_args(const struct sample_case *c,
                                                    const struct rows *r, int32_t rank,
                                                    struct phx_tensor records)
{
    const int32_t begin = share_begin(c, rank), n = share_begin(c, rank + 1) - begin;
    return (struct phx_sample_candidates){.logits = phx_tensor_cols(r->logits->view, begin, n),
                                          .adjusted = phx_tensor_cols(r->adjusted->view, begin, n),
                                          .slots = r->slots_operand->view,
                                          .positions = r->positions_operand->view,
                                          .vocab_begin = begin,
                                          .params = r->params_operand->view,
                                          .n_candidates = c->n_candidates,
                                          .records = records};
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The scores come in the right order, each belongs to its token, and no token comes twice. */
static void check_record(struct op_run *run, const struct sample_case *c, const struct rows *r,
                         int32_t m, int32_t begin, int32_t n, const struct phx_candidate *record)
{
    const struct phx_sampling *p = row_params(r, m);
    const double *logits = r->logits->values + (int64_t)m * c->vocab;
    const double *adjusted = r->adjusted->values + (int64_t)m * c->vocab;
    double *scores = op_alloc(n, sizeof *scores);
    bool *seen = op_alloc(n, sizeof *seen);
    for (int32_t i = 0; i < n; i++)
        scores[i] = p->top_k > 0 ? ref_value(adjusted[begin + i], p)
                                 : ref_noisy(adjusted[begin + i], p, r->positions[m], begin + i);
    qsort(scores, (size_t)n, sizeof *scores, descending);
    for (int32_t i = 0; i < c->n_candidates; i++) {
        const struct phx_candidate *got = &record[i];
        if (i >= n) {
            if (got->id != -1) op_fail(run, "row %d: candidate %d of %d tokens", m, i, n);
            continue;
        }
        if (got->id < begin || got->id >= begin + n || seen[got->id - begin]) {
            op_fail(run, "row %d: candidate %d is token %d", m, i, got->id);
            break;
        }
        seen[got->id - begin] = true;
        double value = ref_value(adjusted[got->id], p);
        double noisy = ref_noisy(adjusted[got->id], p, r->positions[m], got->id);
        double scale = 1 + fabs(value), score = p->top_k > 0 ? value : noisy;
        if (fabs((double)got->value - value) > 1e-6 * scale ||
            fabs((double)got->noisy - noisy) > 1e-5 * scale ||
            (double)got->raw != logits[got->id] || fabs(score - scores[i]) > 1e-5 * scale)
            op_fail(run, "row %d: candidate %d, token %d: %g %g %g, not %g %g %g, place has %g", m,
                    i, got->id, (double)got->value, (double)got->noisy, (double)got->raw, value,
                    noisy, logits[got->id], scores[i]);
        bool tied = i > 0 && (p->top_k > 0 ? record[i - 1].value == got->value
                                           : record[i - 1].noisy == got->noisy);
        if (tied && record[i - 1].id > got->id)
            op_fail(run, "row %d: equals %d and %d in the wrong order", m, record[i - 1].id,
                    got->id);
    }
    /* The last one taken among equals: a lower id was not left out. */
    for (int32_t i = 0; i < n && c->n_candidates <= n && p->top_k > 0; i++) {
        const struct phx_candidate *last = &record[c->n_candidates - 1];
        if (!seen[i] && begin + i < last->id &&
            (float)ref_value(adjusted[begin + i], p) == last->value)
            op_fail(run, "row %d: token %d left out for its equal %d", m, begin + i, last->id);
    }
    double max = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n; i++) max = fmax(max, logits[begin + i]);
    for (int32_t i = 0; i < n; i++) sum += exp(logits[begin + i] - max);
    const struct phx_candidate *stats = &record[c->n_candidates];
    if (stats->id != -1 || (double)stats->value != max ||
        fabs((double)stats->raw - sum) > 1e-5 * sum)
        op_fail(run, "row %d: statistics %d %g %g, not -1 %g %g", m, stats->id,
                (double)stats->value, (double)stats->raw, max, sum);
    free(scores);
    free(seen);
}

/* The records of a rank in the middle. */
static void candidates_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct sample_case *c = &sample_cases[index];
    const int32_t rank = c->n_ranks / 2, items = c->n_candidates + 1;
    const int32_t begin = share_begin(c, rank), n = share_begin(c, rank + 1) - begin;
    struct rows r;
    (void)tolerance; /* of each field, in check_record */
    rows_open(run, c, N_SHARED_STYLES, &r);
    struct operand *records =
        op_bytes(run, c->m, items * (int64_t)sizeof(struct phx_candidate), NULL);
    struct phx_sample_candidates args = candidates_args(c, &r, rank, records->view);
    struct phx_candidate *got = op_alloc((int64_t)c->m * items, sizeof *got);
    op_launch_once(run, launch_candidates, &args);
    op_download_bytes(run, records, got);
    for (int32_t m = 0; m < c->m; m++)
        if (r.slots[m] >= 0) check_record(run, c, &r, m, begin, n, got + (int64_t)m * items);
    op_unchanged(run, "logits", r.logits);
    op_unchanged(run, "adjusted", r.adjusted);
    op_launch_timed(run, launch_candidates, &args, n_timed);
    free(got);
    rows_close(&r);
}

const struct op_table op_table_sample_candidates = {"sample_candidates", COUNT(sample_cases),
                                                    candidates_describe, candidates_run};

/* ---- drawing ---- */

struct drawn {
    struct operand *ids, *logprobs, *last_ids;
};

static struct drawn drawn_open(struct op_run *run, const struct sample_case *c)
{
    return (struct drawn){op_output(run, PHX_I32, c->m, 1, 0), op_output(run, PHX_F32, c->m, 1, 0),
                          op_output(run, PHX_I32, c->m, 1, 0)};
}

/* Padding draws nothing: its rows, and slots that no row has, stay as they are. */
static void check_padding(struct op_run *run, const struct sample_case *c, const struct rows *r,
                          const struct drawn *drawn)
{
    bool *has_row = op_alloc(c->m, sizeof *has_row);
    for (int32_t m = 0; m < c->m; m++) {
        if (r->slots[m] >= 0) {
            has_row[r->slots[m]] = true;
            continue;
        }
        op_row_unchanged(run, "ids", drawn->ids, m);
        op_row_unchanged(run, "logprobs", drawn->logprobs, m);
    }
    for (int32_t slot = 0; slot < c->m; slot++)
        if (!has_row[slot]) op_row_unchanged(run, "last_ids", drawn->last_ids, slot);
    free(has_row);
}

/* A token may differ where the rule's decision was within rounding; such rows are rare. */
static void check_drawn(struct op_run *run, const struct sample_case *c, const struct rows *r,
                        const struct drawn *drawn)
{
    double *got = op_download(run, drawn->ids), *last = op_download(run, drawn->last_ids);
    double *logprobs = op_alloc(c->m, sizeof *logprobs);
    int close = 0;
    for (int32_t m = 0; m < c->m; m++) {
        logprobs[m] = NAN;
        if (r->slots[m] < 0) continue;
        struct ref_draw draw = ref_sample(c->vocab, r->logits->values + (int64_t)m * c->vocab,
                                          r->adjusted->values + (int64_t)m * c->vocab,
                                          row_params(r, m), r->positions[m]);
        if (last[r->slots[m]] != got[m])
            op_fail(run, "row %d: id %g, but %g is the slot's newest", m, got[m],
                    last[r->slots[m]]);
        if (got[m] == draw.id)
            logprobs[m] = draw.logprob;
        else if (draw.margin < 1e-4)
            close++;
        else
            op_fail(run, "row %d: id %g, not %d (margin %g)", m, got[m], draw.id, draw.margin);
    }
    if (close > 1) op_fail(run, "%d rows differ within rounding", close);
    op_compare(run, "logprobs", drawn->logprobs, logprobs, 1e-5);
    check_padding(run, c, r, drawn);
    free(got);
    free(last);
    free(logprobs);
}

static enum phx_status launch_pick(struct phx_stream *stream, const void *args)
{
    return phx_op_sample_pick(stream, args);
}

static void pick_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct sample_case *c = &sample_cases[index];
    (void)info;
    sample_describe(
        c, (double)c->m * c->n_ranks * (c->n_candidates + 1) * sizeof(struct phx_candidate), out);
}

static void pick_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct sample_case *c = &sample_cases[index];
    const int64_t bytes = (c->n_candidates + 1) * (int64_t)sizeof(struct phx_candidate);
    struct rows r;
    (void)tolerance;
    rows_open(run, c, N_SHARED_STYLES, &r);
    struct operand *records = op_bytes(run, c->m, c->n_ranks * bytes, NULL);
    for (int32_t rank = 0; rank < c->n_ranks; rank++) {
        struct phx_tensor own = phx_tensor_cols(records->view, rank * bytes, bytes);
        struct phx_sample_candidates share = candidates_args(c, &r, rank, own);
        op_launch_once(run, launch_candidates, &share);
    }
    struct drawn drawn = drawn_open(run, c);
    struct phx_sample_pick args = {.records = records->view,
                                   .n_candidates = c->n_candidates,
                                   .n_ranks = c->n_ranks,
                                   .slots = r.slots_operand->view,
                                   .params = r.params_operand->view,
                                   .ids = drawn.ids->view,
                                   .logprobs = drawn.logprobs->view,
                                   .last_ids = drawn.last_ids->view};
    op_launch_once(run, launch_pick, &args);
    check_drawn(run, c, &r, &drawn);
    op_launch_timed(run, launch_pick, &args, n_timed);
    rows_close(&r);
}

const struct op_table op_table_sample_pick = {"sample_pick", COUNT(sample_cases), pick_describe,
                                              pick_run};

static enum phx_status launch_full(struct phx_stream *stream, const void *args)
{
    return phx_op_sample_full(stream, args);
}

static void full_describe(size_t index, const struct phx_device_info *info, struct op_case *out)
{
    const struct sample_case *c = &sample_cases[index];
    (void)info;
    sample_describe(c, 8.0 * c->m * c->vocab, out);
}

static void full_run(struct op_run *run, size_t index, double tolerance, int n_timed)
{
    const struct sample_case *c = &sample_cases[index];
    struct rows r;
    (void)tolerance;
    rows_open(run, c, N_STYLES, &r);
    struct drawn drawn = drawn_open(run, c);
    struct phx_sample_full args = {.logits = r.logits->view,
                                   .adjusted = r.adjusted->view,
                                   .slots = r.slots_operand->view,
                                   .positions = r.positions_operand->view,
                                   .params = r.params_operand->view,
                                   .ids = drawn.ids->view,
                                   .logprobs = drawn.logprobs->view,
                                   .last_ids = drawn.last_ids->view};
    op_launch_once(run, launch_full, &args);
    check_drawn(run, c, &r, &drawn);
    op_unchanged(run, "logits", r.logits);
    op_unchanged(run, "adjusted", r.adjusted);
    op_launch_timed(run, launch_full, &args, n_timed);
    rows_close(&r);
}

const struct op_table op_table_sample_full = {"sample_full", COUNT(sample_cases), full_describe,
                                              full_run};
