/* Linked into a program `phalanx` of the tests, in place of some calls: a rank that stalls, fails
 * or lies.
 *
 *   PHX_TEST_STALL="RANK WAY PLACE N"
 *
 * In that rank the Nth call (from 0) of PLACE does not go on: WAY is hang (the thread waits for
 * ever), nap (it waits for a second), stop (the process stops, as by SIGSTOP) or kill. PLACE is
 * start (a collective call while the run is set up), announce (rank 0, a step's record), embed,
 * attention, mlp, candidates or pick. On a GPU the device then lacks what this call would have
 * given it. WAY lie: an announcement fails; what a pick draws is token 0. "stalling: MS" on stderr
 * says when, in ms since 1970. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "parallel/comm.h"
#include "parallel/world.h"

enum place { START, ANNOUNCE, EMBED, ATTENTION, MLP, CANDIDATES, PICK, N_PLACES };
static const char *const place_names[] = {"start", "announce",   "embed", "attention",
                                          "mlp",   "candidates", "pick"};

static void stall(const char *way)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(stderr, "stalling: %lld\n", (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    if (!strcmp(way, "kill")) raise(SIGKILL);
    if (!strcmp(way, "stop")) raise(SIGSTOP);
    if (!strcmp(way, "nap")) sleep(1);
    while (!strcmp(way, "hang")) pause();
}

/* True if this call is to lie. */
static bool pass(enum place place)
{
    static int n_calls[N_PLACES];
    const char *order = getenv("PHX_TEST_STALL"), *own = getenv("OMPI_COMM_WORLD_RANK");
    char way[8], where[16];
    int rank, n;
    if (order == NULL || own == NULL) return false;
    PHX_ASSERT(sscanf(order, "%d %7s %15s %d", &rank, way, where, &n) == 4);
    if (n_calls[place]++ != n || atoi(own) != rank || strcmp(where, place_names[place]) != 0)
        return false;
    stall(way);
    return !strcmp(way, "lie");
}

enum phx_status __real_phx_comm_buffer(struct phx_comm *comm, size_t bytes,
                                       struct phx_buffer **out);
enum phx_status __wrap_phx_comm_buffer(struct phx_comm *comm, size_t bytes,
                                       struct phx_buffer **out);
enum phx_status __wrap_phx_comm_buffer(struct phx_comm *comm, size_t bytes, struct phx_buffer **out)
{
    pass(START);
    return __real_phx_comm_buffer(comm, bytes, out);
}

enum phx_status __real_phx_world_send_record(struct phx_world *world, const void *record,
                                             size_t bytes);
enum phx_status __wrap_phx_world_send_record(struct phx_world *world, const void *record,
                                             size_t bytes);
enum phx_status __wrap_phx_world_send_record(struct phx_world *world, const void *record,
                                             size_t bytes)
{
    if (pass(ANNOUNCE)) return phx_fail(PHX_COMM, "the record was not sent, as asked for");
    return __real_phx_world_send_record(world, record, bytes);
}

#define WRAP_OP(op, place)                                                                         \
    enum phx_status __real_phx_op_##op(struct phx_stream *stream, const struct phx_##op *args);    \
    enum phx_status __wrap_phx_op_##op(struct phx_stream *stream, const struct phx_##op *args);    \
    enum phx_status __wrap_phx_op_##op(struct phx_stream *stream, const struct phx_##op *args)     \
    {                                                                                              \
        pass(place);                                                                               \
        return __real_phx_op_##op(stream, args);                                                   \
    }

WRAP_OP(embed, EMBED)
WRAP_OP(attention, ATTENTION)
WRAP_OP(gate_up, MLP)
WRAP_OP(sample_candidates, CANDIDATES)

enum phx_status __real_phx_op_sample_pick(struct phx_stream *stream,
                                          const struct phx_sample_pick *args);
enum phx_status __wrap_phx_op_sample_pick(struct phx_stream *stream,
                                          const struct phx_sample_pick *args);
enum phx_status __wrap_phx_op_sample_pick(struct phx_stream *stream,
                                          const struct phx_sample_pick *args)
{
    static const int32_t zero;
    bool lies = pass(PICK);
    PHX_TRY(__real_phx_op_sample_pick(stream, args));
    return lies ? phx_tensor_upload(stream, phx_tensor_rows(args->ids, 0, 1), &zero) : PHX_OK;
}
