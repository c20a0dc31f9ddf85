#include "runtime/template/methods.h"

#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/unicode.h"

enum phx_status phx_tlist_append(struct phx_run *run, struct phx_tv *list, size_t *capacity,
                                 struct phx_tv item)
{
    struct phx_tv_list *l = list->list;
    if (l->n == *capacity) {
        struct phx_tv *grown;
        PHX_TRY(phx_run_charge(run, l->n + 4, 0));
        PHX_TRY(phx_arena_take(&run->arena, 2 * l->n + 4, sizeof *grown, &grown));
        if (l->n) memcpy(grown, l->items, l->n * sizeof *grown);
        l->items = grown;
        *capacity = 2 * l->n + 4;
    }
    l->items[l->n++] = item;
    return PHX_OK;
}

static bool set_holds(struct phx_slice set, const char *data, size_t n)
{
    return phx_bytes_find(set.data, set.n, data, n) != NULL;
}

enum phx_status phx_ttext_strip(struct phx_run *run, struct phx_slice text,
                                const struct phx_tv *set, int sides, struct phx_tv *out)
{
    struct phx_slice characters = {0};
    bool space = set->type == PHX_TV_MISSING || set->type == PHX_TV_NONE;
    PHX_TRY(phx_run_charge(run, 0, text.n));
    if (!space) PHX_TRY(phx_targ_text(run, set, &characters));
    size_t start = 0, end = text.n;
    while (sides & PHX_TSIDE_LEFT && start < end) {
        size_t n = phx_utf8_bytes(text.data + start);
        bool goes = space ? phx_tspace_is(phx_utf8_get(text.data + start))
                          : set_holds(characters, text.data + start, n);
        if (!goes) break;
        start += n;
    }
    while (sides & PHX_TSIDE_RIGHT && start < end) {
        size_t last = end - 1;
        while ((text.data[last] & 0xc0) == 0x80) last--;
        bool goes = space ? phx_tspace_is(phx_utf8_get(text.data + last))
                          : set_holds(characters, text.data + last, end - last);
        if (!goes) break;
        end = last;
    }
    *out = PHX_TV_OF_TEXT(text.data + start, end - start);
    return PHX_OK;
}

enum phx_status phx_ttext_case(struct phx_run *run, struct phx_slice text, enum phx_tcase to,
                               struct phx_tv *out)
{
    size_t start = run->scratch.n;
    bool after_cased = false; /* for title case: within a word */
    PHX_TRY(phx_run_charge(run, text.n / 4, 0));
    for (size_t at = 0; at < text.n; at += phx_utf8_bytes(text.data + at)) {
        uint32_t code = phx_utf8_get(text.data + at);
        bool lower = to == PHX_TCASE_TITLE && after_cased;
        PHX_TRY(phx_tcase_put(lower ? PHX_TCASE_LOWER : to, code, &run->scratch));
        after_cased = phx_tcase_is_upper(code) || phx_tcase_is_lower(code);
    }
    return phx_tv_take_scratch(run, start, out);
}

enum phx_status phx_ttext_capitalize(struct phx_run *run, struct phx_slice text,
                                     enum phx_tcase first, struct phx_tv *out)
{
    size_t start = run->scratch.n;
    PHX_TRY(phx_run_charge(run, text.n / 4, 0));
    for (size_t at = 0; at < text.n; at += phx_utf8_bytes(text.data + at)) {
        PHX_TRY(phx_tcase_put(at ? PHX_TCASE_LOWER : first, phx_utf8_get(text.data + at),
                              &run->scratch));
    }
    return phx_tv_take_scratch(run, start, out);
}

static enum phx_status put(struct phx_run *run, const char *data, size_t n)
{
    struct phx_tv text = PHX_TV_OF_TEXT(data, n);
    return phx_tv_print(run, &text, false);
}

enum phx_status phx_ttext_replace(struct phx_run *run, struct phx_slice text, struct phx_slice old,
                                  struct phx_slice new_text, int64_t most, struct phx_tv *out)
{
    size_t start = run->scratch.n, at = 0;
    for (int64_t i = 0; i != most && at <= text.n; i++) {
        size_t end = at;
        if (old.n == 0) { /* between all characters */
            if (i > 0 && at < text.n) end += phx_utf8_bytes(text.data + at);
            if (i > 0 && at == text.n) break;
        } else {
            const char *hit = phx_bytes_find(text.data + at, text.n - at, old.data, old.n);
            if (!hit) break;
            end = (size_t)(hit - text.data);
        }
        PHX_TRY(put(run, text.data + at, end - at));
        PHX_TRY(put(run, new_text.data, new_text.n));
        at = end + old.n;
    }
    PHX_TRY(put(run, text.data + at, text.n - at));
    return phx_tv_take_scratch(run, start, out);
}

