#include "runtime/template/eval.h"

#include <math.h>
#include <string.h>

#include "kernels/base/check.h"

struct phx_name {
    struct phx_slice name;
    struct phx_tv value;
    struct phx_name *next;
};

enum phx_status phx_scope_new(struct phx_run *run, struct phx_scope *parent, struct phx_scope **out)
{
    PHX_TRY(phx_arena_take(&run->arena, 1, sizeof **out, out));
    (*out)->parent = parent;
    return PHX_OK;
}

static struct phx_name *find_here(struct phx_scope *scope, struct phx_slice name)
{
    struct phx_name *entry = scope->names;
    while (entry && (entry->name.n != name.n || memcmp(entry->name.data, name.data, name.n) != 0)) {
        entry = entry->next;
    }
    return entry;
}

enum phx_status phx_scope_set(struct phx_run *run, struct phx_scope *scope, struct phx_slice name,
                              struct phx_tv value)
{
    struct phx_name *entry = find_here(scope, name);
    if (!entry) {
        PHX_TRY(phx_arena_take(&run->arena, 1, sizeof *entry, &entry));
        entry->name = name;
        entry->next = scope->names;
        scope->names = entry;
    }
    entry->value = value;
    return PHX_OK;
}

enum phx_status phx_trun_enter(struct phx_run *run)
{
    PHX_TRY(phx_run_charge(run, 1, 0));
    if (++run->depth <= PHX_TEMPLATE_DEPTH) return PHX_OK;
    return phx_run_refuse(run, "blocks, expressions and calls are nested more than %d deep",
                          PHX_TEMPLATE_DEPTH);
}

static enum phx_status eval_name(struct phx_run *run, struct phx_scope *scope,
                                 struct phx_slice name, struct phx_tv *out)
{
    for (; scope; scope = scope->parent) {
        const struct phx_name *entry = find_here(scope, name);
        PHX_TRY(phx_run_charge(run, 1, 0));
        if (!entry) continue;
        *out = entry->value;
        return PHX_OK;
    }
    const struct phx_tfilter *global = phx_tglobal_find(name);
    *out = (struct phx_tv){.type = PHX_TV_UNDEFINED, .text = name};
    if (!global) return PHX_OK;
    out->type = PHX_TV_CALLABLE;
    PHX_TRY(phx_arena_take(&run->arena, 1, sizeof *out->callable, &out->callable));
    out->callable->builtin = global;
    return PHX_OK;
}

static size_t count(const struct phx_tnode *list)
{
    size_t n = 0;
    for (; list; list = list->next) n++;
    return n;
}

static enum phx_status eval_list(struct phx_run *run, struct phx_scope *scope,
                                 const struct phx_tnode *node, struct phx_tv *out)
{
    size_t i = 0;
    PHX_TRY(phx_tv_new_list(run, node->kind == PHX_TNODE_TUPLE ? PHX_TV_TUPLE : PHX_TV_PLAIN,
                            count(node->list), out));
    for (const struct phx_tnode *item = node->list; item; item = item->next) {
        PHX_TRY(phx_teval(run, scope, item, &out->list->items[i++]));
    }
    return PHX_OK;
}

static enum phx_status eval_dict(struct phx_run *run, struct phx_scope *scope,
                                 const struct phx_tnode *node, struct phx_tv *out)
{
    PHX_TRY(phx_tv_new_dict(run, PHX_TV_DICT, out));
    for (const struct phx_tnode *pair = node->list; pair; pair = pair->next) {
        struct phx_tv key, value;
        PHX_TRY(phx_teval(run, scope, pair->a, &key));
        PHX_TRY(phx_teval(run, scope, pair->b, &value));
        PHX_TRY(phx_tv_dict_set(run, out->dict, key, value));
    }
    return PHX_OK;
}

static enum phx_status eval_slice(struct phx_run *run, struct phx_scope *scope,
                                  const struct phx_tnode *node, const struct phx_tv *value,
                                  struct phx_tv *out)
{
    const struct phx_tnode *parts[3] = {node->b, node->c, node->other};
    struct phx_tv bounds[3];
    for (int i = 0; i < 3; i++) {
        bounds[i] = PHX_TV_OF_NONE;
        if (parts[i]) PHX_TRY(phx_teval(run, scope, parts[i], &bounds[i]));
    }
    return phx_tv_slice(run, value, bounds, out);
}

