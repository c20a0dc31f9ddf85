#include "runtime/template/list_filters.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/methods.h"

#define FILTER(name)                                                                               \
    static enum phx_status name(struct phx_run *run, const struct phx_tv *value,                   \
                                const struct phx_targs *args, struct phx_tv *out)

/* Of items to be compared: texts in lower case, unless `case_sensitive`. */
static enum phx_status comparable(struct phx_run *run, bool case_sensitive,
                                  const struct phx_tv *item, struct phx_tv *out)
{
    *out = *item;
    if (case_sensitive || item->type != PHX_TV_STRING) return PHX_OK;
    return phx_ttext_case(run, item->text, PHX_TCASE_LOWER, out);
}

/* item.a.0.b for the path "a.0.b"; an integer path is a subscript. */
static enum phx_status follow(struct phx_run *run, const struct phx_tv *item,
                              const struct phx_tv *path, struct phx_tv *out)
{
    *out = *item;
    if (path->type != PHX_TV_STRING) return phx_tv_item(run, item, path, out);
    for (struct phx_slice rest = path->text;;) {
        const char *dot = memchr(rest.data, '.', rest.n);
        struct phx_slice part = {rest.data, dot ? (size_t)(dot - rest.data) : rest.n};
        bool digits = part.n > 0 && part.n < 10;
        for (size_t i = 0; i < part.n; i++) digits &= part.data[i] >= '0' && part.data[i] <= '9';
        struct phx_tv from = *out, key = PHX_TV_OF_TEXT(part.data, part.n);
        if (digits) key = PHX_TV_OF_INT(strtoll(part.data, NULL, 10));
        PHX_TRY(phx_tv_item(run, &from, &key, out));
        if (!dot) return PHX_OK;
        rest = (struct phx_slice){dot + 1, rest.n - part.n - 1};
    }
}

static enum phx_status to_list(struct phx_run *run, const struct phx_tv *value, struct phx_tv *out)
{
    struct phx_tv_list *items;
    PHX_TRY(phx_tv_iterate(run, value, &items));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, items->n, out));
    if (items->n) memcpy(out->list->items, items->items, items->n * sizeof *items->items);
    return PHX_OK;
}

FILTER(list)
{
    PHX_TRY(phx_targs_bind(run, "list", args, "", 0, NULL));
    return to_list(run, value, out);
}

FILTER(first)
{
    struct phx_tv_list *items;
    PHX_TRY(phx_targs_bind(run, "first", args, "", 0, NULL));
    PHX_TRY(phx_tv_iterate(run, value, &items));
    *out = PHX_TV_OF_UNDEFINED("the first item of nothing");
    if (items->n) *out = items->items[0];
    return PHX_OK;
}

FILTER(last)
{
    struct phx_tv_list *items;
    PHX_TRY(phx_targs_bind(run, "last", args, "", 0, NULL));
    if (value->type == PHX_TV_LIST && value->list->kind == PHX_TV_GENERATOR) {
        return phx_run_fail(run, "'generator' object is not reversible");
    }
    PHX_TRY(phx_tv_iterate(run, value, &items));
    *out = PHX_TV_OF_UNDEFINED("the last item of nothing");
    if (items->n) *out = items->items[items->n - 1];
    return PHX_OK;
}

FILTER(join)
{
    struct phx_tv bound[2];
    struct phx_tv_list *items;
    size_t start = run->scratch.n;
    PHX_TRY(phx_targs_bind(run, "join", args, "d,attribute", 0, bound));
    PHX_TRY(phx_tv_iterate(run, value, &items));
    for (size_t i = 0; i < items->n; i++) {
        struct phx_tv item = items->items[i];
        if (bound[1].type != PHX_TV_MISSING && bound[1].type != PHX_TV_NONE) {
            PHX_TRY(follow(run, &items->items[i], &bound[1], &item));
        }
        if (i && bound[0].type != PHX_TV_MISSING) PHX_TRY(phx_tv_print(run, &bound[0], false));
        PHX_TRY(phx_tv_print(run, &item, false));
    }
    return phx_tv_take_scratch(run, start, out);
}

FILTER(reverse)
{
    PHX_TRY(phx_targs_bind(run, "reverse", args, "", 0, NULL));
    if (value->type == PHX_TV_STRING) {
        const struct phx_tv bounds[3] = {PHX_TV_OF_NONE, PHX_TV_OF_NONE, PHX_TV_OF_INT(-1)};
        return phx_tv_slice(run, value, bounds, out);
    }
    PHX_TRY(to_list(run, value, out));
    struct phx_tv_list *items = out->list;
    items->kind = PHX_TV_GENERATOR;
    for (size_t i = 0; i < items->n / 2; i++) {
        struct phx_tv item = items->items[i];
        items->items[i] = items->items[items->n - 1 - i];
        items->items[items->n - 1 - i] = item;
    }
    return PHX_OK;
}