enum phx_status phx_ttext_pad(struct phx_run *run, struct phx_slice text, int64_t left,
                              int64_t right, struct phx_slice fill, struct phx_tv *out)
{
    size_t start = run->scratch.n;
    if (phx_tv_characters(fill) != 1) {
        return phx_run_fail(run, "the fill character must be exactly one character long");
    }
    for (int64_t i = 0; i < left; i++) PHX_TRY(put(run, fill.data, fill.n));
    PHX_TRY(put(run, text.data, text.n));
    for (int64_t i = 0; i < right; i++) PHX_TRY(put(run, fill.data, fill.n));
    return phx_tv_take_scratch(run, start, out);
}

static bool ends_line(uint32_t code)
{
    return (code >= '\n' && code <= '\r') || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

enum phx_status phx_ttext_lines(struct phx_run *run, struct phx_slice text, bool keeps_ends,
                                struct phx_tv *out)
{
    size_t start = 0, capacity = 0;
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, 0, out));
    PHX_TRY(phx_run_charge(run, 0, text.n));
    for (size_t at = 0, bytes; at < text.n; at += bytes) {
        bytes = phx_utf8_bytes(text.data + at);
        if (!ends_line(phx_utf8_get(text.data + at))) continue;
        size_t end = at;
        if (text.data[at] == '\r' && at + 1 < text.n && text.data[at + 1] == '\n') bytes++;
        if (keeps_ends) end += bytes;
        PHX_TRY(
            phx_tlist_append(run, out, &capacity, PHX_TV_OF_TEXT(text.data + start, end - start)));
        start = at + bytes;
    }
    if (start == text.n) return PHX_OK;
    return phx_tlist_append(run, out, &capacity, PHX_TV_OF_TEXT(text.data + start, text.n - start));
}

#define METHOD(name)                                                                               \
    static enum phx_status name(struct phx_run *run, const struct phx_tv *self,                    \
                                const struct phx_targs *args, struct phx_tv *out)

