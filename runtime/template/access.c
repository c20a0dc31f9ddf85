/* Attributes, subscripts, slices and arguments. */
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/filters.h"
#include "runtime/tokenizer/unicode.h"

static enum phx_status undefined(struct phx_slice what, struct phx_tv *out)
{
    *out = (struct phx_tv){.type = PHX_TV_UNDEFINED, .text = what};
    return PHX_OK;
}

static enum phx_status bind_method(struct phx_run *run, const struct phx_tv *self,
                                   const struct phx_tfilter *method, struct phx_tv *out)
{
    *out = (struct phx_tv){.type = PHX_TV_CALLABLE};
    PHX_TRY(phx_arena_take(&run->arena, 1, sizeof *out->callable, &out->callable));
    out->callable->builtin = method;
    out->callable->self = *self;
    return PHX_OK;
}

/* The depth is that of recursive loops, which are not supported. */
static bool loop_value(const struct phx_tv_loop *loop, struct phx_slice name, struct phx_tv *out)
{
    int64_t at = (int64_t)loop->at, n = (int64_t)loop->list->n;
    const struct {
        const char *name;
        struct phx_tv value;
    } values[] = {
        {"index", PHX_TV_OF_INT(at + 1)},    {"index0", PHX_TV_OF_INT(at)},
        {"revindex", PHX_TV_OF_INT(n - at)}, {"revindex0", PHX_TV_OF_INT(n - at - 1)},
        {"first", PHX_TV_OF_BOOL(at == 0)},  {"last", PHX_TV_OF_BOOL(at + 1 == n)},
        {"length", PHX_TV_OF_INT(n)},        {"depth", PHX_TV_OF_INT(1)},
        {"depth0", PHX_TV_OF_INT(0)},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (!phx_slice_is(name, values[i].name)) continue;
        *out = values[i].value;
        return true;
    }
    bool previous = phx_slice_is(name, "previtem");
    if (!previous && !phx_slice_is(name, "nextitem")) return false;
    int64_t neighbour = previous ? at - 1 : at + 1;
    *out = PHX_TV_OF_UNDEFINED("there is no previous item");
    if (!previous) *out = PHX_TV_OF_UNDEFINED("there is no next item");
    if (neighbour >= 0 && neighbour < n) *out = loop->list->items[neighbour];
    return true;
}

static enum phx_status fail_on_undefined(struct phx_run *run, const struct phx_tv *value)
{
    return phx_run_fail(run, "'%.*s' is undefined", (int)value->text.n, value->text.data);
}

static enum phx_status dict_entry(struct phx_run *run, const struct phx_tv *value,
                                  const struct phx_tv *key, bool *found, struct phx_tv *out)
{
    const struct phx_tv *there;
    PHX_TRY(phx_tv_dict_get(run, value->dict, key, &there));
    *found = there != NULL;
    if (there) *out = *there;
    return PHX_OK;
}

enum phx_status phx_tv_attribute(struct phx_run *run, const struct phx_tv *value,
                                 struct phx_slice name, struct phx_tv *out)
{
    bool found = false;
    struct phx_tv key = PHX_TV_OF_TEXT(name.data, name.n);
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    if (value->type == PHX_TV_NAMESPACE) {
        PHX_TRY(dict_entry(run, value, &key, &found, out));
        return found ? PHX_OK : undefined(name, out);
    }
    if (value->type == PHX_TV_LOOP && loop_value(value->loop, name, out)) return PHX_OK;
    const struct phx_tfilter *method = phx_tmethod_find(value, name);
    if (method) return bind_method(run, value, method, out);
    if (value->type == PHX_TV_DICT) PHX_TRY(dict_entry(run, value, &key, &found, out));
    return found ? PHX_OK : undefined(name, out);
}

/* The bytes of the character at a place; false: there is none. */
static bool character_at(struct phx_slice text, int64_t place, struct phx_slice *out)
{
    size_t at = 0;
    for (; at < text.n && place > 0; place--) at += phx_utf8_bytes(text.data + at);
    if (at >= text.n) return false;
    *out = (struct phx_slice){text.data + at, phx_utf8_bytes(text.data + at)};
    return true;
}

/* An element by its place. */
static enum phx_status element(struct phx_run *run, const struct phx_tv *value, int64_t place,
                               bool *found, struct phx_tv *out)
{
    int64_t n;
    PHX_TRY(phx_tv_length(run, value, &n));
    if (place < 0) place += n;
    *found = place >= 0 && place < n;
    if (!*found) return PHX_OK;
    if (value->type == PHX_TV_LIST) {
        *out = value->list->items[place];
    } else {
        *out = PHX_TV_OF_TEXT("", 0);
        *found = character_at(value->text, place, &out->text);
    }
    return PHX_OK;
}

enum phx_status phx_tv_item(struct phx_run *run, const struct phx_tv *value,
                            const struct phx_tv *key, struct phx_tv *out)
{
    static const struct phx_slice nothing = {"an item that is not there", 25};
    bool found = false, whole = key->type == PHX_TV_INT || key->type == PHX_TV_BOOL;
    bool sequence = value->type == PHX_TV_STRING ||
                    (value->type == PHX_TV_LIST && value->list->kind < PHX_TV_VIEW);
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    if (value->type == PHX_TV_DICT) PHX_TRY(dict_entry(run, value, key, &found, out));
    if (sequence && whole) {
        int64_t place = key->type == PHX_TV_INT ? key->integer : key->truth;
        PHX_TRY(element(run, value, place, &found, out));
    }
    if (found) return PHX_OK;
    if (key->type != PHX_TV_STRING) return undefined(nothing, out);
    const struct phx_tfilter *method = phx_tmethod_find(value, key->text);
    if (method) return bind_method(run, value, method, out);
    if (value->type == PHX_TV_NAMESPACE || value->type == PHX_TV_LOOP) {
        return phx_tv_attribute(run, value, key->text, out);
    }
    return undefined(key->text, out);
}

