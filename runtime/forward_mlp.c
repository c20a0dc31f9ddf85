/* The second half of a layer: an MLP, or a mixture of experts. */
#include "kernels/base/check.h"
#include "runtime/forward_impl.h"

/* x [full] -> logits [full], and where each row goes, the same on every rank */
static enum phx_status route(struct phx_forward *f, struct phx_stream *s,
                             const struct phx_step *step, int32_t l, struct phx_tensor x,
                             struct phx_tensor logits, struct phx_routing *out)
{
    const struct phx_config *c = f->parts.config;
    int rank = phx_shard_plan_rank(f->parts.plan);
    struct phx_interval own = phx_shard_plan_experts(f->parts.plan, rank, l);
    int32_t n_experts = c->layers[l].shape.n_experts;
    int64_t notes = phx_interval_length(own) + 1 + x.rows * c->n_chosen;
    *out = (struct phx_routing){.n_experts = n_experts,
                                .first_local = (int32_t)own.begin,
                                .n_local = (int32_t)phx_interval_length(own),
                                .ids = phx_forward_part(f->a.chosen, x.rows, c->n_chosen),
                                .weights = phx_forward_part(f->a.choice, x.rows, c->n_chosen),
                                .groups = phx_forward_part(f->a.groups, 1, notes)};
    struct phx_tensor experts = phx_tensor_cols(logits, 0, n_experts);
    PHX_TRY(phx_op_linear(
        s,
        &(struct phx_linear){.x = x, .weight = f->parts.weights->layers[l].router, .out = logits}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_ROUTER, l, experts));
    PHX_TRY(phx_op_route(
        s,
        &(struct phx_route){.logits = experts, .normalize = c->normalize_choice, .routing = *out}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_CHOSEN, l, out->ids));
    return phx_forward_look(f, s, step, PHX_POINT_CHOICE, l, out->weights);
}

/* x [full] -> what the shared expert gives [partial] */
static enum phx_status shared_expert(struct phx_forward *f, struct phx_stream *s,
                                     const struct phx_step *step, int32_t l, struct phx_tensor x,
                                     struct phx_tensor out)
{
    const struct phx_layer_weights *w = &f->parts.weights->layers[l];
    int rank = phx_shard_plan_rank(f->parts.plan);
    struct phx_tensor ffn = phx_forward_part(
        f->a.ffn, x.rows,
        phx_interval_length(phx_shard_plan_interval(f->parts.plan, rank, l, PHX_DIM_SHARED_FFN)));
    PHX_TRY(phx_op_gate_up(s, &(struct phx_gate_up){.x = x,
                                                    .weight = w->shared_gate_up,
                                                    .activation = f->parts.config->activation,
                                                    .out = ffn}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_SHARED_GATE_UP, l, ffn));
    return phx_op_linear(s, &(struct phx_linear){.x = ffn, .weight = w->shared_down, .out = out});
}

/* x [full] -> partial [partial] */
static enum phx_status experts_block(struct phx_forward *f, struct phx_stream *s,
                                     const struct phx_step *step, int32_t l, struct phx_tensor x,
                                     struct phx_tensor partial)
{
    const struct phx_config *c = f->parts.config;
    const struct phx_layer_weights *w = &f->parts.weights->layers[l];
    const struct phx_layer_shape *shape = &c->layers[l].shape;
    bool shared = shape->shared_ffn > 0;
    int rank = phx_shard_plan_rank(f->parts.plan);
    int64_t n_pairs = x.rows * c->n_chosen;
    int64_t cols =
        phx_interval_length(phx_shard_plan_interval(f->parts.plan, rank, l, PHX_DIM_MOE_FFN));
    struct phx_tensor logits = phx_forward_part(f->a.router, x.rows, shape->n_experts + shared);
    struct phx_tensor hidden = phx_forward_part(f->a.experts, n_pairs, cols);
    struct phx_routing routing;
    PHX_TRY(route(f, s, step, l, x, logits, &routing));
    PHX_TRY(phx_op_experts_gate_up(s, &(struct phx_experts_gate_up){.x = x,
                                                                    .routing = routing,
                                                                    .weight = w->experts_gate_up,
                                                                    .activation = c->activation,
                                                                    .out = hidden}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_GATE_UP, l,
                             (struct phx_tensor){hidden.buffer, hidden.offset_bytes, hidden.dtype,
                                                 x.rows, c->n_chosen * cols, c->n_chosen * cols}));
    struct phx_experts_down down = {.x = hidden,
                                    .routing = routing,
                                    .weight = w->experts_down,
                                    .parts = phx_forward_part(f->a.parts, n_pairs, x.cols),
                                    .out = partial};
    if (shared) {
        down.add = phx_forward_part(f->a.shared, x.rows, x.cols);
        down.add_gate = phx_tensor_cols(logits, shape->n_experts, 1);
        PHX_TRY(shared_expert(f, s, step, l, x, down.add));
    }
    PHX_TRY(phx_op_experts_down(s, &down));
    return phx_forward_look(f, s, step, PHX_POINT_DOWN, l, partial);
}

/* x [full] -> partial [partial] */
enum phx_status phx_forward_mlp(struct phx_forward *f, struct phx_stream *s,
                                const struct phx_step *step, int32_t l, struct phx_tensor x,
                                struct phx_tensor partial)
{
    if (f->parts.config->layers[l].shape.n_experts > 0)
        return experts_block(f, s, step, l, x, partial);
    const struct phx_layer_weights *w = &f->parts.weights->layers[l];
    int rank = phx_shard_plan_rank(f->parts.plan);
    int64_t cols =
        phx_interval_length(phx_shard_plan_interval(f->parts.plan, rank, l, PHX_DIM_FFN));
    struct phx_tensor ffn = phx_forward_part(f->a.ffn, x.rows, cols);
    PHX_TRY(phx_op_gate_up(s, &(struct phx_gate_up){.x = x,
                                                    .weight = w->gate_up,
                                                    .bias = w->gate_up_bias,
                                                    .activation = f->parts.config->activation,
                                                    .out = ffn}));
    PHX_TRY(phx_forward_look(f, s, step, PHX_POINT_GATE_UP, l, ffn));
    PHX_TRY(phx_op_linear(s, &(struct phx_linear){.x = ffn,
                                                  .weight = w->down,
                                                  .bias = w->down_bias,
                                                  .scale = f->parts.config->residual_scale,
                                                  .out = partial}));
    return phx_forward_look(f, s, step, PHX_POINT_DOWN, l, partial);
}
