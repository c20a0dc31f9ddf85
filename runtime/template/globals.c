/* Global functions, and the methods of what is no text. */
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "runtime/template/filters.h"
#include "runtime/template/methods.h"

#define FUNCTION(name)                                                                             \
    static enum phx_status name(struct phx_run *run, const struct phx_tv *self,                    \
                                const struct phx_targs *args, struct phx_tv *out)

enum { MAX_RANGE = 100000 }; /* of the sandbox */

FUNCTION(raise_exception)
{
    struct phx_tv bound;
    struct phx_slice message;
    (void)self;
    (void)out;
    PHX_TRY(phx_targs_bind(run, "raise_exception", args, "message", 1, &bound));
    PHX_TRY(phx_tv_text(run, &bound, &message));
    return phx_run_fail(run, "%.*s", (int)(message.n < 800 ? message.n : 800), message.data);
}

FUNCTION(strftime_now)
{
    struct phx_tv bound;
    struct phx_slice format = {0};
    char pattern[128], text[512];
    struct tm local;
    (void)self;
    PHX_TRY(phx_targs_bind(run, "strftime_now", args, "format", 1, &bound));
    PHX_TRY(phx_targ_text(run, &bound, &format));
    if (format.n >= sizeof pattern || memchr(format.data, 0, format.n)) {
        return phx_run_refuse(run, "strftime_now: the format is too long");
    }
    memcpy(pattern, format.data, format.n);
    pattern[format.n] = '\0';
    localtime_r(&run->now, &local);
    size_t n = format.n ? strftime(text, sizeof text, pattern, &local) : 0;
    return phx_tv_new_text(run, text, n, out);
}

FUNCTION(range)
{
    int64_t start = 0, stop = 0, step = 1;
    (void)self;
    if (args->n_named || args->n < 1 || args->n > 3) {
        return phx_run_fail(run, "range expects 1 to 3 arguments");
    }
    PHX_TRY(phx_targ_int(run, &args->items[0], args->n > 1 ? &start : &stop));
    if (args->n > 1) PHX_TRY(phx_targ_int(run, &args->items[1], &stop));
    if (args->n > 2) PHX_TRY(phx_targ_int(run, &args->items[2], &step));
    if (step == 0) return phx_run_fail(run, "range() arg 3 must not be zero");
    /* Without sign, so that nothing overflows. */
    uint64_t n = 0, distance = (uint64_t)stop - (uint64_t)start;
    if (step > 0 && stop > start) n = (distance - 1) / (uint64_t)step + 1;
    if (step < 0 && stop < start) n = (-distance - 1) / -(uint64_t)step + 1;
    if (n > MAX_RANGE) {
        return phx_run_fail(run, "Range too big. The sandbox blocks ranges larger than %d.",
                            MAX_RANGE);
    }
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, n, out));
    for (uint64_t i = 0; i < n; i++) {
        out->list->items[i] = PHX_TV_OF_INT((int64_t)((uint64_t)start + i * (uint64_t)step));
    }
    out->list->kind = PHX_TV_VIEW; /* no list to print or to add to */
    return PHX_OK;
}

/* dict() and namespace(): of one dict and named arguments. */
static enum phx_status collect(struct phx_run *run, const char *name, const struct phx_targs *args,
                               enum phx_tv_type type, struct phx_tv *out)
{
    PHX_TRY(phx_tv_new_dict(run, type, out));
    if (args->n > 1 || (args->n && args->items[0].type != PHX_TV_DICT)) {
        return phx_run_refuse(run, "%s: it takes one dict and named arguments", name);
    }
    for (size_t i = 0; args->n && i < args->items[0].dict->n; i++) {
        const struct phx_tv_entry *entry = &args->items[0].dict->entries[i];
        PHX_TRY(phx_tv_dict_set(run, out->dict, entry->key, entry->value));
    }
    for (size_t i = 0; i < args->n_named; i++) {
        const struct phx_targ *named = &args->named[i];
        PHX_TRY(phx_tv_dict_set(run, out->dict, PHX_TV_OF_TEXT(named->name.data, named->name.n),
                                named->value));
    }
    return PHX_OK;
}

FUNCTION(dict)
{
    (void)self;
    return collect(run, "dict", args, PHX_TV_DICT, out);
}

FUNCTION(namespace)
{
    (void)self;
    return collect(run, "namespace", args, PHX_TV_NAMESPACE, out);
}

static const struct phx_tfilter globals[] = {
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
    {"range", range},
    {"dict", dict},
    {"namespace", namespace},
};

enum dict_part { KEYS, VALUES, PAIRS };

static enum phx_status view(struct phx_run *run, const char *name, const struct phx_tv *self,
                            const struct phx_targs *args, enum dict_part part, struct phx_tv *out)
{
    PHX_TRY(phx_targs_bind(run, name, args, "", 0, NULL));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_VIEW, self->dict->n, out));
    for (size_t i = 0; i < self->dict->n; i++) {
        const struct phx_tv_entry *entry = &self->dict->entries[i];
        struct phx_tv *item = &out->list->items[i];
        *item = part == KEYS ? entry->key : entry->value;
        if (part != PAIRS) continue;
        PHX_TRY(phx_tv_new_list(run, PHX_TV_TUPLE, 2, item));
        item->list->items[0] = entry->key;
        item->list->items[1] = entry->value;
    }
    return PHX_OK;
}

