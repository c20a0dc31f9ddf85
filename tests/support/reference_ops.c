#include "tests/support/reference_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"

static double mean_square(int64_t n, const double *x)
{
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    return squares / (double)n;
}

void ref_add_norm(int64_t n, int64_t e, const double *x, const double *post, double *residual,
                  bool start, const double *weight, double epsilon, double *out)
{
    for (int64_t r = 0; r < n; r++, residual += e, out += e) {
        double x_rms = post != NULL ? sqrt(mean_square(e, x + r * e) + epsilon) : 1;
        for (int64_t c = 0; c < e; c++) {
            double more = x != NULL ? x[r * e + c] / x_rms * (post != NULL ? post[c] : 1) : 0;
            residual[c] = start ? more : residual[c] + more;
        }
        double rms = sqrt(mean_square(e, residual) + epsilon);
        for (int64_t c = 0; c < e; c++)
            out[c] = weight != NULL ? residual[c] / rms * weight[c] : residual[c];
    }
}

void ref_linear(int64_t n, int64_t in, int64_t out, const double *x, const double *weight,
                const double *bias, double *y)
{
    for (int64_t r = 0; r < n; r++) {
        for (int64_t o = 0; o < out; o++) {
            double sum = 0;
            for (int64_t i = 0; i < in; i++) sum += x[r * in + i] * weight[o * in + i];
            y[r * out + o] = sum + (bias != NULL ? bias[o] : 0);
        }
    }
}

static double activate(double z, enum phx_activation activation)
{
    if (activation == PHX_SILU) return z / (1 + exp(-z));
    return z / 2 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (z + 0.044715 * z * z * z)));
}

void ref_gate_up(int64_t n, int64_t in, int64_t f, const double *x, const double *weight,
                 const double *bias, enum phx_activation activation, double *y)
{
    double *both = malloc(sizeof *both * (size_t)(n * 2 * f));
    PHX_ASSERT(both != NULL);
    ref_linear(n, in, 2 * f, x, weight, bias, both);
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < f; c++)
            y[r * f + c] = activate(both[r * 2 * f + c], activation) * both[r * 2 * f + f + c];
    free(both);
}

/* How many experts come before `e`: those with more, and of those with as much the lower ones. */
static int64_t experts_before(const double *z, int64_t n_experts, int64_t e)
{
    const double own = isnan(z[e]) ? -INFINITY : z[e];
    int64_t before = 0;
    for (int64_t i = 0; i < n_experts; i++) {
        const double other = isnan(z[i]) ? -INFINITY : z[i];
        before += other > own || (other == own && i < e);
    }
    return before;
}

void ref_route(int64_t n, int64_t n_experts, int64_t k, const double *logits, bool normalize,
               double *ids, double *weights)
{
    for (int64_t r = 0; r < n; r++, logits += n_experts, ids += k, weights += k) {
        double all = 0, chosen = 0;
        for (int64_t e = 0; e < n_experts; e++) all += exp(logits[e]);
        for (int64_t e = 0; e < n_experts; e++) {
            const int64_t j = experts_before(logits, n_experts, e);
            if (j >= k) continue;
            ids[j] = (double)e;
            weights[j] = exp(logits[e]) / all;
            chosen += weights[j];
        }
        for (int64_t j = 0; j < k && normalize; j++) weights[j] /= chosen;
    }
}

void ref_rope_table(int64_t n, int64_t half, const int32_t *positions, const double *inv_freq,
                    double scale, double *out)
{
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < half; i++) {
            float angle = (float)((double)positions[r] * inv_freq[i]);
            out[r * 2 * half + i] = cos(angle) * scale;
            out[r * 2 * half + half + i] = sin(angle) * scale;
        }
    }
}

void ref_rope_head(int64_t dim, double *x, const double *norm, double mean, double epsilon,
                   int64_t rotated, const double *cos_sin)
{
    if (mean < 0) mean = mean_square(dim, x);
    if (norm != NULL)
        for (int64_t d = 0; d < dim; d++) x[d] = x[d] / sqrt(mean + epsilon) * norm[d];
    for (int64_t i = 0; i < rotated / 2; i++) {
        double a = x[i], b = x[i + rotated / 2];
        double c = cos_sin[i], s = cos_sin[rotated / 2 + i];
        x[i] = a * c - b * s;
        x[i + rotated / 2] = a * s + b * c;
    }
}

