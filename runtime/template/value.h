/// \file value.h
/// What a template computes with: Python's values, as far as templates meet them.
#ifndef PHX_RUNTIME_TEMPLATE_VALUE_H
#define PHX_RUNTIME_TEMPLATE_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/template/arena.h"
#include "runtime/tokenizer/buffer.h"

enum phx_tv_type {
    PHX_TV_MISSING, ///< an argument that was not given
    PHX_TV_UNDEFINED,
    PHX_TV_NONE,
    PHX_TV_BOOL,
    PHX_TV_INT,
    PHX_TV_FLOAT,
    PHX_TV_STRING,
    PHX_TV_LIST,
    PHX_TV_DICT,
    PHX_TV_NAMESPACE,
    PHX_TV_CALLABLE,
    PHX_TV_LOOP,
};

struct phx_tv {
    enum phx_tv_type type;
    union {
        bool truth;
        int64_t integer;
        double real;
        struct phx_slice text; ///< a string; of an undefined value: what is undefined
        struct phx_tv_list *list;
        struct phx_tv_dict *dict; ///< also of a namespace
        struct phx_callable *callable;
        struct phx_tv_loop *loop;
    };
};

enum phx_tv_list_kind {
    PHX_TV_PLAIN,
    PHX_TV_TUPLE,
    PHX_TV_VIEW,      ///< range(), keys(), values(), items(): no subscripts
    PHX_TV_GENERATOR, ///< map, select, ...: to be gone through once
};

struct phx_tv_list {
    enum phx_tv_list_kind kind;
    bool consumed; ///< a generator that was gone through
    size_t n;
    struct phx_tv *items;
};

struct phx_tv_entry {
    struct phx_tv key, value;
};

/// In the order in which keys came.
struct phx_tv_dict {
    size_t n, capacity;
    struct phx_tv_entry *entries;
};

/// What `loop` is in a for block.
struct phx_tv_loop {
    const struct phx_tv_list *list;
    size_t at;
    struct phx_tv changed; ///< what changed() saw last
};

/// A rendering under way.
struct phx_run {
    const char *file; ///< for messages
    int line;         ///< what is being evaluated
    struct phx_arena arena;
    int64_t steps_left;
    int depth;
    time_t now;
    struct phx_bytes scratch; ///< for texts that are being made
};

#define PHX_TV_OF_BOOL(b) ((struct phx_tv){.type = PHX_TV_BOOL, .truth = (b)})
#define PHX_TV_OF_INT(i) ((struct phx_tv){.type = PHX_TV_INT, .integer = (i)})
#define PHX_TV_OF_FLOAT(r) ((struct phx_tv){.type = PHX_TV_FLOAT, .real = (r)})
#define PHX_TV_OF_TEXT(data, n) ((struct phx_tv){.type = PHX_TV_STRING, .text = {(data), (n)}})
#define PHX_TV_OF_NONE ((struct phx_tv){.type = PHX_TV_NONE})
#define PHX_TV_OF_UNDEFINED(what)                                                                  \
    ((struct phx_tv){.type = PHX_TV_UNDEFINED, .text = {(what), sizeof(what) - 1}})

/// Record a failure with file and line before the sentence; PHX_USAGE.
enum phx_status phx_run_fail(const struct phx_run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/// The same for what the subset does not have; PHX_UNSUPPORTED.
enum phx_status phx_run_refuse(const struct phx_run *run, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/// Count work; PHX_UNSUPPORTED when there has been too much.
enum phx_status phx_run_charge(struct phx_run *run, size_t items, size_t bytes);

/// "str", "list", ...: how Python calls the type of a value.
const char *phx_tv_type_name(const struct phx_tv *value);
bool phx_slice_is(struct phx_slice text, const char *wanted);

/// Texts are not copied: the JSON must stay.
enum phx_status phx_tv_from_json(struct phx_run *run, const json_t *json, struct phx_tv *out);
enum phx_status phx_tv_new_list(struct phx_run *run, enum phx_tv_list_kind kind, size_t n,
                                struct phx_tv *out);
enum phx_status phx_tv_new_dict(struct phx_run *run, enum phx_tv_type type, struct phx_tv *out);
/// A copy of the text.
enum phx_status phx_tv_new_text(struct phx_run *run, const char *data, size_t n,
                                struct phx_tv *out);
/// Of run->scratch from `start` on, which is taken off it.
enum phx_status phx_tv_take_scratch(struct phx_run *run, size_t start, struct phx_tv *out);
/// A key that is there keeps its place.
enum phx_status phx_tv_dict_set(struct phx_run *run, struct phx_tv_dict *dict, struct phx_tv key,
                                struct phx_tv value);
/// *out is NULL if there is no such key.
enum phx_status phx_tv_dict_get(struct phx_run *run, const struct phx_tv_dict *dict,
                                const struct phx_tv *key, const struct phx_tv **out);

bool phx_tv_truth(const struct phx_tv *value);
bool phx_tv_is_number(const struct phx_tv *value); ///< also a truth value
double phx_tv_real(const struct phx_tv *number);
enum phx_status phx_tv_equal(struct phx_run *run, const struct phx_tv *a, const struct phx_tv *b,
                             bool *out);
/// -1, 0 or 1; a failure for what Python does not order.
enum phx_status phx_tv_order(struct phx_run *run, const struct phx_tv *a, const struct phx_tv *b,
                             int *out);
/// The items that a for loop goes through.
enum phx_status phx_tv_iterate(struct phx_run *run, const struct phx_tv *value,
                               struct phx_tv_list **out);
/// len(): characters, items.
enum phx_status phx_tv_length(struct phx_run *run, const struct phx_tv *value, int64_t *out);
size_t phx_tv_characters(struct phx_slice text);

/// Append str() or repr() of a value to run->scratch.
enum phx_status phx_tv_print(struct phx_run *run, const struct phx_tv *value, bool repr);
/// str() of a value; a string is itself.
enum phx_status phx_tv_text(struct phx_run *run, const struct phx_tv *value, struct phx_slice *out);

struct phx_tjson_style {
    bool ascii, sort;
    bool lines;              ///< there is an indent
    struct phx_slice indent; ///< one level's
    struct phx_slice comma, colon;
};
/// Append json.dumps() of a value to run->scratch.
enum phx_status phx_tv_dump(struct phx_run *run, const struct phx_tv *value,
                            const struct phx_tjson_style *style, int level);

#endif