FUNCTION(dict_keys)
{
    return view(run, "keys", self, args, KEYS, out);
}

FUNCTION(dict_values)
{
    return view(run, "values", self, args, VALUES, out);
}

FUNCTION(dict_items)
{
    return view(run, "items", self, args, PAIRS, out);
}

FUNCTION(dict_get)
{
    struct phx_tv bound[2];
    const struct phx_tv *there;
    PHX_TRY(phx_targs_bind(run, "get", args, "key,default", 1, bound));
    PHX_TRY(phx_tv_dict_get(run, self->dict, &bound[0], &there));
    *out = there ? *there : bound[1].type == PHX_TV_MISSING ? PHX_TV_OF_NONE : bound[1];
    return PHX_OK;
}

FUNCTION(dict_copy)
{
    PHX_TRY(phx_targs_bind(run, "copy", args, "", 0, NULL));
    *out = *self; /* nothing can change it */
    return PHX_OK;
}

/* The environment is immutable. */
FUNCTION(refuse_change)
{
    (void)args;
    (void)out;
    return phx_run_fail(run, "a method that changes a '%s' is not safe and cannot be called",
                        phx_tv_type_name(self));
}

static const struct phx_tfilter dict_methods[] = {
    {"keys", dict_keys},       {"values", dict_values},    {"items", dict_items},
    {"get", dict_get},         {"copy", dict_copy},        {"clear", refuse_change},
    {"pop", refuse_change},    {"popitem", refuse_change}, {"setdefault", refuse_change},
    {"update", refuse_change},
};

FUNCTION(list_index)
{
    struct phx_tv bound;
    PHX_TRY(phx_targs_bind(run, "index", args, "value", 1, &bound));
    for (size_t i = 0; i < self->list->n; i++) {
        bool equal;
        PHX_TRY(phx_tv_equal(run, &self->list->items[i], &bound, &equal));
        if (!equal) continue;
        *out = PHX_TV_OF_INT((int64_t)i);
        return PHX_OK;
    }
    return phx_run_fail(run, "the value is not in the list");
}

FUNCTION(list_count)
{
    struct phx_tv bound;
    int64_t n = 0;
    PHX_TRY(phx_targs_bind(run, "count", args, "value", 1, &bound));
    for (size_t i = 0; i < self->list->n; i++) {
        bool equal;
        PHX_TRY(phx_tv_equal(run, &self->list->items[i], &bound, &equal));
        n += equal;
    }
    *out = PHX_TV_OF_INT(n);
    return PHX_OK;
}

static const struct phx_tfilter list_methods[] = {
    {"index", list_index},    {"count", list_count},     {"append", refuse_change},
    {"clear", refuse_change}, {"extend", refuse_change}, {"insert", refuse_change},
    {"pop", refuse_change},   {"remove", refuse_change}, {"reverse", refuse_change},
    {"sort", refuse_change},
};

FUNCTION(loop_cycle)
{
    if (args->n_named || !args->n) return phx_run_fail(run, "no items for cycling given");
    *out = args->items[self->loop->at % args->n];
    return PHX_OK;
}

FUNCTION(loop_changed)
{
    struct phx_tv values;
    bool equal = false;
    if (args->n_named) return phx_run_fail(run, "changed: it takes no named arguments");
    PHX_TRY(phx_tv_new_list(run, PHX_TV_TUPLE, args->n, &values));
    if (args->n) memcpy(values.list->items, args->items, args->n * sizeof *args->items);
    if (self->loop->changed.type == PHX_TV_LIST) {
        PHX_TRY(phx_tv_equal(run, &values, &self->loop->changed, &equal));
    }
    self->loop->changed = values;
    *out = PHX_TV_OF_BOOL(!equal);
    return PHX_OK;
}

static const struct phx_tfilter loop_methods[] = {
    {"cycle", loop_cycle},
    {"changed", loop_changed},
};

static const struct phx_tfilter *find(const struct phx_tfilter *table, size_t n,
                                      struct phx_slice name)
{
    for (size_t i = 0; i < n; i++) {
        if (phx_slice_is(name, table[i].name)) return &table[i];
    }
    return NULL;
}

#define FIND(table, name) find(table, sizeof(table) / sizeof *(table), name)

const struct phx_tfilter *phx_tglobal_find(struct phx_slice name)
{
    return FIND(globals, name);
}

const struct phx_tfilter *phx_tmethod_find(const struct phx_tv *value, struct phx_slice name)
{
    switch (value->type) {
    case PHX_TV_STRING:
        return find(phx_ttext_methods, phx_ttext_n_methods, name);
    case PHX_TV_DICT:
        return FIND(dict_methods, name);
    case PHX_TV_LIST:
        return value->list->kind == PHX_TV_PLAIN   ? FIND(list_methods, name)
               : value->list->kind == PHX_TV_TUPLE ? find(list_methods, 2, name)
                                                   : NULL;
    case PHX_TV_LOOP:
        return FIND(loop_methods, name);
    default:
        return NULL;
    }
}
