/* Statements. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/eval.h"

/* A name, several names of a tuple, or an attribute of a namespace. */
static enum phx_status assign(struct phx_run *run, struct phx_scope *scope,
                              const struct phx_tnode *target, struct phx_tv value)
{
    if (target->kind == PHX_TNODE_NAME) return phx_scope_set(run, scope, target->name, value);
    if (target->kind == PHX_TNODE_ATTR) {
        struct phx_tv space;
        PHX_TRY(phx_teval(run, scope, target->a, &space));
        if (space.type != PHX_TV_NAMESPACE) {
            return phx_run_fail(run, "cannot assign attribute on non-namespace object");
        }
        return phx_tv_dict_set(run, space.dict, PHX_TV_OF_TEXT(target->name.data, target->name.n),
                               value);
    }
    struct phx_tv_list *items;
    size_t n = 0;
    PHX_TRY(phx_tv_iterate(run, &value, &items));
    for (const struct phx_tnode *name = target->list; name; name = name->next, n++) {
        if (n < items->n) PHX_TRY(phx_scope_set(run, scope, name->name, items->items[n]));
    }
    if (n == items->n) return PHX_OK;
    return phx_run_fail(run, "there are %zu values to unpack, but %zu names", items->n, n);
}

/* The text of a body, off the scratch again. */
static enum phx_status capture(struct phx_run *run, struct phx_scope *scope,
                               const struct phx_tnode *body, struct phx_tv *out)
{
    size_t start = run->scratch.n;
    enum phx_tjump jump = PHX_TJUMP_NONE;
    PHX_TRY(phx_trun_body(run, scope, body, &jump));
    return phx_tv_take_scratch(run, start, out);
}

/* The items for which the loop's condition holds. */
static enum phx_status select_items(struct phx_run *run, struct phx_scope *outer,
                                    const struct phx_tnode *node, struct phx_tv_list **items)
{
    struct phx_tv kept;
    if (!node->c) return PHX_OK;
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, (*items)->n, &kept));
    kept.list->n = 0;
    for (size_t i = 0; i < (*items)->n; i++) {
        struct phx_scope *scope;
        struct phx_tv condition;
        PHX_TRY(phx_scope_new(run, outer, &scope));
        PHX_TRY(assign(run, scope, node->a, (*items)->items[i]));
        PHX_TRY(phx_teval(run, scope, node->c, &condition));
        if (phx_tv_truth(&condition)) kept.list->items[kept.list->n++] = (*items)->items[i];
    }
    *items = kept.list;
    return PHX_OK;
}

static enum phx_status run_for(struct phx_run *run, struct phx_scope *outer,
                               const struct phx_tnode *node)
{
    static const struct phx_slice name = {"loop", 4};
    struct phx_tv iterable, loop = {.type = PHX_TV_LOOP};
    struct phx_tv_list *items;
    PHX_TRY(phx_teval(run, outer, node->b, &iterable));
    PHX_TRY(phx_tv_iterate(run, &iterable, &items));
    PHX_TRY(select_items(run, outer, node, &items));
    PHX_TRY(phx_arena_take(&run->arena, 1, sizeof *loop.loop, &loop.loop));
    loop.loop->list = items;
    enum phx_tjump jump = PHX_TJUMP_NONE;
    for (size_t i = 0; i < items->n && jump != PHX_TJUMP_BREAK; i++) {
        struct phx_scope *scope;
        jump = PHX_TJUMP_NONE;
        loop.loop->at = i;
        PHX_TRY(phx_scope_new(run, outer, &scope));
        PHX_TRY(phx_scope_set(run, scope, name, loop));
        PHX_TRY(assign(run, scope, node->a, items->items[i]));
        PHX_TRY(phx_trun_body(run, scope, node->body, &jump));
    }
    if (items->n > 0 || !node->other) return PHX_OK;
    struct phx_scope *scope;
    PHX_TRY(phx_scope_new(run, outer, &scope));
    return phx_trun_body(run, scope, node->other, &jump);
}

