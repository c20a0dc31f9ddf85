/* The judging of what every query head did: which keys it read, with what score, for which values.
 * It knows the law of heads from its definition alone: query head q reads KV head q / G. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/audit_judge.h"

enum { PAGE = PHX_PAGE_TOKENS };

/* The head of `truth` that `live` is, -1: none. */
static int64_t find_head(const struct phx_judge *j, const float *live, const double *truth,
                         int64_t n_heads)
{
    for (int64_t h = 0; h < n_heads; h++) {
        const double *own = truth + h * j->dim;
        if (phx_judge_good(j, phx_judge_error(live, own, j->dim, phx_judge_largest(own, j->dim))))
            return h;
    }
    return -1;
}

static const char *is_head(char text[64], const char *kind, int64_t head)
{
    if (head < 0)
        snprintf(text, 64, "is no head's");
    else
        snprintf(text, 64, "is %s_head %lld's", kind, (long long)head);
    return text;
}

/* ---- gate 2 ---- */

static void judge_map(struct phx_judge *j, const struct phx_judge_row *row, int rank, int64_t local,
                      const struct phx_seen_read *reads, int32_t n_blocks)
{
    const struct phx_seen_cache *cache = phx_judge_cache(j, rank);
    const int64_t q = cache->q_heads.begin + local, wanted = q / j->group;
    for (int32_t b = 0; b < n_blocks; b++) {
        if (!reads[b].was_read) continue;
        const int64_t kv = cache->kv_heads.begin + reads[b].kv_head;
        phx_judge_note(
            j, PHX_CHECK_MAP, kv == wanted, 0, phx_judge_place(j, rank, q, wanted, row),
            "local query head %lld read local KV head %d, which is kv_head %lld; %lld / %lld = "
            "%lld",
            (long long)local, reads[b].kv_head, (long long)kv, (long long)q, (long long)j->group,
            (long long)wanted);
    }
}

/* ---- projections, norms, rotation, append ---- */

/* The rank's heads `own`, side by side, against all heads of the whole model. */
static void judge_heads(struct phx_judge *j, enum phx_audit_check_id id,
                        const struct phx_judge_row *row, int rank, const float *live,
                        const double *truth, const struct phx_judge_sizes *sizes,
                        struct phx_interval own, const char *what)
{
    const bool queries = id == PHX_CHECK_Q_PROJECTION;
    char text[64];
    for (int64_t h = own.begin; h < own.end; h++) {
        const float *mine = live + (h - own.begin) * j->dim;
        double error = phx_judge_error(mine, truth + h * j->dim, j->dim, sizes->largest[h]);
        phx_judge_note(j, id, phx_judge_good(j, error), error,
                       phx_judge_place(j, rank, queries ? h : -1, queries ? -1 : h, row),
                       "%s of this head is off by %.3g of the largest; what lies there %s", what,
                       error,
                       is_head(text, queries ? "q" : "kv",
                               find_head(j, mine, truth, queries ? j->heads : j->kv_heads)));
    }
}

static int64_t row_at(const struct phx_judge *j, const struct phx_judge_row *row)
{
    return row - j->rows;
}

/* Of all heads of q or k as all ranks projected them; NaN if some were not seen. */
static double squares_of(const struct phx_judge *j, const struct phx_judge_row *row, bool keys)
{
    double sum = 0;
    for (int r = 0; r < j->n_ranks; r++) {
        const struct phx_seen_cache *cache = phx_judge_cache(j, r);
        const int64_t q = phx_interval_length(cache->q_heads) * j->dim;
        const int64_t k = phx_interval_length(cache->kv_heads) * j->dim;
        const float *qkv = phx_judge_seen(j, r, PHX_POINT_QKV, row, -1);
        if (qkv == NULL) return NAN;
        const float *x = keys ? qkv + q : qkv;
        for (int64_t i = 0; i < (keys ? k : q); i++) sum += (double)x[i] * (double)x[i];
    }
    return sum;
}

