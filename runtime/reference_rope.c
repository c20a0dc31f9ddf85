/* Norm and rotation of heads, written from the papers' formulas. */
#include <math.h>

#include "kernels/base/check.h"
#include "runtime/reference_impl.h"

/* Rotations that are long against the original context slow down, short ones stay, and those
 * between are blended (Meta's rule for Llama 3). */
static double llama3_frequency(const struct phx_rope_config *rope, double frequency)
{
    double wavelength = 2 * M_PI / frequency, context = (double)rope->original_max_positions;
    if (wavelength < context / rope->high_freq_factor) return frequency;
    if (wavelength > context / rope->low_freq_factor) return frequency / rope->factor;
    double smooth = (context / wavelength - rope->low_freq_factor) /
                    (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * (frequency / rope->factor) + smooth * frequency;
}

/* The i at which theta^(-2i/R) turns `turns` times in the original context. */
static double yarn_index(const struct phx_rope_config *rope, double turns)
{
    return log((double)rope->original_max_positions / (2 * M_PI * turns)) / log(rope->theta) *
           rope->rotated / 2;
}

/* YaRN: frequencies before the one of beta_fast turns stay, those after that of beta_slow are
 * interpolated, a ramp between. */
static double yarn_frequency(const struct phx_rope_config *rope, int64_t i, double frequency)
{
    double begin = yarn_index(rope, rope->beta_fast), end = yarn_index(rope, rope->beta_slow);
    if (rope->truncate) {
        begin = floor(begin);
        end = ceil(end);
    }
    if (begin < 0) begin = 0;
    if (end > rope->rotated - 1) end = rope->rotated - 1;
    if (begin == end) end += 0.001;
    double ramp = ((double)i - begin) / (end - begin);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return (1 - ramp) * frequency + ramp * frequency / rope->factor;
}

/* Models keep the frequencies in f32 (or in what the options say), and their angles too. */
static double angle_of(const struct phx_reference *r, const struct phx_rope_config *rope, int64_t i,
                       int32_t position)
{
    double frequency = pow(rope->theta, -2.0 * (double)i / (double)rope->rotated);
    if (rope->kind == PHX_ROPE_LINEAR) frequency /= rope->factor;
    if (rope->kind == PHX_ROPE_LLAMA3) frequency = llama3_frequency(rope, frequency);
    if (rope->kind == PHX_ROPE_YARN) frequency = yarn_frequency(rope, i, frequency);
    if (rope->kind == PHX_ROPE_LONGROPE) {
        bool is_long = r->config->context > rope->original_max_positions;
        frequency /= rope->factors[(is_long ? rope->rotated / 2 : 0) + i];
    }
    float kept = (float)frequency;
    if (r->options.inv_freq == PHX_BF16) kept = phx_f32_from_bf16(phx_bf16_from_f32(kept));
    return (float)position * kept;
}

static void norm_all(const struct phx_reference *r, enum phx_ref_tensor norm, int32_t layer,
                     int64_t n, struct phx_interval heads, int64_t dim, const double *squares,
                     double *x)
{
    const int64_t own = phx_interval_length(heads) * dim;
    const double *weight = r->row + heads.begin * dim;
    const enum phx_dim whole = norm == PHX_REF_Q_NORM ? PHX_DIM_Q : PHX_DIM_KV;
    const int64_t all = phx_config_dim(r->config, layer, whole);
    PHX_ASSERT(squares != NULL || own == all);
    phx_reference_row(r, norm, layer, 0, r->row);
    for (int64_t i = 0; i < n; i++, x += own) {
        double sum = squares != NULL ? squares[i] : 0;
        for (int64_t c = 0; c < own && squares == NULL; c++) sum += x[c] * x[c];
        double rms = sqrt(sum / (double)all + (double)r->config->norm_epsilon);
        for (int64_t c = 0; c < own; c++) x[c] = x[c] / rms * weight[c];
    }
}

void phx_reference_rotate(const struct phx_reference *reference, enum phx_ref_tensor which,
                          int32_t layer, int64_t n, const int32_t *positions,
                          struct phx_interval heads, const double *squares, double *x)
{
    const struct phx_config *config = reference->config;
    const int64_t dim = config->layers[layer].shape.head_dim;
    const int64_t n_heads = phx_interval_length(heads);
    const enum phx_ref_tensor norm = which == PHX_REF_Q ? PHX_REF_Q_NORM : PHX_REF_K_NORM;
    if (config->qk_norm_all)
        norm_all(reference, norm, layer, n, heads, dim, squares, x);
    else if (config->qk_norm)
        phx_reference_norm(reference, norm, layer, n * n_heads, x, x);
    if (config->layers[layer].rope < 0) return;
    const struct phx_rope_config *rope = &config->ropes[config->layers[layer].rope];
    const int64_t half = rope->rotated / 2;
    for (int64_t row = 0; row < n; row++) {
        for (int64_t i = 0; i < half; i++) {
            double angle = angle_of(reference, rope, i, positions[row]);
            double c = cos(angle) * rope->attention_factor;
            double s = sin(angle) * rope->attention_factor;
            for (int64_t h = 0; h < n_heads; h++) {
                double *head = x + (row * n_heads + h) * dim;
                double a = head[i], b = head[i + half];
                head[i] = a * c - b * s;
                head[i + half] = b * c + a * s;
            }
        }
    }
}
