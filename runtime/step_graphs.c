#include "runtime/step_graphs.h"

#include <stdlib.h>

#include "kernels/base/check.h"

enum { DRAWS = 4, KINDS = 2 * DRAWS }; /* ways to draw, each with and without adjusted logits */

struct recorded {
    bool seen;
    struct phx_graph *graph;
    struct phx_forward_result result; /* views that depend on the step's shape alone */
};

struct phx_step_graphs {
    struct phx_forward *forward;
    int32_t max_seqs; /* 0: nothing is recorded */
    int64_t n_replayed;
    struct recorded steps[]; /* [max_seqs][KINDS] */
};

enum phx_status phx_step_graphs_create(struct phx_forward *forward, int32_t max_seqs, bool enabled,
                                       struct phx_step_graphs **out)
{
    struct phx_step_graphs *g =
        calloc(1, sizeof *g + (size_t)(enabled ? max_seqs : 0) * KINDS * sizeof g->steps[0]);
    if (g == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the steps' graphs");
    g->forward = forward;
    g->max_seqs = enabled ? max_seqs : 0;
    *out = g;
    return PHX_OK;
}

void phx_step_graphs_destroy(struct phx_step_graphs *graphs)
{
    if (graphs == NULL) return;
    for (int32_t i = 0; i < graphs->max_seqs * KINDS; i++)
        phx_graph_destroy(graphs->steps[i].graph);
    free(graphs);
}

static int draw_kind(const struct phx_step *step)
{
    if (step->draw == PHX_DRAW_FULL) return 0;
    return step->n_candidates == 1 ? 1 : step->n_candidates < PHX_MAX_CANDIDATES ? 2 : 3;
}

/* NULL: a step that is not recorded. Logits for the host are rare, and their gathering large. */
static struct recorded *find(struct phx_step_graphs *g, const struct phx_step *step)
{
    if (g->max_seqs == 0 || !step->decodes || step->gather_logits) return NULL;
    PHX_ASSERT(step->layout.n_rows <= g->max_seqs);
    return &g->steps[(step->layout.n_rows - 1) * KINDS + 2 * draw_kind(step) + step->adjust];
}

static enum phx_status record(struct phx_step_graphs *g, struct phx_stream *stream,
                              const struct phx_step *step, struct recorded *r)
{
    PHX_TRY(phx_graph_begin(stream));
    enum phx_status status = phx_forward_run(g->forward, stream, step, &r->result);
    if (status == PHX_OK) return phx_graph_end(stream, &r->graph);
    phx_graph_end(stream, NULL); /* why it failed has been said */
    return status;
}

enum phx_status phx_step_graphs_run(struct phx_step_graphs *graphs, struct phx_stream *stream,
                                    const struct phx_step *step, struct phx_forward_result *out)
{
    struct recorded *r = find(graphs, step);
    if (r == NULL || !r->seen) {
        if (r != NULL) r->seen = true;
        return phx_forward_run(graphs->forward, stream, step, out);
    }
    if (r->graph == NULL) PHX_TRY(record(graphs, stream, step, r));
    *out = r->result;
    graphs->n_replayed++;
    return phx_graph_launch(r->graph, stream);
}

int64_t phx_step_graphs_replayed(const struct phx_step_graphs *graphs)
{
    return graphs->n_replayed;
}