void phx_judge_inputs(struct phx_judge *j, const struct phx_judge_row *row, int rank)
{
    const struct phx_seen_cache *cache = phx_judge_cache(j, rank);
    const int64_t q = j->heads * j->dim, kv = j->kv_heads * j->dim;
    const int64_t own_q = phx_interval_length(cache->q_heads);
    const int64_t own_kv = phx_interval_length(cache->kv_heads);
    const float *qkv = phx_judge_seen(j, rank, PHX_POINT_QKV, row, -1);
    const float *live_q = phx_judge_seen(j, rank, PHX_POINT_Q, row, -1);
    const float *k = phx_judge_seen(j, rank, PHX_SEEN_K, row, -1),
                *v = phx_judge_seen(j, rank, PHX_SEEN_V, row, -1);
    if (qkv == NULL || live_q == NULL || k == NULL || v == NULL) {
        phx_judge_note(j, PHX_CHECK_CONFIG, false, NAN, phx_judge_place(j, rank, -1, -1, row),
                       "nothing was seen here");
        return;
    }
    const float *qkv_k = qkv + own_q * j->dim, *qkv_v = qkv_k + own_kv * j->dim;
    judge_heads(j, PHX_CHECK_Q_PROJECTION, row, rank, qkv, j->q_proj + row_at(j, row) * q,
                &j->q_proj_sizes, cache->q_heads, "the query");
    judge_heads(j, PHX_CHECK_K_PROJECTION, row, rank, qkv_k, j->k_proj + row->index * kv,
                &j->k_proj_sizes, cache->kv_heads, "the key");
    judge_heads(j, PHX_CHECK_V_PROJECTION, row, rank, qkv_v, j->v_proj + row->index * kv,
                &j->v_sizes, cache->kv_heads, "the value");
    judge_heads(j, PHX_CHECK_V_PROJECTION, row, rank, v, j->v_proj + row->index * kv, &j->v_sizes,
                cache->kv_heads, "the value in the cache");
    /* Rotation is judged by what was projected, right or wrong. */
    double *rotated = j->scratch;
    phx_judge_doubles(qkv, own_q * j->dim, rotated);
    const double q_squares = squares_of(j, row, false), k_squares = squares_of(j, row, true);
    phx_reference_rotate(j->r, PHX_REF_Q, j->layer, 1, &row->position, cache->q_heads, &q_squares,
                         rotated);
    for (int64_t h = 0; h < own_q; h++) {
        double error = phx_judge_error(live_q + h * j->dim, rotated + h * j->dim, j->dim,
                                       phx_judge_largest(rotated, own_q * j->dim));
        phx_judge_note(j, PHX_CHECK_Q_ROPE, phx_judge_good(j, error), error,
                       phx_judge_place(j, rank, cache->q_heads.begin + h, -1, row),
                       "the rotated query is off by %.3g of the largest", error);
    }
    phx_judge_doubles(qkv_k, own_kv * j->dim, rotated);
    phx_reference_rotate(j->r, PHX_REF_K, j->layer, 1, &row->position, cache->kv_heads, &k_squares,
                         rotated);
    for (int64_t h = 0; h < own_kv; h++) {
        double error = phx_judge_error(k + h * j->dim, rotated + h * j->dim, j->dim,
                                       phx_judge_largest(rotated, own_kv * j->dim));
        phx_judge_note(j, PHX_CHECK_K_ROPE, phx_judge_good(j, error), error,
                       phx_judge_place(j, rank, -1, cache->kv_heads.begin + h, row),
                       "the rotated key in the cache is off by %.3g of the largest", error);
    }
}

/* ---- gate 3 ---- */

/* The keys of a block that the row sees. */
static struct phx_interval visible(const struct phx_judge *j, const struct phx_judge_row *row,
                                   int32_t block)
{
    const int32_t window = j->config->layers[j->layer].window;
    int64_t first = window > 0 && row->position >= window ? row->position - window + 1 : 0;
    struct phx_interval keys = {first - (int64_t)block * PAGE,
                                row->position + 1 - (int64_t)block * PAGE};
    if (keys.begin < 0) keys.begin = 0;
    if (keys.end > PAGE) keys.end = PAGE;
    return keys;
}

/* The bytes of a block against K or V of a KV head of the row's text. */
static double block_error(const struct phx_judge *j, const struct phx_judge_row *row,
                          const float *block, int32_t b, struct phx_interval keys,
                          const double *truth, const struct phx_judge_sizes *sizes, int64_t kv_head)
{
    double worst = 0;
    for (int64_t key = keys.begin; key < keys.end; key++) {
        const double *own =
            truth + ((j->first[row->text] + b * PAGE + key) * j->kv_heads + kv_head) * j->dim;
        double off = phx_judge_error(block + key * j->dim, own, j->dim, sizes->largest[kv_head]);
        worst = phx_judge_worse(worst, off);
    }
    return worst;
}