static enum phx_status eval_args(struct phx_run *run, struct phx_scope *scope,
                                 const struct phx_tnode *list, struct phx_targs *out)
{
    size_t n = count(list);
    *out = (struct phx_targs){0};
    PHX_TRY(phx_arena_take(&run->arena, n, sizeof *out->items, &out->items));
    PHX_TRY(phx_arena_take(&run->arena, n, sizeof *out->named, &out->named));
    for (; list; list = list->next) {
        if (list->kind == PHX_TNODE_KEYWORD) {
            struct phx_targ *named = &out->named[out->n_named++];
            named->name = list->name;
            PHX_TRY(phx_teval(run, scope, list->a, &named->value));
        } else {
            PHX_TRY(phx_teval(run, scope, list, &out->items[out->n++]));
        }
    }
    return PHX_OK;
}

enum phx_status phx_teval_call(struct phx_run *run, struct phx_scope *scope,
                               const struct phx_tnode *node, const struct phx_tv *caller,
                               struct phx_tv *out)
{
    struct phx_tv callee;
    struct phx_targs args;
    PHX_TRY(phx_teval(run, scope, node->a, &callee));
    PHX_TRY(eval_args(run, scope, node->list, &args));
    run->line = node->line;
    if (callee.type == PHX_TV_UNDEFINED) {
        return phx_run_fail(run, "'%.*s' is undefined", (int)callee.text.n, callee.text.data);
    }
    if (callee.type != PHX_TV_CALLABLE) {
        return phx_run_fail(run, "'%s' object is not callable", phx_tv_type_name(&callee));
    }
    const struct phx_callable *callable = callee.callable;
    if (!callable->builtin) return phx_trun_macro(run, callable, &args, caller, out);
    if (caller) return phx_run_fail(run, "a call block can only call a macro");
    return callable->builtin->function(run, &callable->self, &args, out);
}

static enum phx_status eval_filter(struct phx_run *run, struct phx_scope *scope,
                                   const struct phx_tnode *node, struct phx_tv *value)
{
    struct phx_targs args;
    struct phx_tv result;
    PHX_TRY(eval_args(run, scope, node->list, &args));
    run->line = node->line;
    PHX_TRY(phx_run_charge(run, 1, 0));
    PHX_TRY(phx_tfilter_find(node->name)->function(run, value, &args, &result));
    *value = result;
    return PHX_OK;
}

enum phx_status phx_teval_filters(struct phx_run *run, struct phx_scope *scope,
                                  const struct phx_tnode *filters, struct phx_tv *value)
{
    if (!filters) return PHX_OK;
    PHX_TRY(phx_trun_enter(run));
    PHX_TRY(phx_teval_filters(run, scope, filters->a, value));
    PHX_TRY(eval_filter(run, scope, filters, value));
    run->depth--;
    return PHX_OK;
}

static enum phx_status eval_test(struct phx_run *run, struct phx_scope *scope,
                                 const struct phx_tnode *node, const struct phx_tv *value,
                                 struct phx_tv *out)
{
    struct phx_targs args;
    bool truth;
    PHX_TRY(eval_args(run, scope, node->list, &args));
    run->line = node->line;
    PHX_TRY(phx_ttest_run(run, phx_ttest_find(node->name), value, &args, &truth));
    *out = PHX_TV_OF_BOOL(truth);
    return PHX_OK;
}

static enum phx_status eval_sign(struct phx_run *run, const struct phx_tnode *node,
                                 const struct phx_tv *value, struct phx_tv *out)
{
    bool minus = node->kind == PHX_TNODE_NEG;
    if (value->type == PHX_TV_UNDEFINED) {
        return phx_run_fail(run, "'%.*s' is undefined", (int)value->text.n, value->text.data);
    }
    if (!phx_tv_is_number(value)) {
        return phx_run_fail(run, "bad operand type for unary %c: '%s'", minus ? '-' : '+',
                            phx_tv_type_name(value));
    }
    if (value->type == PHX_TV_FLOAT) {
        *out = PHX_TV_OF_FLOAT(minus ? -value->real : value->real);
        return PHX_OK;
    }
    struct phx_tv zero = PHX_TV_OF_INT(0);
    return phx_tv_binary(run, minus ? PHX_TOP_SUB : PHX_TOP_ADD, &zero, value, out);
}

static enum phx_status eval_concat(struct phx_run *run, struct phx_scope *scope,
                                   const struct phx_tnode *node, struct phx_tv *out)
{
    size_t n = count(node->list), i = 0, start = run->scratch.n;
    struct phx_tv *parts;
    PHX_TRY(phx_arena_take(&run->arena, n, sizeof *parts, &parts));
    for (const struct phx_tnode *part = node->list; part; part = part->next) {
        PHX_TRY(phx_teval(run, scope, part, &parts[i++]));
    }
    for (i = 0; i < n; i++) PHX_TRY(phx_tv_print(run, &parts[i], false));
    return phx_tv_take_scratch(run, start, out);
}