/* Merge sort, which keeps the order of equals: list[from, to) by keys, with room beside. */
static enum phx_status sort_items(struct phx_run *run, struct phx_tv_entry *list,
                                  struct phx_tv_entry *room, size_t n, bool reverse)
{
    if (n < 2) return PHX_OK;
    size_t half = n / 2, a = 0, b = half;
    PHX_TRY(sort_items(run, list, room, half, reverse));
    PHX_TRY(sort_items(run, list + half, room, n - half, reverse));
    for (size_t i = 0; i < n; i++) {
        int order = 0;
        if (a < half && b < n) PHX_TRY(phx_tv_order(run, &list[a].key, &list[b].key, &order));
        if (reverse) order = -order;
        room[i] = b == n || (a < half && order <= 0) ? list[a++] : list[b++];
    }
    memcpy(list, room, n * sizeof *list);
    return PHX_OK;
}

/* The items of value by keys, which are those of an attribute if there is one. */
static enum phx_status keyed_items(struct phx_run *run, const struct phx_tv *value,
                                   const struct phx_tv *attribute, bool case_sensitive,
                                   struct phx_tv_entry **out, size_t *n)
{
    struct phx_tv_list *items;
    PHX_TRY(phx_tv_iterate(run, value, &items));
    PHX_TRY(phx_arena_take(&run->arena, 2 * items->n, sizeof **out, out));
    *n = items->n;
    for (size_t i = 0; i < items->n; i++) {
        struct phx_tv key = items->items[i];
        if (attribute->type != PHX_TV_MISSING && attribute->type != PHX_TV_NONE) {
            PHX_TRY(follow(run, &items->items[i], attribute, &key));
        }
        (*out)[i].value = items->items[i];
        PHX_TRY(comparable(run, case_sensitive, &key, &(*out)[i].key));
    }
    return PHX_OK;
}

FILTER(sort)
{
    struct phx_tv bound[3];
    struct phx_tv_entry *entries;
    size_t n;
    PHX_TRY(phx_targs_bind(run, "sort", args, "reverse,case_sensitive,attribute", 0, bound));
    if (bound[2].type == PHX_TV_STRING && memchr(bound[2].text.data, ',', bound[2].text.n)) {
        return phx_run_refuse(run, "sort: several attributes are not supported");
    }
    PHX_TRY(keyed_items(run, value, &bound[2], phx_tv_truth(&bound[1]), &entries, &n));
    PHX_TRY(sort_items(run, entries, entries + n, n, phx_tv_truth(&bound[0])));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, n, out));
    for (size_t i = 0; i < n; i++) out->list->items[i] = entries[i].value;
    return PHX_OK;
}

FILTER(unique)
{
    struct phx_tv bound[2], seen;
    struct phx_tv_entry *entries;
    size_t n, capacity = 0;
    PHX_TRY(phx_targs_bind(run, "unique", args, "case_sensitive,attribute", 0, bound));
    PHX_TRY(keyed_items(run, value, &bound[1], phx_tv_truth(&bound[0]), &entries, &n));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_GENERATOR, 0, out));
    PHX_TRY(phx_tv_new_dict(run, PHX_TV_DICT, &seen));
    for (size_t i = 0; i < n; i++) {
        const struct phx_tv *there;
        PHX_TRY(phx_tv_dict_get(run, seen.dict, &entries[i].key, &there));
        if (there) continue;
        PHX_TRY(phx_tv_dict_set(run, seen.dict, entries[i].key, PHX_TV_OF_NONE));
        PHX_TRY(phx_tlist_append(run, out, &capacity, entries[i].value));
    }
    return PHX_OK;
}

static enum phx_status extreme(struct phx_run *run, const char *name, const struct phx_tv *value,
                               const struct phx_targs *args, int sign, struct phx_tv *out)
{
    struct phx_tv bound[2];
    struct phx_tv_entry *entries;
    size_t n, best = 0;
    PHX_TRY(phx_targs_bind(run, name, args, "case_sensitive,attribute", 0, bound));
    PHX_TRY(keyed_items(run, value, &bound[1], phx_tv_truth(&bound[0]), &entries, &n));
    for (size_t i = 1; i < n; i++) {
        int order;
        PHX_TRY(phx_tv_order(run, &entries[i].key, &entries[best].key, &order));
        if (order * sign > 0) best = i;
    }
    *out = PHX_TV_OF_UNDEFINED("an item of nothing");
    if (n) *out = entries[best].value;
    return PHX_OK;
}

