/* What judges write down, and what they compare with. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "runtime/audit_judge.h"

struct phx_audit_check *phx_judge_check(struct phx_judge *j, enum phx_audit_check_id id)
{
    return &j->a->checks[id];
}

/* One comparison came to `error` (relative). If it failed, the first one is described. */
void phx_judge_note(struct phx_judge *j, enum phx_audit_check_id id, bool passed, double error,
                    struct phx_audit_place place, const char *format, ...)
{
    struct phx_audit_check *check = phx_judge_check(j, id);
    check->n++;
    check->worst = phx_judge_worse(check->worst, error);
    if (passed || !check->passed) return;
    check->passed = false;
    check->place = place;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(check->found, sizeof check->found, format, arguments);
    va_end(arguments);
}

struct phx_audit_place phx_judge_place(const struct phx_judge *j, int rank, int64_t q_head,
                                       int64_t kv_head, const struct phx_judge_row *row)
{
    return (struct phx_audit_place){.layer = j->layer,
                                    .rank = rank,
                                    .q_head = (int32_t)q_head,
                                    .kv_head = (int32_t)kv_head,
                                    .text = row == NULL ? -1 : row->text,
                                    .position = row == NULL ? -1 : row->position};
}

bool phx_judge_good(const struct phx_judge *j, double error)
{
    return error <= j->a->options.tolerance; /* false for NaN */
}

const float *phx_judge_seen(const struct phx_judge *j, int rank, int what,
                            const struct phx_judge_row *row, int32_t head)
{
    return phx_capture_find(j->a->capture, rank, what, j->layer, row->slot, row->position, head,
                            NULL);
}

const struct phx_seen_cache *phx_judge_cache(const struct phx_judge *j, int rank)
{
    return phx_capture_cache(j->a->capture, rank, j->layer);
}

double phx_judge_worse(double a, double b)
{
    return isnan(a) || a >= b ? a : b;
}

double phx_judge_largest(const double *x, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(x[i]));
    return most;
}

double phx_judge_error(const float *live, const double *truth, int64_t n, double scale)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = phx_judge_worse(most, fabs((double)live[i] - truth[i]));
    return scale > 0 ? most / scale : most;
}

void phx_judge_doubles(const float *from, int64_t n, double *to)
{
    for (int64_t i = 0; i < n; i++) to[i] = (double)from[i];
}
