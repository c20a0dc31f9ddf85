/* Which ways to add there are, whether they are right, and which is taken for which sums. All ranks
 * come to the same answers: a way that fails on one rank is out, and rank 0's times count. */
#include <stddef.h>
#include <stdlib.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "parallel/comm_nccl.h"

enum { MAX_SIZES = 32 };

static const size_t least_timed_bytes = 1024;

/* Of the ranks whose way does not work the lowest that knows why, or else the lowest; -1: it works.
 */
static int find_reporter(const int *statuses, int size)
{
    int reporter = -1;
    for (int r = size - 1; r >= 0; r--)
        if (statuses[r] != PHX_OK && statuses[r] != PHX_PEER) reporter = r;
    for (int r = size - 1; r >= 0 && reporter < 0; r--)
        if (statuses[r] != PHX_OK) reporter = r;
    return reporter;
}

/* Collective. What does not work on some rank is told once. Fails only if the ranks cannot talk. */
static enum phx_status accept_way(struct phx_nccl_comm *c, enum phx_status status,
                                  enum phx_allreduce instead, bool *out_works)
{
    struct phx_world *world = c->base.world;
    int mine = (int)status;
    int *statuses = calloc((size_t)world->size, sizeof *statuses);
    PHX_ASSERT(statuses != NULL);
    enum phx_status gathered = phx_world_allgather(world, &mine, sizeof mine, statuses);
    const int reporter = find_reporter(statuses, world->size);
    free(statuses);
    if (gathered != PHX_OK) return gathered;
    if (reporter == world->rank)
        phx_log(PHX_LOG_WARN, "%s: all-reduce is %s instead", phx_fail_sentence(),
                phx_nccl_way_names[instead]);
    phx_fail_clear();
    *out_works = reporter < 0;
    return PHX_OK;
}

/* ---- opening ---- */

static enum phx_status check_library(const struct phx_nccl_comm *c)
{
    struct phx_nccl_info info;
    if (c->base.world->node_size != c->base.world->size)
        return phx_fail(PHX_UNSUPPORTED, "ranks on several machines cannot write each other's "
                                         "memory");
    phx_nccl_info(&info);
    if (info.has_windows) return PHX_OK;
    return phx_fail(PHX_UNSUPPORTED,
                    "NCCL %d.%d.%d is loaded, and this program was built with %d.%d.%d: what uses "
                    "its windows is off",
                    info.loaded / 10000, info.loaded / 100 % 100, info.loaded % 100, NCCL_MAJOR,
                    NCCL_MINOR, NCCL_PATCH);
}

static enum phx_status open_windows(struct phx_nccl_comm *c, struct phx_nccl_trial *trial)
{
    PHX_TRY(phx_nccl_together(c->base.world, check_library(c)));
    return phx_nccl_trial_open_window(trial);
}

static enum phx_status find_windows(struct phx_nccl_comm *c, struct phx_stream *stream)
{
    struct phx_fused *fused = &c->fused;
    PHX_TRY(phx_fused_find_windows(fused, phx_cuda_stream_native(stream), c->native,
                                   c->fused_window.handle));
    PHX_TRY(phx_stream_synchronize(stream));
    for (int r = 0; r < fused->n_ranks; r++) {
        fused->windows[r] = fused->host->windows[r];
        if (fused->windows[r] == NULL)
            return phx_fail(PHX_UNSUPPORTED, "rank %d's memory is out of this rank's reach", r);
    }
    return PHX_OK;
}

static enum phx_status open_fused(struct phx_nccl_comm *c, struct phx_nccl_trial *trial)
{
    const int size = c->base.world->size;
    if (size > PHX_LINES_MAX_RANKS)
        return phx_fail(PHX_UNSUPPORTED,
                        "%d ranks are too many for a fused all-reduce, which takes "
                        "%d",
                        size, PHX_LINES_MAX_RANKS);
    PHX_TRY(
        phx_nccl_window_open(c, phx_lines_window_bytes(size, c->fused.capacity), &c->fused_window));
    return phx_nccl_together(c->base.world, find_windows(c, phx_nccl_trial_stream(trial)));
}

/* A trial that did not end has cost NCCL's communicator. */
static enum phx_status check_connected(struct phx_nccl_comm *c)
{
    enum phx_status status = PHX_OK;
    if (c->native == NULL)
        status = phx_fail(PHX_COMM, "NCCL's symmetric all-reduce does not come to an end here: "
                                    "choose --allreduce nccl");
    return phx_nccl_together(c->base.world, status);
}