#define STRIP_METHOD(name, sides)                                                                  \
    METHOD(name)                                                                                   \
    {                                                                                              \
        struct phx_tv set;                                                                         \
        PHX_TRY(phx_targs_bind(run, #name, args, "chars", 0, &set));                               \
        return phx_ttext_strip(run, self->text, &set, sides, out);                                 \
    }
STRIP_METHOD(strip, PHX_TSIDE_LEFT | PHX_TSIDE_RIGHT)
STRIP_METHOD(lstrip, PHX_TSIDE_LEFT)
STRIP_METHOD(rstrip, PHX_TSIDE_RIGHT)

#define CASE_METHOD(name, call)                                                                    \
    METHOD(name)                                                                                   \
    {                                                                                              \
        PHX_TRY(phx_targs_bind(run, #name, args, "", 0, NULL));                                    \
        return call;                                                                               \
    }
CASE_METHOD(upper, phx_ttext_case(run, self->text, PHX_TCASE_UPPER, out))
CASE_METHOD(lower, phx_ttext_case(run, self->text, PHX_TCASE_LOWER, out))
CASE_METHOD(title, phx_ttext_case(run, self->text, PHX_TCASE_TITLE, out))
CASE_METHOD(capitalize, phx_ttext_capitalize(run, self->text, PHX_TCASE_TITLE, out))

METHOD(replace)
{
    struct phx_tv bound[3];
    struct phx_slice old = {0}, new_text = {0};
    int64_t most = -1;
    PHX_TRY(phx_targs_bind(run, "replace", args, "old,new,count", 2, bound));
    PHX_TRY(phx_targ_text(run, &bound[0], &old));
    PHX_TRY(phx_targ_text(run, &bound[1], &new_text));
    PHX_TRY(phx_targ_int(run, &bound[2], &most));
    return phx_ttext_replace(run, self->text, old, new_text, most, out);
}

/* Words between white space, from the left. */
static enum phx_status split_words(struct phx_run *run, struct phx_slice text, int64_t most,
                                   struct phx_tv *out)
{
    size_t at = 0, capacity = 0;
    for (int64_t i = 0;; i++) {
        at += phx_utf8_before(phx_tspace_is, text.data + at, text.n - at);
        if (at == text.n) return PHX_OK;
        size_t end = at;
        if (i == most) {
            end = text.n;
            return phx_tlist_append(run, out, &capacity, PHX_TV_OF_TEXT(text.data + at, end - at));
        }
        while (end < text.n && !phx_tspace_is(phx_utf8_get(text.data + end))) {
            end += phx_utf8_bytes(text.data + end);
        }
        PHX_TRY(phx_tlist_append(run, out, &capacity, PHX_TV_OF_TEXT(text.data + at, end - at)));
        at = end;
    }
}

METHOD(split)
{
    struct phx_tv bound[2];
    struct phx_slice separator = {0}, text = self->text;
    int64_t most = -1;
    size_t at = 0, capacity = 0;
    PHX_TRY(phx_targs_bind(run, "split", args, "sep,maxsplit", 0, bound));
    PHX_TRY(phx_targ_int(run, &bound[1], &most));
    PHX_TRY(phx_run_charge(run, 0, text.n));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, 0, out));
    if (bound[0].type == PHX_TV_MISSING || bound[0].type == PHX_TV_NONE) {
        return split_words(run, text, most, out);
    }
    PHX_TRY(phx_targ_text(run, &bound[0], &separator));
    if (separator.n == 0) return phx_run_fail(run, "split: empty separator");
    for (int64_t i = 0; i != most; i++) {
        const char *hit = phx_bytes_find(text.data + at, text.n - at, separator.data, separator.n);
        if (!hit) break;
        PHX_TRY(phx_tlist_append(run, out, &capacity,
                                 PHX_TV_OF_TEXT(text.data + at, (size_t)(hit - text.data) - at)));
        at = (size_t)(hit - text.data) + separator.n;
    }
    return phx_tlist_append(run, out, &capacity, PHX_TV_OF_TEXT(text.data + at, text.n - at));
}

/* The last place where `wanted` stands before `end`; -1 if there is none. */
static ptrdiff_t find_last(struct phx_slice text, size_t end, struct phx_slice wanted)
{
    for (size_t at = end; wanted.n <= end && at-- > 0;) {
        if (at + wanted.n <= end && memcmp(text.data + at, wanted.data, wanted.n) == 0) {
            return (ptrdiff_t)at;
        }
    }
    return -1;
}

METHOD(rsplit)
{
    struct phx_tv bound[2], item;
    struct phx_slice separator = {0}, text = self->text;
    int64_t most = -1;
    size_t end = text.n, capacity = 0;
    PHX_TRY(phx_targs_bind(run, "rsplit", args, "sep,maxsplit", 1, bound));
    PHX_TRY(phx_targ_text(run, &bound[0], &separator));
    PHX_TRY(phx_targ_int(run, &bound[1], &most));
    PHX_TRY(phx_run_charge(run, 0, text.n * (1 + separator.n)));
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, 0, out));
    if (separator.n == 0) return phx_run_fail(run, "rsplit: empty separator");
    for (int64_t i = 0; i != most; i++) {
        ptrdiff_t hit = find_last(text, end, separator);
        if (hit < 0) break;
        size_t from = (size_t)hit + separator.n;
        PHX_TRY(
            phx_tlist_append(run, out, &capacity, PHX_TV_OF_TEXT(text.data + from, end - from)));
        end = (size_t)hit;
    }
    PHX_TRY(phx_tlist_append(run, out, &capacity, PHX_TV_OF_TEXT(text.data, end)));
    for (size_t i = 0, j = out->list->n - 1; i < j; i++, j--) { /* found from the right */
        item = out->list->items[i];
        out->list->items[i] = out->list->items[j];
        out->list->items[j] = item;
    }
    return PHX_OK;
}

METHOD(splitlines)
{
    struct phx_tv keeps;
    PHX_TRY(phx_targs_bind(run, "splitlines", args, "keepends", 0, &keeps));
    return phx_ttext_lines(run, self->text, phx_tv_truth(&keeps), out);
}

