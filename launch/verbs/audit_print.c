#include <math.h>

#include "kernels/base/check.h"
#include "launch/verbs/audit_output.h"

static void print_values(FILE *file, const float *values, int n)
{
    fprintf(file, "first%d=[", n);
    for (int i = 0; i < n; i++) fprintf(file, "%s%.5g", i == 0 ? "" : ", ", (double)values[i]);
    fprintf(file, "]");
}

static void print_range(FILE *file, int32_t begin, int32_t end)
{
    if (end - begin == 1)
        fprintf(file, "%-2d", begin);
    else
        fprintf(file, "%d..%d", begin, end - 1);
}

/* Heads that follow each other to the same KV head are one line. */
static void print_map(const struct phx_audit_view *v, int32_t layer, FILE *file)
{
    const int32_t n = v->config->layers[layer].shape.n_heads;
    for (int32_t q = 0, end; q < n; q = end) {
        struct phx_audit_head first, next;
        end = q + 1;
        if (!phx_audit_head(v->audit, layer, q, &first)) {
            fprintf(file, "MAP    q_head=%d was seen on no rank   WRONG\n", q);
            continue;
        }
        while (end < n && phx_audit_head(v->audit, layer, end, &next) && next.rank == first.rank &&
               next.kv_head == first.kv_head && next.ok == first.ok)
            end++;
        fprintf(file, "MAP    q_head=");
        print_range(file, q, end);
        fprintf(file, " -> kv_head=%d on rank %d (local q ", first.kv_head, first.rank);
        if (end - q == 1)
            fprintf(file, "%d", first.local_q);
        else
            print_range(file, first.local_q, first.local_q + end - q);
        fprintf(file, " -> local kv %d)   %s\n", first.local_kv, first.ok ? "ok" : "WRONG");
    }
}

static void print_head(const struct phx_audit_head *h, int head_dim, FILE *file)
{
    long long before = (long long)(h->kv_head - h->local_kv) * head_dim;
    fprintf(
        file,
        "PTRS   q_head=%-2d uses kv_head=%d: K offset %lld in rank %d's block row (global %lld), "
        "stride token %lld B, head %lld B, page %lld B, element %d B, block %d in page %d, K ",
        h->q_head, h->kv_head, (long long)h->k_offset, h->rank, (long long)h->k_offset + before,
        (long long)h->token_stride, (long long)h->head_stride, (long long)h->page_stride,
        h->element_bytes, h->block, h->page);
    print_values(file, h->k, h->n_k);
    fprintf(file, "\nSCORES q_head=%-2d ", h->q_head);
    print_values(file, h->scores, h->n_scores);
    fprintf(
        file,
        " (before softmax, after scale)\n"
        "AGG    q_head=%-2d uses kv_head=%d: V offset %lld in rank %d's block row (global %lld), "
        "V ",
        h->q_head, h->kv_head, (long long)h->v_offset, h->rank, (long long)h->v_offset + before);
    print_values(file, h->v, h->n_k);
    fprintf(file, "\n");
}

static void print_config(const struct phx_audit_view *v, int32_t layer, FILE *file)
{
    const struct phx_layer_shape *s = &v->config->layers[layer].shape;
    fprintf(file, "CONFIG num_heads=%d num_kv_heads=%d head_dim=%d group_size=%d ranks=%d\n",
            s->n_heads, s->n_kv_heads, s->head_dim, s->n_heads / s->n_kv_heads, v->n_ranks);
    print_map(v, layer, file);
}

static void print_layer(const struct phx_audit_view *v, int32_t layer, FILE *file)
{
    const struct phx_layer_shape *s = &v->config->layers[layer].shape;
    fprintf(file, "LAYER  %d\n", layer);
    print_config(v, layer, file);
    for (int32_t q = 0; q < s->n_heads; q++) {
        struct phx_audit_head head;
        if (v->heads[q] && phx_audit_head(v->audit, layer, q, &head))
            print_head(&head, s->head_dim, file);
    }
}

/* Whether print_config has the same lines for both. */
static bool are_alike(const struct phx_audit_view *v, int32_t a, int32_t b)
{
    const struct phx_layer_shape *s = &v->config->layers[a].shape, *t = &v->config->layers[b].shape;
    if (s->n_heads != t->n_heads || s->n_kv_heads != t->n_kv_heads || s->head_dim != t->head_dim)
        return false;
    for (int32_t q = 0; q < s->n_heads; q++) {
        struct phx_audit_head x, y;
        const bool seen = phx_audit_head(v->audit, a, q, &x);
        if (phx_audit_head(v->audit, b, q, &y) != seen) return false;
        if (seen && (x.kv_head != y.kv_head || x.rank != y.rank || x.local_q != y.local_q ||
                     x.local_kv != y.local_kv || x.ok != y.ok))
            return false;
    }
    return true;
}