static int64_t find_block_head(const struct phx_judge *j, const struct phx_judge_row *row,
                               const float *block, int32_t b, struct phx_interval keys,
                               const double *truth, const struct phx_judge_sizes *sizes)
{
    for (int64_t h = 0; h < j->kv_heads; h++)
        if (phx_judge_good(j, block_error(j, row, block, b, keys, truth, sizes, h))) return h;
    return -1;
}

static bool judge_address(struct phx_judge *j, const struct phx_judge_row *row, int rank,
                          int64_t local, const struct phx_seen_read *read, int32_t b)
{
    const struct phx_seen_cache *cache = phx_judge_cache(j, rank);
    const int64_t q = cache->q_heads.begin + local, wanted = q / j->group;
    const int64_t token = j->dim * cache->element_bytes;
    const int64_t kv_local = wanted - cache->kv_heads.begin;
    const int64_t offset = (read->page * (int64_t)cache->n_kv_heads + kv_local) * PAGE * token;
    bool ok = read->was_read && read->slot == read->true_slot && read->k_offset == offset &&
              read->k_stride == token && read->block >= 0;
    if (!read->was_read)
        phx_judge_note(j, PHX_CHECK_POINTERS, false, 1, phx_judge_place(j, rank, q, wanted, row),
                       "block %d was not read", b);
    else
        phx_judge_note(
            j, PHX_CHECK_POINTERS, ok, 0, phx_judge_place(j, rank, q, wanted, row),
            "block %d: K was read at byte %lld of page %d, tokens %lld bytes apart, by row %d of "
            "the block table%s; expected byte %lld, %lld apart, row %d",
            b, (long long)(read->k_offset - read->page * (int64_t)cache->n_kv_heads * PAGE * token),
            read->page, (long long)read->k_stride, read->slot,
            read->block < 0 ? ", outside of the cache" : "", (long long)(kv_local * PAGE * token),
            (long long)token, read->true_slot);
    bool v_ok = read->was_read && read->v_offset == offset && read->v_stride == token;
    if (read->was_read)
        phx_judge_note(
            j, PHX_CHECK_VALUES, v_ok, 0, phx_judge_place(j, rank, q, wanted, row),
            "block %d: V was read at byte %lld of the layer's V, tokens %lld bytes apart; "
            "expected byte %lld, %lld apart",
            b, (long long)read->v_offset, (long long)read->v_stride, (long long)offset,
            (long long)token);
    return read->block >= 0;
}

static void judge_reads(struct phx_judge *j, const struct phx_judge_row *row, int rank,
                        int64_t local, const struct phx_seen_read *reads, int32_t n_blocks)
{
    const struct phx_seen_cache *cache = phx_judge_cache(j, rank);
    const int64_t q = cache->q_heads.begin + local, wanted = q / j->group;
    char text[64];
    for (int32_t b = 0; b < n_blocks; b++) {
        struct phx_interval keys = visible(j, row, b);
        if (keys.begin >= keys.end) continue;
        if (!judge_address(j, row, rank, local, &reads[b], b)) continue;
        const float *block = phx_capture_find(j->a->capture, rank, PHX_SEEN_BLOCK, j->layer, -1,
                                              reads[b].block, -1, NULL);
        PHX_ASSERT(block != NULL);
        double error = block_error(j, row, block, b, keys, j->k, &j->k_sizes, wanted);
        phx_judge_note(
            j, PHX_CHECK_POINTERS, phx_judge_good(j, error), error,
            phx_judge_place(j, rank, q, wanted, row),
            "block %d: the keys there are off by %.3g of the largest of kv_head %lld; what lies "
            "there %s",
            b, error, (long long)wanted,
            is_head(text, "kv", find_block_head(j, row, block, b, keys, j->k, &j->k_sizes)));
        const float *values = block + PAGE * j->dim;
        error = block_error(j, row, values, b, keys, j->v_proj, &j->v_sizes, wanted);
        phx_judge_note(
            j, PHX_CHECK_VALUES, phx_judge_good(j, error), error,
            phx_judge_place(j, rank, q, wanted, row),
            "block %d: the values there are off by %.3g of the largest of kv_head %lld; what lies "
            "there %s",
            b, error, (long long)wanted,
            is_head(text, "kv", find_block_head(j, row, values, b, keys, j->v_proj, &j->v_sizes)));
    }
}

