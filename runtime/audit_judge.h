/// \file audit_judge.h
/// What the judges of an audit share: audit_judge.c (layers), audit_heads.c (query heads),
/// audit_notes.c. Only they include this. All is double precision.
#ifndef PHX_RUNTIME_AUDIT_JUDGE_H
#define PHX_RUNTIME_AUDIT_JUDGE_H

#include "runtime/audit_impl.h"

enum { PHX_JUDGE_ROWS = PHX_AUDIT_TEXTS * (PHX_AUDIT_CHOICES + PHX_AUDIT_NEW) };

/// A row whose every head is audited.
struct phx_judge_row {
    int32_t text, slot, position;
    int64_t index; ///< among the rows of all texts
};

/// Of each head, over all rows: what errors are measured by, since single rows may be small.
struct phx_judge_sizes {
    double *largest; ///< value
    double *longest; ///< vector
};

/// A layer as the reference has it.
struct phx_judge {
    struct phx_audit *a;
    const struct phx_reference *r;
    const struct phx_config *config;
    int n_ranks;
    struct phx_judge_row rows[PHX_JUDGE_ROWS];
    int n_rows;
    int64_t n_all; ///< rows of all texts, those of text t from first[t] on
    int64_t first[PHX_AUDIT_TEXTS];
    int32_t *positions; ///< [n_all]
    /// Of the layer under way:
    int32_t layer;
    int64_t heads, kv_heads, dim, group;
    double *input, *x;           ///< [n_all, E] residual as it was; its norm
    double *k_proj, *v_proj, *k; ///< [n_all, K D]
    double *q_proj;              ///< [n_rows, H D]
    double *sizes;               ///< memory of the next ones
    struct phx_judge_sizes q_proj_sizes, k_proj_sizes, v_sizes, k_sizes;
    double *distance; ///< [H, K] of scores, then [H, K] of values
    bool *twins;      ///< [K, K] keys alike, then [K, K] values alike
    double *scratch;  ///< the widest row, several times
    int64_t widest;
};

struct phx_audit_check *phx_judge_check(struct phx_judge *judge, enum phx_audit_check_id id);

/// One comparison came to `error` (relative). If it failed, the check's first failure is described.
void phx_judge_note(struct phx_judge *judge, enum phx_audit_check_id id, bool passed, double error,
                    struct phx_audit_place place, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/// In the layer under way; -1 (NULL): does not apply.
struct phx_audit_place phx_judge_place(const struct phx_judge *judge, int rank, int64_t q_head,
                                       int64_t kv_head, const struct phx_judge_row *row);
/// Within the tolerance; NaN is not.
bool phx_judge_good(const struct phx_judge *judge, double error);

/// phx_capture_find in the layer under way.
const float *phx_judge_seen(const struct phx_judge *judge, int rank, int what,
                            const struct phx_judge_row *row, int32_t head);
const struct phx_seen_cache *phx_judge_cache(const struct phx_judge *judge, int rank);

/// The larger of two errors; NaN is the worst of all.
double phx_judge_worse(double a, double b);
double phx_judge_largest(const double *x, int64_t n);
/// The largest difference as a part of `scale` (0: as it is); NaN if there is one.
double phx_judge_error(const float *live, const double *truth, int64_t n, double scale);
void phx_judge_doubles(const float *from, int64_t n, double *to);

/// What q . k is to be multiplied by: 1 / sqrt(D), or what the file has instead.
double phx_judge_scale(const struct phx_judge *judge);

/// Projections, norms, rotation and what was appended, of a row on a rank.
void phx_judge_inputs(struct phx_judge *judge, const struct phx_judge_row *row, int rank);
/// Every query head of a rank: gates 2 to 5, scale, mask and softmax.
void phx_judge_attention(struct phx_judge *judge, const struct phx_judge_row *row, int rank);

#endif