static void print_briefly(const struct phx_audit_view *v, FILE *file)
{
    const int32_t n = v->config->n_layers;
    for (int32_t begin = 0, end; begin < n; begin = end) {
        end = begin + 1;
        if (!v->layers[begin]) continue;
        while (end < n && v->layers[end] && are_alike(v, begin, end)) end++;
        if (end - begin == 1)
            fprintf(file, "LAYER  %d\n", begin);
        else
            fprintf(file, "LAYER  %d..%d\n", begin, end - 1);
        print_config(v, begin, file);
    }
}

static void print_check(const struct phx_audit_check *c, FILE *file)
{
    if (c->gate > 0)
        fprintf(file, "GATE %d %s ... ", c->gate, c->name);
    else
        fprintf(file, "NEAR   %s ... ", c->name);
    fprintf(file, "%s  worst %.1e over %lld",
            c->n == 0   ? "NONE"
            : c->passed ? "PASS"
                        : "FAIL",
            c->worst, (long long)c->n);
    if (c->gate >= 4 && !isnan(c->seen))
        fprintf(file, ", any other KV head is off by %.1e", c->seen);
    if (c->gate == 0 && !isnan(c->seen)) fprintf(file, ", measured %.7g", c->seen);
    fprintf(file, "  (%s)\n", c->formula);
}

static void print_place(const struct phx_audit_place *p, FILE *file)
{
    const struct {
        const char *name;
        int32_t value;
    } parts[] = {{"layer", p->layer},     {"rank", p->rank}, {"q_head", p->q_head},
                 {"kv_head", p->kv_head}, {"text", p->text}, {"position", p->position}};
    const char *separator = "";
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].value < 0) continue;
        fprintf(file, "%s%s %d", separator, parts[i].name, parts[i].value);
        separator = ", ";
    }
}

static void print_verdict(const struct phx_audit_view *v, FILE *file)
{
    const struct phx_audit_check *c = phx_audit_first_failure(v->audit);
    if (c == NULL) {
        bool all = true;
        for (int32_t l = 0; l < v->config->n_layers; l++) all = all && v->layers[l];
        fprintf(file,
                "VERDICT the head mapping is right%s, and so is what surrounds it: a fault in the "
                "text is not here\n",
                all ? "" : " in these layers");
        return;
    }
    if (c->gate > 0)
        fprintf(file, "VERDICT gate %d (%s) fails first", c->gate, c->name);
    else
        fprintf(file, "VERDICT the %s fails first", c->name);
    fprintf(file, ": expected %s\n        at ", c->formula);
    print_place(&c->place, file);
    fprintf(file, ": %s\n        look at %s\n", c->found, c->look);
}

static void print_twins(const struct phx_audit *audit, FILE *file)
{
    size_t n;
    const struct phx_audit_twins *twins = phx_audit_twins(audit, &n);
    for (size_t i = 0; i < n; i++)
        fprintf(file,
                "TWINS  layer %d: kv_head %d and kv_head %d have the same %s: gate %d cannot "
                "tell them apart\n",
                twins[i].layer, twins[i].a, twins[i].b, twins[i].values ? "values" : "keys",
                twins[i].values ? 5 : 4);
}

enum phx_status phx_audit_print(const struct phx_audit_view *view, FILE *file)
{
    const struct phx_audit_check *checks = phx_audit_checks(view->audit);
    int32_t prompt, all;
    phx_audit_lengths(view->audit, &prompt, &all);
    fprintf(file, "TEXTS  a prompt of %d tokens beside a decoy, then decoding: %d positions\n",
            prompt, all);
    if (view->brief) print_briefly(view, file);
    for (int32_t l = 0; l < view->config->n_layers && !view->brief; l++)
        if (view->layers[l]) print_layer(view, l, file);
    print_twins(view->audit, file);
    for (int gate = 1; gate <= 5; gate++)
        for (int i = 0; i < PHX_CHECK_COUNT; i++)
            if (checks[i].gate == gate) print_check(&checks[i], file);
    for (int i = 0; i < PHX_CHECK_COUNT; i++)
        if (checks[i].gate == 0) print_check(&checks[i], file);
    print_verdict(view, file);
    if (fflush(file) != 0 || ferror(file)) return phx_fail(PHX_IO, "cannot write the result");
    return PHX_OK;
}
