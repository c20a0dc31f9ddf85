/// \file filters.h
/// Jinja's filters, tests, global functions, and Python's methods of strings and dicts.
#ifndef PHX_RUNTIME_TEMPLATE_FILTERS_H
#define PHX_RUNTIME_TEMPLATE_FILTERS_H

#include "runtime/template/value.h"

/// Arguments of a call.
struct phx_targs {
    struct phx_tv *items; ///< [n] by place
    size_t n;
    struct phx_targ {
        struct phx_slice name;
        struct phx_tv value;
    } * named; ///< [n_named]
    size_t n_named;
};

/// A function of a value: a filter, a method.
typedef enum phx_status (*phx_tfunction)(struct phx_run *run, const struct phx_tv *value,
                                         const struct phx_targs *args, struct phx_tv *out);

struct phx_tfilter {
    const char *name;
    phx_tfunction function;
};

/// NULL if there is none.
const struct phx_tfilter *phx_tfilter_find(struct phx_slice name);

struct phx_ttest {
    const char *name;
    int n_args; ///< beside the value
    enum phx_status (*function)(struct phx_run *run, const struct phx_tv *value,
                                const struct phx_tv *arg, bool *out);
};

const struct phx_ttest *phx_ttest_find(struct phx_slice name);
enum phx_status phx_ttest_run(struct phx_run *run, const struct phx_ttest *test,
                              const struct phx_tv *value, const struct phx_targs *args, bool *out);

/// A method of a value of this type, or a global function; NULL if there is none.
const struct phx_tfilter *phx_tmethod_find(const struct phx_tv *value, struct phx_slice name);
const struct phx_tfilter *phx_tglobal_find(struct phx_slice name);

/// Distribute arguments over `names` (with commas between): out[i] is that of the i-th name, or of
/// type PHX_TV_MISSING. A failure if one of the first `n_required` is missing, or one is too many.
enum phx_status phx_targs_bind(struct phx_run *run, const char *what, const struct phx_targs *args,
                               const char *names, size_t n_required, struct phx_tv *out);
/// Values of arguments that must have a type; a missing one leaves *out as it is.
enum phx_status phx_targ_int(struct phx_run *run, const struct phx_tv *value, int64_t *out);
enum phx_status phx_targ_text(struct phx_run *run, const struct phx_tv *value,
                              struct phx_slice *out);

/// value.name and value[key], as Jinja looks them up; an undefined value if there is nothing.
enum phx_status phx_tv_attribute(struct phx_run *run, const struct phx_tv *value,
                                 struct phx_slice name, struct phx_tv *out);
enum phx_status phx_tv_item(struct phx_run *run, const struct phx_tv *value,
                            const struct phx_tv *key, struct phx_tv *out);
/// Of text or list; a bound is none where it is missing.
enum phx_status phx_tv_slice(struct phx_run *run, const struct phx_tv *value,
                             const struct phx_tv bounds[3], struct phx_tv *out);
enum phx_status phx_tv_binary(struct phx_run *run, int op, const struct phx_tv *a,
                              const struct phx_tv *b, struct phx_tv *out);
/// `op` is an enum phx_top of a comparison.
enum phx_status phx_tv_compare(struct phx_run *run, int op, const struct phx_tv *a,
                               const struct phx_tv *b, bool *out);
/// "..." % b
enum phx_status phx_tv_format(struct phx_run *run, struct phx_slice format,
                              const struct phx_tv *values, size_t n, struct phx_tv *out);

/// Something that can be called; defined where it is called.
struct phx_callable {
    const struct phx_tfilter *builtin; ///< NULL: a macro
    struct phx_tv self;                ///< of a method
    const struct phx_tnode *macro;     ///< its name, arguments and body
    struct phx_scope *scope;           ///< where it was defined
};

#endif