/* ---- gates 4 and 5 ---- */

static const double *of_text(const struct phx_judge *j, const struct phx_judge_row *row,
                             const double *truth, int64_t kv_head)
{
    return truth + (j->first[row->text] * j->kv_heads + kv_head) * j->dim;
}

/* Scores that are what they should be but for a factor. */
static void judge_scale(struct phx_judge *j, const struct phx_judge_row *row, int rank, int64_t q,
                        const float *live, const double *truth, int64_t n)
{
    double products = 0, squares = 0, rest = 0;
    for (int64_t i = 0; i < n; i++) {
        products += (double)live[i] * truth[i];
        squares += truth[i] * truth[i];
    }
    const double factor = products / squares;
    for (int64_t i = 0; i < n; i++) rest = fmax(rest, fabs((double)live[i] - factor * truth[i]));
    if (n < 8 || !phx_judge_good(j, rest / phx_judge_largest(truth, n)))
        return; /* it is something else */
    struct phx_audit_check *check = phx_judge_check(j, PHX_CHECK_SCALE);
    const double error = fabs(factor - 1);
    if (check->passed) check->seen = factor * phx_judge_scale(j);
    phx_judge_note(j, PHX_CHECK_SCALE, phx_judge_good(j, error), error,
                   phx_judge_place(j, rank, q, q / j->group, row),
                   "q . k is multiplied by %.7g, expected %.7g", factor * phx_judge_scale(j),
                   phx_judge_scale(j));
}

static int64_t first_visible(const struct phx_judge *j, const struct phx_judge_row *row)
{
    const int32_t window = j->config->layers[j->layer].window;
    return window > 0 && row->position >= window ? row->position - window + 1 : 0;
}

/* The live scores of a row against those of each KV head, by the query that was used. */
static void judge_scores(struct phx_judge *j, const struct phx_judge_row *row, int rank,
                         int64_t local, const float *live_q, const float *live)
{
    const struct phx_seen_cache *cache = phx_judge_cache(j, rank);
    const int64_t q = cache->q_heads.begin + local, wanted = q / j->group;
    const int64_t n = row->position + 1, first = first_visible(j, row);
    double *query = j->scratch, *truth = query + j->dim, squares = 0;
    phx_judge_doubles(live_q + local * j->dim, j->dim, query);
    for (int64_t d = 0; d < j->dim; d++) squares += query[d] * query[d];
    const double scale = sqrt(squares / (double)j->dim) * j->k_sizes.longest[wanted];
    for (int64_t kv = 0; kv < j->kv_heads; kv++) {
        phx_reference_scores(query, of_text(j, row, j->k, kv), j->kv_heads * j->dim, n, j->dim,
                             phx_judge_scale(j), truth);
        double error = phx_judge_error(live + first, truth + first, n - first, scale);
        double *distance = &j->distance[q * j->kv_heads + kv];
        *distance = phx_judge_worse(*distance, error);
        if (kv != wanted) continue;
        phx_judge_note(j, PHX_CHECK_SCORES, phx_judge_good(j, error), error,
                       phx_judge_place(j, rank, q, wanted, row),
                       "the scores are off by %.3g of |q| |K[kv_head %lld]| scale", error,
                       (long long)wanted);
        judge_scale(j, row, rank, q, live + first, truth + first, n - first);
    }
}

/* Softmax of the live scores over what the row may see, times V of each KV head. */
static void judge_values(struct phx_judge *j, const struct phx_judge_row *row, int rank,
                         int64_t local, const float *scores, const float *attended)
{
    const struct phx_seen_cache *cache = phx_judge_cache(j, rank);
    const int64_t q = cache->q_heads.begin + local, wanted = q / j->group;
    double *own = j->scratch, *out = own + row->position + 1;
    double *distances = j->distance + j->heads * j->kv_heads;
    const double scale = j->v_sizes.longest[wanted];
    phx_judge_doubles(scores, row->position + 1, own);
    phx_reference_cap((double)j->config->attention_soft_cap, row->position + 1, own);
    for (int64_t kv = 0; kv < j->kv_heads; kv++) {
        phx_reference_attend(own, of_text(j, row, j->v_proj, kv), j->kv_heads * j->dim, j->dim,
                             row->position, j->config->layers[j->layer].window, out);
        double error = phx_judge_error(attended + local * j->dim, out, j->dim, scale);
        double *distance = &distances[q * j->kv_heads + kv];
        *distance = phx_judge_worse(*distance, error);
        if (kv == wanted)
            phx_judge_note(j, PHX_CHECK_VALUES, phx_judge_good(j, error), error,
                           phx_judge_place(j, rank, q, wanted, row),
                           "the output is off by %.3g of |V| from softmax(scores) V[kv_head %lld]",
                           error, (long long)wanted);
    }
}

