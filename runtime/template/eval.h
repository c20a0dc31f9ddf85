/// \file eval.h
/// Evaluating a template's nodes.
#ifndef PHX_RUNTIME_TEMPLATE_EVAL_H
#define PHX_RUNTIME_TEMPLATE_EVAL_H

#include "runtime/template/ast.h"
#include "runtime/template/filters.h"

/// Names of a place, innermost first.
struct phx_scope {
    struct phx_scope *parent;
    struct phx_name *names;
};

/// What a block's end means to what is around it.
enum phx_tjump { PHX_TJUMP_NONE, PHX_TJUMP_BREAK, PHX_TJUMP_CONTINUE };

enum phx_status phx_scope_new(struct phx_run *run, struct phx_scope *parent,
                              struct phx_scope **out);
enum phx_status phx_scope_set(struct phx_run *run, struct phx_scope *scope, struct phx_slice name,
                              struct phx_tv value);

enum phx_status phx_teval(struct phx_run *run, struct phx_scope *scope,
                          const struct phx_tnode *node, struct phx_tv *out);
/// A chain of filters on the text of a block.
enum phx_status phx_teval_filters(struct phx_run *run, struct phx_scope *scope,
                                  const struct phx_tnode *filters, struct phx_tv *value);
/// Call with the arguments of `node`, a call, and with `caller` unless it is NULL.
enum phx_status phx_teval_call(struct phx_run *run, struct phx_scope *scope,
                               const struct phx_tnode *node, const struct phx_tv *caller,
                               struct phx_tv *out);
/// Run statements; text goes to run->scratch.
enum phx_status phx_trun_body(struct phx_run *run, struct phx_scope *scope,
                              const struct phx_tnode *body, enum phx_tjump *jump);
/// Call a macro; its text.
enum phx_status phx_trun_macro(struct phx_run *run, const struct phx_callable *callable,
                               const struct phx_targs *args, const struct phx_tv *caller,
                               struct phx_tv *out);
/// Count nested evaluations up; the caller counts run->depth down.
enum phx_status phx_trun_enter(struct phx_run *run);

#endif
