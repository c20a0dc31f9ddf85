/// \file reference_ops.h
/// The formulas of kernels/ops.h, naively and in double precision, on dense row-major arrays.
#ifndef PHX_TESTS_SUPPORT_REFERENCE_OPS_H
#define PHX_TESTS_SUPPORT_REFERENCE_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

/// residual is updated; x, post and weight may be NULL.
void ref_add_norm(int64_t n, int64_t e, const double *x, const double *post, double *residual,
                  bool start, const double *weight, double epsilon, double *out);
/// bias may be NULL; neither scale nor cap.
void ref_linear(int64_t n, int64_t in, int64_t out, const double *x, const double *weight,
                const double *bias, double *y);
void ref_gate_up(int64_t n, int64_t in, int64_t f, const double *x, const double *weight,
                 const double *bias, enum phx_activation activation, double *y);
/// ids and weights [n, k].
void ref_route(int64_t n, int64_t n_experts, int64_t k, const double *logits, bool normalize,
               double *ids, double *weights);
void ref_rope_table(int64_t n, int64_t half, const int32_t *positions, const double *inv_freq,
                    double scale, double *out);
/// One head: norm (NULL: none), then rotation of the first `rotated` dimensions (0: none).
/// `mean` is that of the squares that the norm divides by; negative: the head's own.
void ref_rope_head(int64_t dim, double *x, const double *norm, double mean, double epsilon,
                   int64_t rotated, const double *cos_sin);

/// What one query sees of one KV head.
struct ref_keys {
    int64_t n;
    const int32_t *positions; ///< [n]
    const bool *absent;       ///< [n] held by another rank
    const double *k, *v;      ///< key i at k + i * stride
    int64_t stride;
};
/// Returns the log of the sum of exponentials; out [dim].
double ref_attention(const struct ref_keys *keys, int64_t dim, const double *q, int32_t position,
                     int32_t window, double scale, double soft_cap, double *out);

/// What the sampling rule made of a row.
struct ref_draw {
    int32_t id;
    double margin; ///< how far the nearest decision was from going the other way, in log units
    double logprob;
};
/// Steps 2 and 3 over the whole vocabulary.
struct ref_draw ref_sample(int64_t n, const double *logits, const double *adjusted,
                           const struct phx_sampling *params, int32_t position);
/// Step 1, in place. counts as in struct phx_sampling_table.
void ref_adjust(int64_t n, double *z, const uint16_t *counts, const struct phx_sampling *params,
                const int32_t *bias_ids, const float *bias_values);
/// z with the temperature applied, and with noise where the temperature is not 0.
double ref_value(double adjusted, const struct phx_sampling *params);
double ref_noisy(double adjusted, const struct phx_sampling *params, int32_t position, int32_t id);

#endif
