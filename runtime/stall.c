#include "runtime/stall.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/forward.h"

struct text {
    char *data;
    size_t used, bytes;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text->data + text->used, text->bytes - text->used, format, arguments);
    va_end(arguments);
    text->used += strlen(text->data + text->used);
}

/* Counts of steps are modulo 2^32. */
static int compare(struct phx_comm_position a, struct phx_comm_position b)
{
    int32_t steps = (int32_t)(a.n_steps - b.n_steps);
    if (steps != 0) return steps < 0 ? -1 : 1;
    return a.n_begun < b.n_begun ? -1 : a.n_begun > b.n_begun;
}

/* The position furthest ahead (sign 1) or behind (-1) of the ranks that run. */
static struct phx_comm_position extreme(const struct phx_stall *stall, int sign)
{
    const struct phx_stall_rank *found = NULL;
    for (int r = 0; r < stall->n_ranks; r++) {
        const struct phx_stall_rank *rank = &stall->ranks[r];
        if (rank->silent) continue;
        if (found == NULL || sign * compare(rank->position, found->position) > 0) found = rank;
    }
    PHX_ASSERT(found != NULL);
    return found->position;
}

/* Those to name: the silent ranks; if there are none, those at `position`. */
static bool is_named(const struct phx_stall_rank *rank, bool silent,
                     struct phx_comm_position position)
{
    return silent ? rank->silent : compare(rank->position, position) == 0;
}

/* "rank 3", "ranks 1, 3 and 4"; returns how many. */
static int add_ranks(struct text *text, const struct phx_stall *stall, bool silent,
                     struct phx_comm_position position)
{
    int n = 0, n_added = 0;
    for (int r = 0; r < stall->n_ranks; r++) n += is_named(&stall->ranks[r], silent, position);
    add(text, n == 1 ? "rank" : "ranks");
    for (int r = 0; r < stall->n_ranks; r++) {
        if (!is_named(&stall->ranks[r], silent, position)) continue;
        n_added++;
        add(text, "%s%d", n_added == 1 ? " " : n_added == n ? " and " : ", ", stall->ranks[r].rank);
    }
    return n;
}

/* Of the ranks that run and are at `position` some, or all, are inside a step. */
static bool inside(const struct phx_stall *stall, struct phx_comm_position position, bool all)
{
    bool some = false;
    for (int r = 0; r < stall->n_ranks; r++) {
        const struct phx_stall_rank *rank = &stall->ranks[r];
        if (rank->silent || compare(rank->position, position) != 0) continue;
        some |= rank->inside;
        if (all && !rank->inside) return false;
    }
    return some;
}

/* Where a rank at this position is: in the collective that it began last, if it is not `sure`,
 * perhaps through with it. */
static void add_place(struct text *text, const struct phx_stall *stall,
                      struct phx_comm_position position, bool sure)
{
    char name[PHX_COLLECTIVE_NAME_BYTES];
    if (position.n_begun == 0) {
        add(text, " at the start of the step");
        return;
    }
    phx_forward_collective_name(stall->config, position.n_begun - 1, name, sizeof name);
    add(text, sure ? " in %s" : " in or past %s", name);
}

void phx_stall_describe(const struct phx_stall *stall, char *text, size_t bytes)
{
    PHX_ASSERT(bytes > 0);
    struct text t = {text, 0, bytes};
    struct phx_comm_position ahead = extreme(stall, 1), behind = extreme(stall, -1);
    bool silent = false, starts = false;
    for (int r = 0; r < stall->n_ranks; r++) {
        silent |= stall->ranks[r].silent;
        starts |= stall->ranks[r].silent && stall->ranks[r].starts;
    }
    if (stall->world_size == 1) {
        add(&t, "a step has not moved for %d s: the device does not answer", stall->seconds);
        return;
    }
    if (starts)
        add(&t, "the start has not gone on for %d s: ", stall->seconds);
    else
        add(&t, "step %u has not moved for %d s: ", ahead.n_steps, stall->seconds);
    if (silent || compare(behind, ahead) < 0) {
        bool one = add_ranks(&t, stall, silent, behind) == 1;
        if (silent)
            add(&t, one ? " does not run (is it stopped?)" : " do not run (are they stopped?)");
        else
            add(&t, one ? " runs" : " run");
        if (starts) return;
        add(&t, one ? " and is missing" : " and are missing");
        add_place(&t, stall, ahead, inside(stall, ahead, false));
        return;
    }
    bool whole = stall->n_ranks == stall->world_size;
    add(&t, whole ? "all ranks are" : "the ranks of this machine are");
    add_place(&t, stall, ahead, inside(stall, ahead, true));
    if (!whole) add(&t, ", the missing one is on another");
}