FILTER(largest)
{
    return extreme(run, "max", value, args, 1, out);
}

FILTER(smallest)
{
    return extreme(run, "min", value, args, -1, out);
}

FILTER(sum)
{
    struct phx_tv bound[2], total = PHX_TV_OF_INT(0);
    struct phx_tv_list *items;
    PHX_TRY(phx_targs_bind(run, "sum", args, "attribute,start", 0, bound));
    PHX_TRY(phx_tv_iterate(run, value, &items));
    if (bound[1].type != PHX_TV_MISSING) total = bound[1];
    for (size_t i = 0; i < items->n; i++) {
        struct phx_tv item = items->items[i], before = total;
        if (bound[0].type != PHX_TV_MISSING && bound[0].type != PHX_TV_NONE) {
            PHX_TRY(follow(run, &items->items[i], &bound[0], &item));
        }
        PHX_TRY(phx_tv_binary(run, 0, &before, &item, &total)); /* PHX_TOP_ADD */
    }
    *out = total;
    return PHX_OK;
}

static enum phx_status make_pair(struct phx_run *run, const struct phx_tv_entry *entry,
                                 struct phx_tv *out)
{
    PHX_TRY(phx_tv_new_list(run, PHX_TV_TUPLE, 2, out));
    out->list->items[0] = entry->key;
    out->list->items[1] = entry->value;
    return PHX_OK;
}

FILTER(items)
{
    PHX_TRY(phx_targs_bind(run, "items", args, "", 0, NULL));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_GENERATOR, 0, out));
    if (value->type == PHX_TV_UNDEFINED) return PHX_OK;
    if (value->type != PHX_TV_DICT)
        return phx_run_fail(run, "Can only get item pairs from a mapping.");
    PHX_TRY(phx_tv_new_list(run, PHX_TV_GENERATOR, value->dict->n, out));
    for (size_t i = 0; i < value->dict->n; i++) {
        PHX_TRY(make_pair(run, &value->dict->entries[i], &out->list->items[i]));
    }
    return PHX_OK;
}

FILTER(dict_sort)
{
    struct phx_tv bound[3];
    struct phx_slice by = {"key", 3};
    PHX_TRY(phx_targs_bind(run, "dictsort", args, "case_sensitive,by,reverse", 0, bound));
    PHX_TRY(phx_targ_text(run, &bound[1], &by));
    bool by_value = phx_slice_is(by, "value"), sensitive = phx_tv_truth(&bound[0]);
    if (!by_value && !phx_slice_is(by, "key")) {
        return phx_run_fail(run, "You can only sort by either \"key\" or \"value\"");
    }
    if (value->type != PHX_TV_DICT) {
        return phx_run_fail(run, "'%s' object has no items", phx_tv_type_name(value));
    }
    size_t n = value->dict->n;
    struct phx_tv_entry *entries;
    PHX_TRY(phx_arena_take(&run->arena, 2 * n, sizeof *entries, &entries));
    for (size_t i = 0; i < n; i++) {
        const struct phx_tv_entry *entry = &value->dict->entries[i];
        PHX_TRY(
            comparable(run, sensitive, by_value ? &entry->value : &entry->key, &entries[i].key));
        PHX_TRY(make_pair(run, entry, &entries[i].value));
    }
    PHX_TRY(sort_items(run, entries, entries + n, n, phx_tv_truth(&bound[2])));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, n, out));
    for (size_t i = 0; i < n; i++) out->list->items[i] = entries[i].value;
    return PHX_OK;
}

/* The name at args->items[at], and the arguments behind it. */
static enum phx_status take_name(struct phx_run *run, const struct phx_targs *args, size_t at,
                                 struct phx_slice *name, struct phx_targs *rest)
{
    PHX_TRY(phx_targ_text(run, &args->items[at], name));
    *rest = *args;
    rest->items += at + 1;
    rest->n -= at + 1;
    return PHX_OK;
}

FILTER(map)
{
    struct phx_tv bound[2], result;
    struct phx_tv_list *items;
    struct phx_targs rest;
    struct phx_slice name = {0};
    const struct phx_tfilter *filter = NULL;
    if (args->n) {
        PHX_TRY(take_name(run, args, 0, &name, &rest));
        filter = phx_tfilter_find(name);
        if (!filter) {
            return phx_run_refuse(run, "there is no filter '%.*s'", (int)name.n, name.data);
        }
    } else {
        PHX_TRY(phx_targs_bind(run, "map", args, "attribute,default", 1, bound));
    }
    PHX_TRY(phx_tv_iterate(run, value, &items));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_GENERATOR, items->n, &result));
    for (size_t i = 0; i < items->n; i++) {
        struct phx_tv *to = &result.list->items[i];
        if (filter) {
            PHX_TRY(phx_run_charge(run, 1, 0));
            PHX_TRY(filter->function(run, &items->items[i], &rest, to));
            continue;
        }
        PHX_TRY(follow(run, &items->items[i], &bound[0], to));
        bool missing = to->type == PHX_TV_UNDEFINED && bound[1].type != PHX_TV_MISSING;
        if (missing) *to = bound[1];
    }
    *out = result;
    return PHX_OK;
}

