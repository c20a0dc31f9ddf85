/* Values as text: str(), repr() and json.dumps(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/template.h"
#include "runtime/template/text.h"
#include "runtime/template/value.h"

static enum phx_status put(struct phx_run *run, const char *data, size_t n)
{
    PHX_TRY(phx_run_charge(run, 0, n));
    if (run->scratch.n + n > PHX_TEMPLATE_MEMORY_BYTES) {
        return phx_run_refuse(run, "the template makes a text of more than %d bytes",
                              PHX_TEMPLATE_MEMORY_BYTES);
    }
    return phx_bytes_append(&run->scratch, data, n);
}

static enum phx_status put_text(struct phx_run *run, const char *text)
{
    return put(run, text, strlen(text));
}

static enum phx_status enter(struct phx_run *run)
{
    PHX_TRY(phx_run_charge(run, 1, 0));
    if (++run->depth <= PHX_TEMPLATE_DEPTH) return PHX_OK;
    return phx_run_refuse(run, "values are nested more than %d deep", PHX_TEMPLATE_DEPTH);
}

static enum phx_status print_list(struct phx_run *run, const struct phx_tv_list *list)
{
    bool tuple = list->kind == PHX_TV_TUPLE;
    PHX_TRY(put_text(run, tuple ? "(" : "["));
    for (size_t i = 0; i < list->n; i++) {
        if (i) PHX_TRY(put_text(run, ", "));
        PHX_TRY(phx_tv_print(run, &list->items[i], true));
    }
    return put_text(run, !tuple ? "]" : list->n == 1 ? ",)" : ")");
}

static enum phx_status print_dict(struct phx_run *run, const struct phx_tv_dict *dict)
{
    PHX_TRY(put_text(run, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i) PHX_TRY(put_text(run, ", "));
        PHX_TRY(phx_tv_print(run, &dict->entries[i].key, true));
        PHX_TRY(put_text(run, ": "));
        PHX_TRY(phx_tv_print(run, &dict->entries[i].value, true));
    }
    return put_text(run, "}");
}

static enum phx_status print_value(struct phx_run *run, const struct phx_tv *value, bool repr)
{
    char text[32];
    switch (value->type) {
    case PHX_TV_MISSING:
    case PHX_TV_UNDEFINED:
        return repr ? put_text(run, "Undefined") : PHX_OK;
    case PHX_TV_NONE:
        return put_text(run, "None");
    case PHX_TV_BOOL:
        return put_text(run, value->truth ? "True" : "False");
    case PHX_TV_INT:
        return put(run, text,
                   (size_t)snprintf(text, sizeof text, "%lld", (long long)value->integer));
    case PHX_TV_FLOAT:
        return put(run, text, phx_tfloat_text(value->real, text));
    case PHX_TV_STRING:
        if (!repr) return put(run, value->text.data, value->text.n);
        PHX_TRY(phx_run_charge(run, 0, value->text.n));
        return phx_trepr_put(value->text.data, value->text.n, &run->scratch);
    case PHX_TV_LIST:
        if (value->list->kind < PHX_TV_VIEW) return print_list(run, value->list);
        break;
    case PHX_TV_DICT:
        return print_dict(run, value->dict);
    case PHX_TV_NAMESPACE:
    case PHX_TV_CALLABLE:
    case PHX_TV_LOOP:
        break;
    }
    return phx_run_refuse(run, "a value of type '%s' is written as text, which is not supported",
                          phx_tv_type_name(value));
}

enum phx_status phx_tv_print(struct phx_run *run, const struct phx_tv *value, bool repr)
{
    PHX_TRY(enter(run));
    PHX_TRY(print_value(run, value, repr));
    run->depth--;
    return PHX_OK;
}

enum phx_status phx_tv_text(struct phx_run *run, const struct phx_tv *value, struct phx_slice *out)
{
    struct phx_tv text = *value;
    if (value->type != PHX_TV_STRING) {
        size_t start = run->scratch.n;
        PHX_TRY(phx_tv_print(run, value, false));
        PHX_TRY(phx_tv_take_scratch(run, start, &text));
    }
    *out = text.text;
    return PHX_OK;
}

static enum phx_status new_line(struct phx_run *run, const struct phx_tjson_style *style, int level)
{
    if (!style->lines) return PHX_OK;
    PHX_TRY(put_text(run, "\n"));
    for (int i = 0; i < level; i++) PHX_TRY(put(run, style->indent.data, style->indent.n));
    return PHX_OK;
}

static enum phx_status dump_float(struct phx_run *run, double value)
{
    char text[32];
    if (isnan(value)) return put_text(run, "NaN");
    if (isinf(value)) return put_text(run, value < 0 ? "-Infinity" : "Infinity");
    return put(run, text, phx_tfloat_text(value, text));
}

static enum phx_status dump_list(struct phx_run *run, const struct phx_tv_list *list,
                                 const struct phx_tjson_style *style, int level)
{
    if (list->n == 0) return put_text(run, "[]");
    PHX_TRY(put_text(run, "["));
    for (size_t i = 0; i < list->n; i++) {
        if (i) PHX_TRY(put(run, style->comma.data, style->comma.n));
        PHX_TRY(new_line(run, style, level + 1));
        PHX_TRY(phx_tv_dump(run, &list->items[i], style, level + 1));
    }
    PHX_TRY(new_line(run, style, level));
    return put_text(run, "]");
}

static enum phx_status dump_key(struct phx_run *run, const struct phx_tv *key,
                                const struct phx_tjson_style *style)
{
    if (key->type == PHX_TV_STRING) return phx_tv_dump(run, key, style, 0);
    if (key->type != PHX_TV_NONE && !phx_tv_is_number(key)) {
        return phx_run_fail(run, "keys must be str, int, float, bool or None, not %s",
                            phx_tv_type_name(key));
    }
    PHX_TRY(put_text(run, "\""));
    PHX_TRY(phx_tv_dump(run, key, style, 0));
    return put_text(run, "\"");
}

/* The entries in the order in which they are written. */
static enum phx_status sorted_entries(struct phx_run *run, const struct phx_tv_dict *dict,
                                      bool sort, struct phx_tv_entry **out)
{
    *out = dict->entries;
    if (!sort) return PHX_OK;
    PHX_TRY(phx_arena_take(&run->arena, dict->n, sizeof **out, out));
    for (size_t i = 0; i < dict->n; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            int order;
            PHX_TRY(phx_tv_order(run, &(*out)[at - 1].key, &dict->entries[i].key, &order));
            if (order <= 0) break;
            (*out)[at] = (*out)[at - 1];
        }
        (*out)[at] = dict->entries[i];
    }
    return PHX_OK;
}