/* `works`, by phx_allreduce, starts as false. */
static enum phx_status try_ways(struct phx_nccl_comm *c, struct phx_nccl_trial *trial, bool *works)
{
    const struct phx_world *world = c->base.world;
    const enum phx_allreduce wanted = c->base.options.allreduce;
    bool has_windows;
    PHX_TRY(phx_nccl_together(c->base.world, phx_nccl_trial_check(trial, PHX_ALLREDUCE_NCCL)));
    works[PHX_ALLREDUCE_NCCL] = true;
    if (wanted == PHX_ALLREDUCE_NCCL) return PHX_OK;
    if (wanted == PHX_ALLREDUCE_AUTO && world->node_size != world->size) return PHX_OK;
    PHX_TRY(accept_way(c, open_windows(c, trial), PHX_ALLREDUCE_NCCL, &has_windows));
    if (!has_windows) return PHX_OK;
    PHX_TRY(accept_way(c, phx_nccl_trial_check(trial, PHX_ALLREDUCE_SYMMETRIC), PHX_ALLREDUCE_NCCL,
                       &works[PHX_ALLREDUCE_SYMMETRIC]));
    PHX_TRY(check_connected(c));
    if (wanted == PHX_ALLREDUCE_SYMMETRIC) return PHX_OK;
    const enum phx_allreduce instead =
        works[PHX_ALLREDUCE_SYMMETRIC] ? PHX_ALLREDUCE_SYMMETRIC : PHX_ALLREDUCE_NCCL;
    enum phx_status status = open_fused(c, trial);
    if (status == PHX_OK) status = phx_nccl_trial_check(trial, PHX_ALLREDUCE_FUSED);
    return accept_way(c, status, instead, &works[PHX_ALLREDUCE_FUSED]);
}

/* ---- choosing ---- */

static enum phx_status measure(struct phx_nccl_comm *c, struct phx_nccl_trial *trial,
                               const bool *works, struct phx_nccl_choice *out)
{
    struct phx_nccl_timing timings[MAX_SIZES] = {0};
    const size_t max_bytes = phx_nccl_trial_max_bytes(trial);
    size_t bytes = least_timed_bytes;
    int n = 0;
    for (bool last = false; !last; bytes *= 2) {
        last = bytes >= max_bytes;
        timings[n].bytes = last ? max_bytes : bytes;
        for (int way = PHX_ALLREDUCE_NCCL; way <= PHX_ALLREDUCE_FUSED; way++)
            if (works[way])
                PHX_TRY(phx_nccl_together(
                    c->base.world, phx_nccl_trial_time(trial, (enum phx_allreduce)way,
                                                       timings[n].bytes, &timings[n].us[way])));
        n++;
    }
    *out = phx_nccl_choose(timings, n);
    return phx_world_broadcast(c->base.world, out, sizeof *out, 0);
}

static enum phx_status choose(struct phx_nccl_comm *c, struct phx_nccl_trial *trial,
                              const bool *works)
{
    if (c->base.options.allreduce == PHX_ALLREDUCE_AUTO)
        return measure(c, trial, works, &c->choice);
    c->choice.fused_bytes = works[PHX_ALLREDUCE_FUSED] ? phx_nccl_max_fused_bytes : 0;
    c->choice.symmetric = works[PHX_ALLREDUCE_SYMMETRIC];
    return PHX_OK;
}

/* The trials do not count. */
static enum phx_status reset_position(struct phx_nccl_comm *c, struct phx_stream *stream)
{
    PHX_TRY(phx_buffer_zero(stream, c->state, offsetof(struct phx_fused_state, n_steps),
                            2 * sizeof(uint32_t)));
    PHX_TRY(phx_stream_synchronize(stream));
    __atomic_store_n(&c->fused.host->position, 0, __ATOMIC_RELAXED);
    return PHX_OK;
}

enum phx_status phx_nccl_choose_ways(struct phx_nccl_comm *c)
{
    bool works[PHX_ALLREDUCE_FUSED + 1] = {false};
    struct phx_nccl_trial *trial;
    if (c->base.world->size == 1 || c->base.options.max_reduce_bytes == 0) return PHX_OK;
    PHX_TRY(phx_nccl_trial_open(c, &trial));
    enum phx_status status = try_ways(c, trial, works);
    if (status == PHX_OK) status = choose(c, trial, works);
    if (status == PHX_OK)
        status = phx_nccl_together(c->base.world, reset_position(c, phx_nccl_trial_stream(trial)));
    phx_nccl_trial_close(trial);
    if (c->choice.fused_bytes == 0) phx_nccl_window_close(c, &c->fused_window);
    return status;
}
