/* No sorting: the last token that a rule keeps is found digit by digit, like in a radix sort whose
 * only interest is one place. Probabilities are added as integers, so that their sum, and with it
 * the draw, does not depend on the order of addition: the same from a row and from any records. */
#include "kernels/cpu/sample_select.h"

#include <math.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"

static const float MASS_ONE = 1099511627776.0f; /* 2^40: 2^23 tokens fit 64 bits */

/* Kept are the tokens with keys above `key` and the first `n_equal` of those with `key`. */
struct bound {
    uint32_t key;
    uint64_t n_equal;
};

static const struct bound everything = {0, UINT64_MAX};

/* What is asked of a selection. */
struct draw {
    const struct phx_sample_tokens *tokens;
    float temperature;
    float max; /* of the values */
};

float phx_sample_value(float adjusted, float temperature)
{
    if (isnan(adjusted)) return -INFINITY;
    return temperature > 0 ? adjusted / temperature : adjusted;
}

/* Gumbel noise -log(-log u) is at most -log(1 - u), which the exponent of 1 - u bounds for much
 * less: a token far below the best so far costs no logarithm. Rounding grows with the value in the
 * same way for the noise and its bound; the margin covers that of the logarithms. */
float phx_sample_noisy(float value, uint64_t key, int32_t id, float floor)
{
    const float u = phx_sample_uniform(key, id);
    const int exponent = (int)(phx_bits_from_f32(1 - u) >> 23) - 127;
    if (value - 0.6931472f * (float)exponent + 1e-3f < floor) return floor;
    return value - logf(-logf(u));
}

/* Token i's value; false if there is none. */
static bool value_at(const struct draw *d, int64_t i, float *value)
{
    if (d->tokens->logits != NULL) {
        *value = phx_sample_value(d->tokens->logits[i], d->temperature);
        return true;
    }
    *value = d->tokens->candidates[i].value;
    return d->tokens->candidates[i].id >= 0;
}

/* Unsigned integers in the order of the values; both zeros are equal. */
static uint32_t order_key(float value)
{
    uint32_t bits = phx_bits_from_f32(value + 0.0f);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/* Probability over that of the likeliest token, in units of 2^-40. */
static uint64_t mass(const struct draw *d, float value)
{
    if (value == d->max) return (uint64_t)MASS_ONE;
    return (uint64_t)(expf(value - d->max) * MASS_ONE);
}

/* Whether a token with `key` is kept; `n_seen` counts those equal to the bound's. */
static bool within(struct bound bound, uint32_t key, uint64_t *n_seen)
{
    return key > bound.key || (key == bound.key && (*n_seen)++ < bound.n_equal);
}

/* Of the tokens within `outer`, in order of value and index, the shortest prefix that has `count`
 * tokens (count > 0) or `fraction` of the mass. */
static struct bound prefix(const struct draw *d, struct bound outer, uint64_t count,
                           double fraction)
{
    enum { N_DIGITS = 3, MAX_DIGITS = 1 << 11 };
    static const int widths[N_DIGITS] = {11, 11, 10};
    uint64_t histogram[MAX_DIGITS];
    uint64_t before = 0, wanted = count; /* weight above what is looked at; what is looked for */
    uint32_t key = 0;                    /* the digits found so far */
    int shift = 32;
    for (int digit = 0; digit < N_DIGITS; digit++) {
        const uint32_t known = shift == 32 ? 0 : ~(uint32_t)0 << shift;
        shift -= widths[digit];
        memset(histogram, 0, sizeof histogram);
        uint64_t n_seen = 0, total = 0;
        float value;
        for (int64_t i = 0; i < d->tokens->n; i++) {
            if (!value_at(d, i, &value)) continue;
            const uint32_t own = order_key(value);
            if ((own & known) != key || !within(outer, own, &n_seen)) continue;
            const uint64_t weight = count > 0 ? 1 : mass(d, value);
            histogram[(own >> shift) & ((1u << widths[digit]) - 1)] += weight;
            total += weight;
        }
        if (digit == 0) {
            if (count == 0) wanted = (uint64_t)fmax(ceil(fraction * (double)total), 1);
            if (wanted > total) return outer;
        }
        uint32_t bucket = (1u << widths[digit]) - 1;
        while (bucket > 0 && before + histogram[bucket] < wanted) before += histogram[bucket--];
        key |= bucket << shift;
    }
    /* All that are left are equal: as many as it takes. */
    const uint32_t bits = (key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key;
    const uint64_t each = count > 0 ? 1 : mass(d, phx_f32_from_bits(bits));
    return (struct bound){key, (wanted - before + each - 1) / each};
}

/* The best of the tokens within the bound and not below `least`. */
static int64_t draw_noisy(const struct draw *d, struct bound bound, float least, uint64_t key)
{
    int64_t best = -1;
    float best_noisy = -INFINITY, value;
    uint64_t n_seen = 0;
    for (int64_t i = 0; i < d->tokens->n; i++) {
        if (!value_at(d, i, &value)) continue;
        if (!within(bound, order_key(value), &n_seen) || value < least) continue;
        float noisy = value;
        if (d->tokens->logits == NULL)
            noisy = d->tokens->candidates[i].noisy;
        else if (d->temperature > 0)
            noisy = phx_sample_noisy(value, key, (int32_t)i, best_noisy);
        if (best >= 0 && !(noisy > best_noisy)) continue;
        best = i;
        best_noisy = noisy;
    }
    return best;
}

int64_t phx_sample_draw(const struct phx_sample_tokens *tokens, const struct phx_sampling *params,
                        uint64_t key)
{
    struct draw d = {tokens, params->temperature, -INFINITY};
    if (!(params->temperature > 0)) return draw_noisy(&d, everything, -INFINITY, key);
    const bool cut = params->top_p < 1 || params->min_p > 0;
    float value;
    for (int64_t i = 0; cut && i < tokens->n; i++)
        if (value_at(&d, i, &value) && value > d.max) d.max = value;
    struct bound bound = everything;
    if (params->top_k > 0 && params->top_k < tokens->n)
        bound = prefix(&d, bound, (uint64_t)params->top_k, 0);
    if (params->top_p < 1) bound = prefix(&d, bound, 0, (double)params->top_p);
    const float least = params->min_p > 0 ? d.max + logf(params->min_p) : -INFINITY;
    return draw_noisy(&d, bound, least, key);
}
