#include <math.h>

#include "launch/verbs/audit_output.h"

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *floats(const float *values, int n)
{
    json_t *array = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(array, number((double)values[i]));
    return array;
}

static json_t *head_json(const struct phx_audit_head *h)
{
    return json_pack(
        "{s:i, s:i, s:i, s:i, s:i, s:b, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:o, s:o, s:o}",
        "q_head", h->q_head, "kv_head", h->kv_head, "rank", h->rank, "local_q", h->local_q,
        "local_kv", h->local_kv, "ok", h->ok, "k_offset", (json_int_t)h->k_offset, "v_offset",
        (json_int_t)h->v_offset, "token_stride_bytes", (json_int_t)h->token_stride,
        "head_stride_bytes", (json_int_t)h->head_stride, "page_stride_bytes",
        (json_int_t)h->page_stride, "element_bytes", h->element_bytes, "block", h->block, "page",
        h->page, "k_first", floats(h->k, h->n_k), "v_first", floats(h->v, h->n_k), "scores_first",
        floats(h->scores, h->n_scores));
}

static json_t *layer_json(const struct phx_audit_view *v, int32_t layer)
{
    const struct phx_layer_shape *s = &v->config->layers[layer].shape;
    json_t *heads = json_array();
    for (int32_t q = 0; q < s->n_heads; q++) {
        struct phx_audit_head head;
        if (phx_audit_head(v->audit, layer, q, &head))
            json_array_append_new(heads, head_json(&head));
    }
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:o}", "layer", layer, "num_heads", s->n_heads,
                     "num_kv_heads", s->n_kv_heads, "head_dim", s->head_dim, "group_size",
                     s->n_heads / s->n_kv_heads, "heads", heads);
}

static json_t *check_json(const struct phx_audit_check *c)
{
    json_t *object =
        json_pack("{s:s, s:i, s:b, s:I, s:s}", "name", c->name, "gate", c->gate, "passed",
                  c->passed, "comparisons", (json_int_t)c->n, "formula", c->formula);
    json_object_set_new(object, "worst", number(c->worst));
    json_object_set_new(object, "seen", number(c->seen));
    if (c->passed) return object;
    const struct {
        const char *name;
        int32_t value;
    } place[] = {{"layer", c->place.layer},   {"rank", c->place.rank},
                 {"q_head", c->place.q_head}, {"kv_head", c->place.kv_head},
                 {"text", c->place.text},     {"position", c->place.position}};
    for (size_t i = 0; i < sizeof place / sizeof *place; i++)
        if (place[i].value >= 0)
            json_object_set_new(object, place[i].name, json_integer(place[i].value));
    json_object_set_new(object, "found", json_string(c->found));
    json_object_set_new(object, "look", json_string(c->look));
    return object;
}

static json_t *twins_json(const struct phx_audit *audit)
{
    size_t n;
    const struct phx_audit_twins *twins = phx_audit_twins(audit, &n);
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array,
                              json_pack("{s:i, s:[i, i], s:b}", "layer", twins[i].layer, "kv_heads",
                                        twins[i].a, twins[i].b, "values", twins[i].values));
    return array;
}

json_t *phx_audit_json(const struct phx_audit_view *view)
{
    const struct phx_audit_check *checks = phx_audit_checks(view->audit);
    const struct phx_audit_check *failure = phx_audit_first_failure(view->audit);
    json_t *layers = json_array(), *list = json_array();
    int32_t prompt, all;
    phx_audit_lengths(view->audit, &prompt, &all);
    for (int32_t l = 0; l < view->config->n_layers; l++)
        if (view->layers[l]) json_array_append_new(layers, layer_json(view, l));
    for (int i = 0; i < PHX_CHECK_COUNT; i++) json_array_append_new(list, check_json(&checks[i]));
    return json_pack("{s:b, s:s?, s:i, s:i, s:i, s:o, s:o, s:o}", "passed", failure == NULL,
                     "first_failure", failure == NULL ? NULL : failure->name, "ranks",
                     view->n_ranks, "prompt_tokens", prompt, "positions", all, "checks", list,
                     "twins", twins_json(view->audit), "layers", layers);
}