static enum phx_status eval_comparison(struct phx_run *run, struct phx_scope *scope,
                                       const struct phx_tnode *node, struct phx_tv *out)
{
    struct phx_tv left, right;
    bool truth = true;
    PHX_TRY(phx_teval(run, scope, node->a, &left));
    for (const struct phx_tnode *operand = node->list; operand && truth; operand = operand->next) {
        PHX_TRY(phx_teval(run, scope, operand->a, &right));
        run->line = node->line;
        PHX_TRY(phx_tv_compare(run, (int)operand->op, &left, &right, &truth));
        left = right;
    }
    *out = PHX_TV_OF_BOOL(truth);
    return PHX_OK;
}

static enum phx_status eval_if_else(struct phx_run *run, struct phx_scope *scope,
                                    const struct phx_tnode *node, struct phx_tv *out)
{
    struct phx_tv condition;
    PHX_TRY(phx_teval(run, scope, node->b, &condition));
    const struct phx_tnode *chosen = phx_tv_truth(&condition) ? node->a : node->c;
    if (chosen) return phx_teval(run, scope, chosen, out);
    *out = PHX_TV_OF_UNDEFINED("the inline if-expression without else");
    return PHX_OK;
}

/* What has one operand that is always evaluated. */
static enum phx_status eval_with_operand(struct phx_run *run, struct phx_scope *scope,
                                         const struct phx_tnode *node, struct phx_tv *out)
{
    struct phx_tv a, b;
    PHX_TRY(phx_teval(run, scope, node->a, &a));
    run->line = node->line;
    switch (node->kind) {
    case PHX_TNODE_ATTR:
        return phx_tv_attribute(run, &a, node->name, out);
    case PHX_TNODE_ITEM:
        PHX_TRY(phx_teval(run, scope, node->b, &b));
        return phx_tv_item(run, &a, &b, out);
    case PHX_TNODE_SLICE:
        return eval_slice(run, scope, node, &a, out);
    case PHX_TNODE_FILTER:
        *out = a;
        return eval_filter(run, scope, node, out);
    case PHX_TNODE_TEST:
        return eval_test(run, scope, node, &a, out);
    case PHX_TNODE_NOT:
        *out = PHX_TV_OF_BOOL(!phx_tv_truth(&a));
        return PHX_OK;
    case PHX_TNODE_NEG:
    case PHX_TNODE_POS:
        return eval_sign(run, node, &a, out);
    case PHX_TNODE_BINARY:
        PHX_TRY(phx_teval(run, scope, node->b, &b));
        run->line = node->line;
        return phx_tv_binary(run, (int)node->op, &a, &b, out);
    case PHX_TNODE_AND:
    case PHX_TNODE_OR:
        *out = a;
        if (phx_tv_truth(&a) == (node->kind == PHX_TNODE_OR)) return PHX_OK;
        return phx_teval(run, scope, node->b, out);
    default:
        PHX_ASSERT(!"a statement is no expression");
        return PHX_OK;
    }
}

static enum phx_status eval(struct phx_run *run, struct phx_scope *scope,
                            const struct phx_tnode *node, struct phx_tv *out)
{
    switch (node->kind) {
    case PHX_TNODE_CONST:
        *out = node->value;
        return PHX_OK;
    case PHX_TNODE_NAME:
        return eval_name(run, scope, node->name, out);
    case PHX_TNODE_LIST:
    case PHX_TNODE_TUPLE:
        return eval_list(run, scope, node, out);
    case PHX_TNODE_DICT:
        return eval_dict(run, scope, node, out);
    case PHX_TNODE_CALL:
        return phx_teval_call(run, scope, node, NULL, out);
    case PHX_TNODE_CONCAT:
        return eval_concat(run, scope, node, out);
    case PHX_TNODE_COMPARE:
        return eval_comparison(run, scope, node, out);
    case PHX_TNODE_IF_ELSE:
        return eval_if_else(run, scope, node, out);
    default:
        return eval_with_operand(run, scope, node, out);
    }
}

enum phx_status phx_teval(struct phx_run *run, struct phx_scope *scope,
                          const struct phx_tnode *node, struct phx_tv *out)
{
    run->line = node->line;
    PHX_TRY(phx_trun_enter(run));
    PHX_TRY(eval(run, scope, node, out));
    run->depth--;
    return PHX_OK;
}