/* select, reject, and of an attribute: the items whose test's result is `wanted`. */
static enum phx_status choose(struct phx_run *run, const struct phx_tv *value,
                              const struct phx_targs *args, bool by_attribute, bool wanted,
                              struct phx_tv *out)
{
    struct phx_tv_list *items;
    struct phx_targs rest = *args;
    struct phx_slice name = {0};
    const struct phx_ttest *test = NULL;
    size_t at = by_attribute, capacity = 0;
    if (args->n < at) return phx_run_fail(run, "Missing parameter for attribute name");
    if (args->n > at) {
        PHX_TRY(take_name(run, args, at, &name, &rest));
        test = phx_ttest_find(name);
        if (!test) return phx_run_refuse(run, "there is no test '%.*s'", (int)name.n, name.data);
    }
    PHX_TRY(phx_tv_iterate(run, value, &items));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_GENERATOR, 0, out));
    for (size_t i = 0; i < items->n; i++) {
        struct phx_tv item = items->items[i];
        if (by_attribute) PHX_TRY(follow(run, &items->items[i], &args->items[0], &item));
        bool holds = phx_tv_truth(&item);
        if (test) PHX_TRY(phx_ttest_run(run, test, &item, &rest, &holds));
        if (holds == wanted) PHX_TRY(phx_tlist_append(run, out, &capacity, items->items[i]));
        PHX_TRY(phx_run_charge(run, 1, 0));
    }
    return PHX_OK;
}

FILTER(select_items)
{
    return choose(run, value, args, false, true, out);
}

FILTER(reject_items)
{
    return choose(run, value, args, false, false, out);
}

FILTER(select_attribute)
{
    return choose(run, value, args, true, true, out);
}

FILTER(reject_attribute)
{
    return choose(run, value, args, true, false, out);
}

FILTER(attribute)
{
    struct phx_tv name;
    struct phx_slice text = {0};
    PHX_TRY(phx_targs_bind(run, "attr", args, "name", 1, &name));
    PHX_TRY(phx_targ_text(run, &name, &text));
    if (value->type == PHX_TV_DICT && !phx_tmethod_find(value, text)) {
        *out = (struct phx_tv){.type = PHX_TV_UNDEFINED, .text = text}; /* no items */
        return PHX_OK;
    }
    return phx_tv_attribute(run, value, text, out);
}

FILTER(batch)
{
    struct phx_tv bound[2], row;
    struct phx_tv_list *all;
    int64_t per_row = 0;
    size_t capacity = 0, row_capacity = 0;
    PHX_TRY(phx_targs_bind(run, "batch", args, "linecount,fill_with", 1, bound));
    PHX_TRY(phx_targ_int(run, &bound[0], &per_row));
    if (per_row < 1) return phx_run_refuse(run, "batch: %lld is not supported", (long long)per_row);
    PHX_TRY(phx_tv_iterate(run, value, &all));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_GENERATOR, 0, out));
    for (size_t i = 0; i < all->n; i++) {
        if ((int64_t)i % per_row == 0) {
            row_capacity = 0;
            PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, 0, &row));
            PHX_TRY(phx_tlist_append(run, out, &capacity, row));
        }
        PHX_TRY(phx_tlist_append(run, &row, &row_capacity, all->items[i]));
    }
    bool fills = all->n && bound[1].type != PHX_TV_MISSING && bound[1].type != PHX_TV_NONE;
    while (fills && (int64_t)row.list->n < per_row) {
        PHX_TRY(phx_tlist_append(run, &row, &row_capacity, bound[1]));
    }
    return PHX_OK;
}

const struct phx_tfilter phx_tlist_filters[] = {
    {"attr", attribute},
    {"batch", batch},
    {"dictsort", dict_sort},
    {"first", first},
    {"items", items},
    {"join", join},
    {"last", last},
    {"list", list},
    {"map", map},
    {"max", largest},
    {"min", smallest},
    {"reject", reject_items},
    {"rejectattr", reject_attribute},
    {"reverse", reverse},
    {"select", select_items},
    {"selectattr", select_attribute},
    {"sort", sort},
    {"sum", sum},
    {"unique", unique},
};
const size_t phx_tlist_n_filters = sizeof phx_tlist_filters / sizeof *phx_tlist_filters;