static void judge_weights(struct phx_judge *j, const struct phx_judge_row *row, int rank,
                          int64_t local, int64_t n_keys, const float *scores)
{
    const int64_t q = phx_judge_cache(j, rank)->q_heads.begin + local;
    const float *weights = phx_judge_seen(j, rank, PHX_SEEN_WEIGHTS, row, (int32_t)local);
    const float *maxima = phx_judge_seen(j, rank, PHX_SEEN_MAXIMA, row, (int32_t)local);
    const float *sums = phx_judge_seen(j, rank, PHX_SEEN_SUMS, row, (int32_t)local);
    struct phx_audit_check *mask = phx_judge_check(j, PHX_CHECK_MASK);
    double sum = 0, worst = 0;
    for (int64_t i = 0; i < n_keys; i++) {
        struct phx_interval keys = visible(j, row, (int32_t)(i / PAGE));
        bool sees = i % PAGE >= keys.begin && i % PAGE < keys.end;
        if (!sees) {
            double weight = (double)weights[i];
            if (i == row->position + 1)
                mask->seen = fmax(isnan(mask->seen) ? 0 : mask->seen, weight);
            phx_judge_note(j, PHX_CHECK_MASK, weight == 0, weight,
                           phx_judge_place(j, rank, q, q / j->group, row),
                           "key %lld has weight %.3g", (long long)i, weight);
            if (weight == 0) continue;
        } else {
            double score = (double)scores[i];
            phx_reference_cap((double)j->config->attention_soft_cap, 1, &score);
            double wanted = exp(score - (double)maxima[i]);
            double off = fabs((double)weights[i] - wanted);
            worst = phx_judge_worse(worst, off);
        }
        sum += (double)weights[i] * exp((double)maxima[i] - (double)sums[0]);
    }
    phx_judge_note(j, PHX_CHECK_SOFTMAX, phx_judge_good(j, worst), worst,
                   phx_judge_place(j, rank, q, q / j->group, row),
                   "a weight is off by %.3g from exp(score - max)", worst);
    double error = fabs(sum / (double)sums[1] - 1);
    phx_judge_note(j, PHX_CHECK_SOFTMAX, phx_judge_good(j, error), error,
                   phx_judge_place(j, rank, q, q / j->group, row),
                   "the weights add up to %.6g of what the output was divided by",
                   sum / (double)sums[1]);
}

void phx_judge_attention(struct phx_judge *j, const struct phx_judge_row *row, int rank)
{
    const int64_t n_heads = phx_interval_length(phx_judge_cache(j, rank)->q_heads);
    const float *live_q = phx_judge_seen(j, rank, PHX_POINT_Q, row, -1);
    const float *attended = phx_judge_seen(j, rank, PHX_POINT_ATTENDED, row, -1);
    for (int64_t h = 0; h < n_heads; h++) {
        size_t bytes = 0;
        const struct phx_seen_read *reads =
            phx_capture_find(j->a->capture, rank, PHX_SEEN_READS, j->layer, row->slot,
                             row->position, (int32_t)h, &bytes);
        const float *scores = phx_judge_seen(j, rank, PHX_SEEN_SCORES, row, (int32_t)h);
        if (reads == NULL || scores == NULL || live_q == NULL || attended == NULL) {
            phx_judge_note(j, PHX_CHECK_CONFIG, false, NAN, phx_judge_place(j, rank, -1, -1, row),
                           "nothing was seen of local query head %lld", (long long)h);
            return;
        }
        int32_t n_blocks = (int32_t)(bytes / sizeof *reads);
        judge_map(j, row, rank, h, reads, n_blocks);
        judge_reads(j, row, rank, h, reads, n_blocks);
        judge_scores(j, row, rank, h, live_q, scores);
        judge_weights(j, row, rank, h, (int64_t)n_blocks * PAGE, scores);
        judge_values(j, row, rank, h, scores, attended);
    }
}