static enum phx_status slice_bound(struct phx_run *run, const struct phx_tv *bound, int64_t n,
                                   int64_t missing, int64_t least, int64_t most, int64_t *out)
{
    *out = missing;
    if (bound->type == PHX_TV_NONE) return PHX_OK;
    if (bound->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, bound);
    if (bound->type != PHX_TV_INT && bound->type != PHX_TV_BOOL) {
        return phx_run_fail(run, "slice indices must be integers or None, not %s",
                            phx_tv_type_name(bound));
    }
    *out = bound->type == PHX_TV_INT ? bound->integer : bound->truth;
    if (*out < 0) *out += n;
    if (*out < least) *out = least;
    if (*out > most) *out = most;
    return PHX_OK;
}

static enum phx_status slice_text(struct phx_run *run, struct phx_slice text, int64_t start,
                                  int64_t step, int64_t n, struct phx_tv *out)
{
    size_t from = run->scratch.n;
    if (step == 1) { /* no copy */
        size_t at = 0, begin;
        for (int64_t i = 0; i < start; i++) at += phx_utf8_bytes(text.data + at);
        begin = at;
        for (int64_t i = 0; i < n; i++) at += phx_utf8_bytes(text.data + at);
        *out = PHX_TV_OF_TEXT(text.data + begin, at - begin);
        return phx_run_charge(run, 0, at);
    }
    struct phx_tv whole = PHX_TV_OF_TEXT(text.data, text.n);
    struct phx_tv_list *characters;
    PHX_TRY(phx_tv_iterate(run, &whole, &characters));
    for (int64_t i = 0; i < n; i++) {
        PHX_TRY(phx_tv_print(run, &characters->items[start + i * step], false));
    }
    return phx_tv_take_scratch(run, from, out);
}

enum phx_status phx_tv_slice(struct phx_run *run, const struct phx_tv *value,
                             const struct phx_tv bounds[3], struct phx_tv *out)
{
    bool list = value->type == PHX_TV_LIST && value->list->kind < PHX_TV_VIEW;
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    if (!list && value->type != PHX_TV_STRING) {
        static const struct phx_slice what = {"a slice", 7}; /* as Jinja makes of the TypeError */
        return undefined(what, out);
    }
    int64_t length, start, stop, step = 1;
    PHX_TRY(phx_tv_length(run, value, &length));
    PHX_TRY(slice_bound(run, &bounds[2], 0, 1, -INT32_MAX, INT32_MAX, &step));
    if (step == 0) return phx_run_fail(run, "slice step cannot be zero");
    if (step > 0) {
        PHX_TRY(slice_bound(run, &bounds[0], length, 0, 0, length, &start));
        PHX_TRY(slice_bound(run, &bounds[1], length, length, 0, length, &stop));
    } else {
        PHX_TRY(slice_bound(run, &bounds[0], length, length - 1, -1, length - 1, &start));
        PHX_TRY(slice_bound(run, &bounds[1], length, -1, -1, length - 1, &stop));
    }
    int64_t n = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
    if (n < 0) n = 0;
    if (!list) return slice_text(run, value->text, start, step, n, out);
    PHX_TRY(phx_tv_new_list(run, value->list->kind, (size_t)n, out));
    for (int64_t i = 0; i < n; i++) {
        out->list->items[i] = value->list->items[start + i * step];
    }
    return PHX_OK;
}

static size_t name_length(const char *names)
{
    return strcspn(names, ",");
}

enum phx_status phx_targs_bind(struct phx_run *run, const char *what, const struct phx_targs *args,
                               const char *names, size_t n_required, struct phx_tv *out)
{
    size_t at = 0, n_named = 0;
    for (const char *name = names; *name; at++) {
        size_t n = name_length(name);
        out[at] = (struct phx_tv){.type = PHX_TV_MISSING};
        if (at < args->n) out[at] = args->items[at];
        for (size_t i = 0; i < args->n_named; i++) {
            const struct phx_targ *named = &args->named[i];
            if (named->name.n != n || memcmp(named->name.data, name, n) != 0) continue;
            if (at < args->n) return phx_run_fail(run, "%s: an argument is given twice", what);
            out[at] = named->value;
            n_named++;
        }
        if (out[at].type == PHX_TV_MISSING && at < n_required) {
            return phx_run_fail(run, "%s: the argument '%.*s' is missing", what, (int)n, name);
        }
        name += n + (name[n] == ',');
    }
    if (args->n > at || n_named < args->n_named) {
        return phx_run_fail(run, "%s: it takes no such arguments, only %s", what,
                            *names ? names : "none");
    }
    return PHX_OK;
}

enum phx_status phx_targ_int(struct phx_run *run, const struct phx_tv *value, int64_t *out)
{
    if (value->type == PHX_TV_MISSING) return PHX_OK;
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    if (value->type != PHX_TV_INT && value->type != PHX_TV_BOOL) {
        return phx_run_fail(run, "an integer is expected, not '%s'", phx_tv_type_name(value));
    }
    *out = value->type == PHX_TV_INT ? value->integer : value->truth;
    return PHX_OK;
}

enum phx_status phx_targ_text(struct phx_run *run, const struct phx_tv *value,
                              struct phx_slice *out)
{
    if (value->type == PHX_TV_MISSING) return PHX_OK;
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    if (value->type != PHX_TV_STRING) {
        return phx_run_fail(run, "a string is expected, not '%s'", phx_tv_type_name(value));
    }
    *out = value->text;
    return PHX_OK;
}