METHOD(join)
{
    struct phx_tv bound;
    struct phx_tv_list *items;
    size_t start = run->scratch.n;
    PHX_TRY(phx_targs_bind(run, "join", args, "iterable", 1, &bound));
    PHX_TRY(phx_tv_iterate(run, &bound, &items));
    for (size_t i = 0; i < items->n; i++) {
        if (items->items[i].type != PHX_TV_STRING) {
            return phx_run_fail(run, "sequence item %zu: expected str instance, %s found", i,
                                phx_tv_type_name(&items->items[i]));
        }
        if (i) PHX_TRY(phx_tv_print(run, self, false));
        PHX_TRY(phx_tv_print(run, &items->items[i], false));
    }
    return phx_tv_take_scratch(run, start, out);
}

static bool has_end(struct phx_slice text, struct phx_slice wanted, bool at_start)
{
    return wanted.n <= text.n &&
           memcmp(at_start ? text.data : text.data + text.n - wanted.n, wanted.data, wanted.n) == 0;
}

static enum phx_status test_end(struct phx_run *run, const char *name, const struct phx_tv *self,
                                const struct phx_targs *args, bool at_start, struct phx_tv *out)
{
    struct phx_tv bound;
    struct phx_slice wanted = {0};
    bool found = false;
    PHX_TRY(phx_targs_bind(run, name, args, "prefix", 1, &bound));
    if (bound.type == PHX_TV_LIST && bound.list->kind == PHX_TV_TUPLE) {
        for (size_t i = 0; i < bound.list->n; i++) {
            PHX_TRY(phx_targ_text(run, &bound.list->items[i], &wanted));
            found |= has_end(self->text, wanted, at_start);
        }
    } else {
        PHX_TRY(phx_targ_text(run, &bound, &wanted));
        found = has_end(self->text, wanted, at_start);
    }
    *out = PHX_TV_OF_BOOL(found);
    return phx_run_charge(run, 0, wanted.n);
}

METHOD(startswith)
{
    return test_end(run, "startswith", self, args, true, out);
}

METHOD(endswith)
{
    return test_end(run, "endswith", self, args, false, out);
}

static enum phx_status remove_end(struct phx_run *run, const char *name, const struct phx_tv *self,
                                  const struct phx_targs *args, bool at_start, struct phx_tv *out)
{
    struct phx_tv bound;
    struct phx_slice end = {0}, text = self->text;
    PHX_TRY(phx_targs_bind(run, name, args, "text", 1, &bound));
    PHX_TRY(phx_targ_text(run, &bound, &end));
    if (has_end(text, end, at_start)) {
        text.n -= end.n;
        if (at_start) text.data += end.n;
    }
    *out = PHX_TV_OF_TEXT(text.data, text.n);
    return PHX_OK;
}

METHOD(removeprefix)
{
    return remove_end(run, "removeprefix", self, args, true, out);
}

METHOD(removesuffix)
{
    return remove_end(run, "removesuffix", self, args, false, out);
}

static enum phx_status find_text(struct phx_run *run, const char *name, const struct phx_tv *self,
                                 const struct phx_targs *args, bool last, struct phx_tv *out)
{
    struct phx_tv bound;
    struct phx_slice wanted = {0}, text = self->text;
    PHX_TRY(phx_targs_bind(run, name, args, "sub", 1, &bound));
    PHX_TRY(phx_targ_text(run, &bound, &wanted));
    PHX_TRY(phx_run_charge(run, 0, text.n * (last ? 1 + wanted.n : 1)));
    ptrdiff_t at = last ? (ptrdiff_t)text.n : 0;
    if (wanted.n && last) {
        at = find_last(text, text.n, wanted);
    } else if (wanted.n) {
        const char *hit = phx_bytes_find(text.data, text.n, wanted.data, wanted.n);
        at = hit ? hit - text.data : -1;
    }
    struct phx_slice before = {text.data, at < 0 ? 0 : (size_t)at};
    *out = PHX_TV_OF_INT(at < 0 ? -1 : (int64_t)phx_tv_characters(before));
    return PHX_OK;
}

METHOD(find)
{
    return find_text(run, "find", self, args, false, out);
}

METHOD(rfind)
{
    return find_text(run, "rfind", self, args, true, out);
}