double ref_attention(const struct ref_keys *keys, int64_t dim, const double *q, int32_t position,
                     int32_t window, double scale, double soft_cap, double *out)
{
    double *s = malloc(sizeof *s * (size_t)(keys->n + 1));
    double max = -INFINITY, sum = 0;
    PHX_ASSERT(s != NULL);
    for (int64_t i = 0; i < keys->n; i++) {
        bool seen = !keys->absent[i] && keys->positions[i] <= position &&
                    (window == 0 || keys->positions[i] > position - window);
        double dot = 0;
        for (int64_t d = 0; seen && d < dim; d++) dot += q[d] * keys->k[i * keys->stride + d];
        s[i] = !seen           ? -INFINITY
               : soft_cap == 0 ? scale * dot
                               : soft_cap * tanh(scale * dot / soft_cap);
        max = fmax(max, s[i]);
    }
    for (int64_t d = 0; d < dim; d++) out[d] = 0;
    for (int64_t i = 0; i < keys->n; i++) {
        if (isinf(s[i])) continue;
        double p = exp(s[i] - max);
        sum += p;
        for (int64_t d = 0; d < dim; d++) out[d] += p * keys->v[i * keys->stride + d];
    }
    for (int64_t d = 0; sum > 0 && d < dim; d++) out[d] /= sum;
    free(s);
    return sum > 0 ? max + log(sum) : -INFINITY;
}

/* ---- sampling ---- */

void ref_adjust(int64_t n, double *z, const uint16_t *counts, const struct phx_sampling *params,
                const int32_t *bias_ids, const float *bias_values)
{
    for (int64_t i = 0; i < n; i++) {
        int times = counts[i] & 0x3fff;
        if (times > 0 || counts[i] >= 0x8000)
            z[i] = z[i] > 0 ? z[i] / (double)params->repeat_penalty
                            : z[i] * (double)params->repeat_penalty;
        if (times > 0)
            z[i] -= (double)params->presence_penalty + (double)params->frequency_penalty * times;
        for (int32_t b = 0; b < params->n_bias; b++)
            if (bias_ids[b] == i) z[i] += (double)bias_values[b];
    }
}

double ref_value(double adjusted, const struct phx_sampling *params)
{
    return params->temperature == 0 ? adjusted : adjusted / (double)params->temperature;
}

double ref_noisy(double adjusted, const struct phx_sampling *params, int32_t position, int32_t id)
{
    uint64_t key = phx_sample_key(params->seed, params->choice, position);
    double noise = -log(-log((double)phx_sample_uniform(key, id)));
    return ref_value(adjusted, params) + (params->temperature == 0 ? 0 : noise);
}

struct ranked {
    double value;
    int32_t id;
};

static int by_value_then_id(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void note(struct ref_draw *draw, double distance)
{
    /* Equal values are told apart by their ids, exactly. */
    if (distance != 0) draw->margin = fmin(draw->margin, fabs(distance));
}

/* How many of the sorted tokens step 2 keeps. */
static int64_t keep(const struct ranked *sorted, int64_t n, const struct phx_sampling *params,
                    struct ref_draw *draw)
{
    int64_t kept = n;
    if (params->top_k > 0 && params->top_k < n) {
        kept = params->top_k;
        note(draw, sorted[kept - 1].value - sorted[kept].value);
    }
    double total = 0, sum = 0;
    for (int64_t i = 0; i < kept; i++) total += exp(sorted[i].value - sorted[0].value);
    int64_t prefix = kept;
    for (int64_t i = 0; params->top_p < 1 && i < kept && prefix == kept; i++) {
        sum += exp(sorted[i].value - sorted[0].value);
        note(draw, sum / total - (double)params->top_p);
        if (sum >= (double)params->top_p * total) prefix = i + 1;
    }
    int64_t likely = 0;
    for (; likely < prefix && params->min_p > 0; likely++) {
        double below = sorted[likely].value - sorted[0].value - log((double)params->min_p);
        note(draw, below);
        if (below < 0) break;
    }
    return params->min_p > 0 ? likely : prefix;
}

struct ref_draw ref_sample(int64_t n, const double *logits, const double *adjusted,
                           const struct phx_sampling *params, int32_t position)
{
    struct ref_draw draw = {.id = -1, .margin = INFINITY};
    struct ranked *sorted = malloc(sizeof *sorted * (size_t)n);
    double max = -INFINITY, sum = 0, best = -INFINITY;
    PHX_ASSERT(sorted != NULL);
    for (int64_t i = 0; i < n; i++)
        sorted[i] = (struct ranked){ref_value(adjusted[i], params), (int32_t)i};
    qsort(sorted, (size_t)n, sizeof *sorted, by_value_then_id);
    int64_t kept = params->temperature == 0 ? n : keep(sorted, n, params, &draw);
    double second = -INFINITY;
    for (int64_t i = 0; i < kept; i++) {
        int32_t id = sorted[i].id;
        double noisy = ref_noisy(adjusted[id], params, position, id);
        if (draw.id < 0 || noisy > best || (noisy == best && id < draw.id)) {
            second = best;
            best = noisy;
            draw.id = id;
        } else if (noisy > second) {
            second = noisy;
        }
    }
    note(&draw, best - second);
    for (int64_t i = 0; i < n; i++) max = fmax(max, logits[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(logits[i] - max);
    draw.logprob = logits[draw.id] - max - log(sum);
    free(sorted);
    return draw;
}