static enum phx_status dump_dict(struct phx_run *run, const struct phx_tv_dict *dict,
                                 const struct phx_tjson_style *style, int level)
{
    struct phx_tv_entry *entries;
    if (dict->n == 0) return put_text(run, "{}");
    PHX_TRY(sorted_entries(run, dict, style->sort, &entries));
    PHX_TRY(put_text(run, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i) PHX_TRY(put(run, style->comma.data, style->comma.n));
        PHX_TRY(new_line(run, style, level + 1));
        PHX_TRY(dump_key(run, &entries[i].key, style));
        PHX_TRY(put(run, style->colon.data, style->colon.n));
        PHX_TRY(phx_tv_dump(run, &entries[i].value, style, level + 1));
    }
    PHX_TRY(new_line(run, style, level));
    return put_text(run, "}");
}

static enum phx_status dump_value(struct phx_run *run, const struct phx_tv *value,
                                  const struct phx_tjson_style *style, int level)
{
    switch (value->type) {
    case PHX_TV_NONE:
        return put_text(run, "null");
    case PHX_TV_BOOL:
        return put_text(run, value->truth ? "true" : "false");
    case PHX_TV_INT:
        return phx_tv_print(run, value, false);
    case PHX_TV_FLOAT:
        return dump_float(run, value->real);
    case PHX_TV_STRING:
        PHX_TRY(phx_run_charge(run, 0, value->text.n));
        return phx_tjson_put(value->text.data, value->text.n, style->ascii, &run->scratch);
    case PHX_TV_LIST:
        if (value->list->kind < PHX_TV_VIEW) return dump_list(run, value->list, style, level);
        break;
    case PHX_TV_DICT:
        return dump_dict(run, value->dict, style, level);
    default:
        break;
    }
    return phx_run_fail(run, "Object of type %s is not JSON serializable", phx_tv_type_name(value));
}

enum phx_status phx_tv_dump(struct phx_run *run, const struct phx_tv *value,
                            const struct phx_tjson_style *style, int level)
{
    PHX_TRY(enter(run));
    PHX_TRY(dump_value(run, value, style, level));
    run->depth--;
    return PHX_OK;
}