METHOD(count)
{
    struct phx_tv bound;
    struct phx_slice wanted = {0}, text = self->text;
    int64_t n = 0;
    PHX_TRY(phx_targs_bind(run, "count", args, "sub", 1, &bound));
    PHX_TRY(phx_targ_text(run, &bound, &wanted));
    PHX_TRY(phx_run_charge(run, 0, text.n));
    if (wanted.n == 0) n = (int64_t)phx_tv_characters(text) + 1;
    for (size_t at = 0; wanted.n;) {
        const char *hit = phx_bytes_find(text.data + at, text.n - at, wanted.data, wanted.n);
        if (!hit) break;
        at = (size_t)(hit - text.data) + wanted.n;
        n++;
    }
    *out = PHX_TV_OF_INT(n);
    return PHX_OK;
}

/* True if the text is not empty and all characters are of a kind. */
static enum phx_status test_all(struct phx_run *run, const char *name, const struct phx_tv *self,
                                const struct phx_targs *args, bool (*is)(uint32_t code),
                                struct phx_tv *out)
{
    struct phx_slice text = self->text;
    bool all = text.n > 0;
    PHX_TRY(phx_targs_bind(run, name, args, "", 0, NULL));
    PHX_TRY(phx_run_charge(run, 0, text.n));
    for (size_t at = 0; all && at < text.n; at += phx_utf8_bytes(text.data + at)) {
        all = is(phx_utf8_get(text.data + at));
    }
    *out = PHX_TV_OF_BOOL(all);
    return PHX_OK;
}

static bool is_letter_or_digit(uint32_t code)
{
    return phx_tcase_is_letter(code) || phx_tcase_is_decimal(code);
}

METHOD(all_letters)
{
    return test_all(run, "isalpha", self, args, phx_tcase_is_letter, out);
}

METHOD(all_digits)
{
    return test_all(run, "isdigit", self, args, phx_tcase_is_decimal, out);
}

METHOD(all_letters_or_digits)
{
    return test_all(run, "isalnum", self, args, is_letter_or_digit, out);
}

METHOD(all_spaces)
{
    return test_all(run, "isspace", self, args, phx_tspace_is, out);
}

static enum phx_status justify(struct phx_run *run, const char *name, const struct phx_tv *self,
                               const struct phx_targs *args, int sides, struct phx_tv *out)
{
    struct phx_tv bound[2];
    struct phx_slice fill = {" ", 1};
    int64_t width = 0;
    PHX_TRY(phx_targs_bind(run, name, args, "width,fillchar", 1, bound));
    PHX_TRY(phx_targ_int(run, &bound[0], &width));
    PHX_TRY(phx_targ_text(run, &bound[1], &fill));
    int64_t missing = width - (int64_t)phx_tv_characters(self->text);
    if (missing < 0) missing = 0;
    int64_t left = sides == PHX_TSIDE_LEFT ? missing : 0;
    if (sides == (PHX_TSIDE_LEFT | PHX_TSIDE_RIGHT)) left = missing / 2 + (missing & width & 1);
    return phx_ttext_pad(run, self->text, left, missing - left, fill, out);
}

METHOD(ljust)
{
    return justify(run, "ljust", self, args, PHX_TSIDE_RIGHT, out);
}

METHOD(rjust)
{
    return justify(run, "rjust", self, args, PHX_TSIDE_LEFT, out);
}

METHOD(center)
{
    return justify(run, "center", self, args, PHX_TSIDE_LEFT | PHX_TSIDE_RIGHT, out);
}

const struct phx_tfilter phx_ttext_methods[] = {
    {"strip", strip},
    {"lstrip", lstrip},
    {"rstrip", rstrip},
    {"upper", upper},
    {"lower", lower},
    {"title", title},
    {"capitalize", capitalize},
    {"replace", replace},
    {"split", split},
    {"rsplit", rsplit},
    {"splitlines", splitlines},
    {"join", join},
    {"startswith", startswith},
    {"endswith", endswith},
    {"find", find},
    {"rfind", rfind},
    {"count", count},
    {"isalpha", all_letters},
    {"isdigit", all_digits},
    {"isalnum", all_letters_or_digits},
    {"isspace", all_spaces},
    {"ljust", ljust},
    {"rjust", rjust},
    {"center", center},
    {"removeprefix", removeprefix},
    {"removesuffix", removesuffix},
};
const size_t phx_ttext_n_methods = sizeof phx_ttext_methods / sizeof *phx_ttext_methods;