static enum phx_status make_macro(struct phx_run *run, struct phx_scope *scope,
                                  const struct phx_tnode *node, struct phx_tv *out)
{
    *out = (struct phx_tv){.type = PHX_TV_CALLABLE};
    PHX_TRY(phx_arena_take(&run->arena, 1, sizeof *out->callable, &out->callable));
    out->callable->macro = node;
    out->callable->scope = scope;
    return PHX_OK;
}

static const struct phx_targ *find_named(const struct phx_targs *args, struct phx_slice name)
{
    for (size_t i = 0; i < args->n_named; i++) {
        const struct phx_targ *named = &args->named[i];
        if (named->name.n == name.n && memcmp(named->name.data, name.data, name.n) == 0) {
            return named;
        }
    }
    return NULL;
}

/* The macro's names in its scope. */
static enum phx_status bind_macro(struct phx_run *run, const struct phx_tnode *macro,
                                  const struct phx_targs *args, struct phx_scope *scope)
{
    size_t at = 0, n_named = 0;
    for (const struct phx_tnode *name = macro->list; name; name = name->next, at++) {
        const struct phx_targ *named = find_named(args, name->name);
        struct phx_tv value = {.type = PHX_TV_UNDEFINED, .text = name->name};
        if (at < args->n && named) {
            return phx_run_fail(run, "macro '%.*s' got several values for '%.*s'",
                                (int)macro->name.n, macro->name.data, (int)name->name.n,
                                name->name.data);
        }
        if (at < args->n) {
            value = args->items[at];
        } else if (named) {
            value = named->value;
            n_named++;
        } else if (name->a) {
            PHX_TRY(phx_teval(run, scope, name->a, &value));
        }
        PHX_TRY(phx_scope_set(run, scope, name->name, value));
    }
    if (args->n > at || n_named < args->n_named) {
        return phx_run_fail(run, "macro '%.*s' takes not more than %zu arguments, of other names",
                            (int)macro->name.n, macro->name.data, at);
    }
    return PHX_OK;
}

enum phx_status phx_trun_macro(struct phx_run *run, const struct phx_callable *callable,
                               const struct phx_targs *args, const struct phx_tv *caller,
                               struct phx_tv *out)
{
    static const struct phx_slice name = {"caller", 6};
    struct phx_scope *scope;
    PHX_TRY(phx_scope_new(run, callable->scope, &scope));
    if (caller) PHX_TRY(phx_scope_set(run, scope, name, *caller));
    PHX_TRY(bind_macro(run, callable->macro, args, scope));
    return capture(run, scope, callable->macro->body, out);
}

static enum phx_status run_with(struct phx_run *run, struct phx_scope *outer,
                                const struct phx_tnode *node, enum phx_tjump *jump)
{
    struct phx_scope *scope;
    PHX_TRY(phx_scope_new(run, outer, &scope));
    for (const struct phx_tnode *set = node->list; set; set = set->next) {
        struct phx_tv value; /* of the names outside */
        PHX_TRY(phx_teval(run, outer, set->b, &value));
        PHX_TRY(assign(run, scope, set->a, value));
    }
    return phx_trun_body(run, scope, node->body, jump);
}

/* A body that is captured: of a set, a filter or a call block. */
static enum phx_status run_captured(struct phx_run *run, struct phx_scope *outer,
                                    const struct phx_tnode *node)
{
    struct phx_scope *scope;
    struct phx_tv value, caller;
    if (node->kind == PHX_TNODE_CALL_BLOCK) {
        PHX_TRY(make_macro(run, outer, node, &caller));
        PHX_TRY(phx_teval_call(run, outer, node->a, &caller, &value));
        return phx_tv_print(run, &value, false);
    }
    PHX_TRY(phx_scope_new(run, outer, &scope));
    PHX_TRY(capture(run, scope, node->body, &value));
    PHX_TRY(phx_teval_filters(run, outer, node->b, &value));
    return node->kind == PHX_TNODE_SET_BLOCK ? assign(run, outer, node->a, value)
                                             : phx_tv_print(run, &value, false);
}

static enum phx_status run_statement(struct phx_run *run, struct phx_scope *scope,
                                     const struct phx_tnode *node, enum phx_tjump *jump)
{
    struct phx_tv value;
    switch (node->kind) {
    case PHX_TNODE_TEXT:
        return phx_tv_print(run, &node->value, false);
    case PHX_TNODE_OUTPUT:
        PHX_TRY(phx_teval(run, scope, node->a, &value));
        run->line = node->line;
        return phx_tv_print(run, &value, false);
    case PHX_TNODE_IF:
        PHX_TRY(phx_teval(run, scope, node->a, &value));
        return phx_trun_body(run, scope, phx_tv_truth(&value) ? node->body : node->other, jump);
    case PHX_TNODE_FOR:
        return run_for(run, scope, node);
    case PHX_TNODE_SET:
        PHX_TRY(phx_teval(run, scope, node->b, &value));
        run->line = node->line;
        return assign(run, scope, node->a, value);
    case PHX_TNODE_MACRO:
        PHX_TRY(make_macro(run, scope, node, &value));
        return phx_scope_set(run, scope, node->name, value);
    case PHX_TNODE_WITH:
        return run_with(run, scope, node, jump);
    case PHX_TNODE_BLOCK:
        return phx_trun_body(run, scope, node->body, jump);
    case PHX_TNODE_BREAK:
        *jump = PHX_TJUMP_BREAK;
        return PHX_OK;
    case PHX_TNODE_CONTINUE:
        *jump = PHX_TJUMP_CONTINUE;
        return PHX_OK;
    default:
        return run_captured(run, scope, node);
    }
}

enum phx_status phx_trun_body(struct phx_run *run, struct phx_scope *scope,
                              const struct phx_tnode *body, enum phx_tjump *jump)
{
    PHX_TRY(phx_trun_enter(run));
    for (; body && *jump == PHX_TJUMP_NONE; body = body->next) {
        run->line = body->line;
        PHX_TRY(phx_run_charge(run, 1, 0));
        PHX_TRY(run_statement(run, scope, body, jump));
    }
    run->depth--;
    return PHX_OK;
}

static enum phx_status render(struct phx_run *run, const struct phx_template *tmpl,
                              const json_t *variables)
{
    struct phx_scope *globals, *scope;
    enum phx_tjump jump = PHX_TJUMP_NONE;
    const char *name;
    json_t *value;
    PHX_TRY(phx_scope_new(run, NULL, &globals));
    PHX_TRY(phx_scope_new(run, globals, &scope));
    json_object_foreach((json_t *)variables, name, value)
    {
        struct phx_tv converted;
        PHX_TRY(phx_tv_from_json(run, value, &converted));
        PHX_TRY(phx_scope_set(run, globals, (struct phx_slice){name, strlen(name)}, converted));
    }
    return phx_trun_body(run, scope, tmpl->body, &jump);
}

enum phx_status phx_template_render(const struct phx_template *tmpl, const json_t *variables,
                                    time_t now, char **out_text, size_t *out_bytes)
{
    struct phx_run run = {
        .file = tmpl->name,
        .line = 1,
        .arena = {.limit = PHX_TEMPLATE_MEMORY_BYTES},
        .steps_left = PHX_TEMPLATE_STEPS,
        .now = now,
    };
    enum phx_status status = render(&run, tmpl, variables);
    if (status == PHX_OK) status = phx_bytes_append(&run.scratch, "", 1);
    phx_arena_destroy(&run.arena);
    if (status != PHX_OK) {
        free(run.scratch.data);
        return status;
    }
    *out_text = run.scratch.data;
    *out_bytes = run.scratch.n - 1;
    return PHX_OK;
}
