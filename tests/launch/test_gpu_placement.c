/// GPUs of ranks over machines made by hand and over one that hwloc reads from a file, as its own
/// tests do; and what is refused when the ranks of a job compare theirs.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/placement.h"
#include "launch/seats.h"
#include "launch/topology_hwloc.h"
#include "tests/support/check.h"

enum { MAX_PROCESSORS = 64, MAX_GPUS = 8 };

/// Numbered as Linux does it: the second hardware threads of all cores come after all first ones.
struct machine {
    struct phx_topology topology;
    struct phx_processor processors[MAX_PROCESSORS];
    struct phx_gpu_site gpus[MAX_GPUS];
    bool near[MAX_GPUS][MAX_PROCESSORS];
};

/// `gpus`: the node of each as a digit; '-': the machine does not tell.
static void make_machine(int nodes, int cores_per_node, int smt, const char *gpus,
                         struct machine *out)
{
    int n_cores = nodes * cores_per_node;
    assert_true(n_cores * smt <= MAX_PROCESSORS && strlen(gpus) <= MAX_GPUS);
    memset(out, 0, sizeof *out);
    out->topology = (struct phx_topology){.n_processors = n_cores * smt,
                                          .processors = out->processors,
                                          .n_gpus = (int)strlen(gpus),
                                          .gpus = out->gpus};
    for (int core = 0, i = 0; core < n_cores; core++)
        for (int thread = 0; thread < smt; thread++, i++) {
            int numa = core / cores_per_node;
            out->processors[i] = (struct phx_processor){
                .number = thread * n_cores + core, .core = core, .numa = numa, .bound = true};
            for (int g = 0; gpus[g] != '\0'; g++)
                out->near[g][i] = gpus[g] == '-' || gpus[g] == '0' + numa;
        }
    for (int g = 0; gpus[g] != '\0'; g++)
        out->gpus[g] = (struct phx_gpu_site){gpus[g] == '-' ? -1 : gpus[g] - '0', out->near[g]};
}

struct expected {
    int nodes, cores, smt;
    const char *gpus;
    int bind_begin, bind_end; ///< cores; 0, 0: not bound
    int node_rank, node_size;
    int gpu;
    const char *binding; ///< "": the rank stays where it is
    const char *warning;
};

/* Ends a sentence about a binding. */
#define BY_WHOM ", by mpirun (start it with --bind-to none), taskset or a job manager"

static const struct expected cases[] = {
    /* eight GPUs on two nodes, all of them visible to all ranks */
    {2, 8, 1, "00001111", 0, 0, 0, 8, 0, "0-7", ""},
    {2, 8, 1, "00001111", 0, 0, 3, 8, 3, "0-7", ""},
    {2, 8, 1, "00001111", 0, 0, 4, 8, 4, "8-15", ""},
    {2, 8, 2, "00001111", 0, 0, 7, 8, 7, "8-15,24-31", ""},
    {2, 8, 1, "01010101", 0, 0, 1, 2, 1, "8-15", ""},
    /* one node: everything is near */
    {1, 8, 2, "00", 0, 0, 1, 2, 1, "", ""},
    /* a visible GPU for each task */
    {2, 8, 1, "1", 0, 0, 3, 4, 0, "8-15", ""},
    {2, 8, 1, "0", 0, 0, 0, 4, 0, "0-7", ""},
    /* two for each of four tasks, and three ranks that see two */
    {2, 8, 1, "11", 0, 0, 3, 4, 1, "8-15", ""},
    {2, 8, 1, "01", 0, 0, 2, 3, 0, "0-7", ""},
    /* the machine does not tell */
    {2, 8, 1, "--", 0, 0, 1, 2, 1, "", ""},
    /* bound by somebody else: to the GPU's node, across both, to a part of it ... */
    {2, 8, 1, "01", 8, 16, 1, 2, 1, "", ""},
    {2, 8, 1, "01", 6, 12, 1, 2, 1, "8-11", ""},
    {2, 8, 2, "01", 8, 10, 1, 2, 1, "", ""},
    /* ... to the other node ... */
    {2, 8, 1, "01", 8, 16, 0, 2, 0, "",
     "this rank is bound to processors 8-15, but its GPU is attached to NUMA node 0: bind it "
     "there, "
     "or start it with --bind-to none"},
    {2, 4, 2, "01", 0, 2, 1, 2, 1, "",
     "this rank is bound to processors 0-1,8-9, but its GPU is attached to NUMA node 1: bind it "
     "there, or start it with --bind-to none"},
    /* ... to one core, near or not */
    {2, 8, 2, "01", 8, 9, 1, 2, 1, "",
     "this rank is bound to one core of 16, for its own threads, the driver's and NCCL's" BY_WHOM},
    {2, 8, 2, "01", 0, 1, 1, 2, 1, "",
     "this rank is bound to one core of 16, for its own threads, the driver's and NCCL's" BY_WHOM},
    /* a machine of one core */
    {1, 1, 1, "0", 0, 0, 0, 1, 0, "", ""},
};

static void test_decisions(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct expected *e = &cases[i];
        struct machine machine;
        struct phx_placement *placement = NULL;
        char binding[64];
        make_machine(e->nodes, e->cores, e->smt, e->gpus, &machine);
        for (int p = 0; e->bind_end > 0 && p < machine.topology.n_processors; p++) {
            int core = machine.processors[p].core;
            machine.processors[p].bound = core >= e->bind_begin && core < e->bind_end;
        }
        print_message("case %zu\n", i);
        /* threads asked for are the CPU's: they refuse nothing here */
        assert_ok(
            phx_placement_create(&machine.topology, e->node_rank, e->node_size, 4, &placement));
        assert_int_equal(placement->gpu, e->gpu);
        assert_int_equal(placement->n_threads, 1);
        assert_null(placement->cpus);
        assert_int_equal(placement->binding != NULL, placement->n_binding > 0);
        phx_processors_text(placement->binding, placement->n_binding, sizeof binding, binding);
        assert_string_equal(binding, e->binding);
        assert_string_equal(placement->warning, e->warning);
        phx_placement_destroy(placement);
    }
}

static void test_processors_text(void **state)
{
    (void)state;
    char text[16];
    phx_processors_text(NULL, 0, sizeof text, text);
    assert_string_equal(text, "");
    phx_processors_text((int[]){7}, 1, sizeof text, text);
    assert_string_equal(text, "7");
    phx_processors_text((int[]){9, 0, 8, 2, 1}, 5, sizeof text, text);
    assert_string_equal(text, "0-2,8-9");
    phx_processors_text((int[]){0, 2, 4, 6, 8, 10, 12}, 7, sizeof text, text);
    assert_string_equal(text, "0,2,4,6,8,10...");
}

/// Two sockets with two nodes each; a GPU at each node, one at the second socket, one that the
/// machine tells nothing of, and one that it does not show.
static void test_machine_of_a_file(void **state)
{
    (void)state;
    static const char *const pci_ids[] = {"0000:C3:00.0", "0000:1b:00.0", "0000:df:00.0",
                                          "0000:f1:00.0", "0000:43:00.0", "0000:01:00.0"};
    static const int numa[] = {3, 0, 2, -1, 1, -1};
    static const char *const near[] = {"12-15", "0-3", "8-15", "0-15", "4-7", "0-15"};
    enum { N_GPUS = 6 };
    struct phx_topology *t = NULL;
    setenv("HWLOC_XMLFILE", PHX_TEST_DATA "/topology/four-nodes.xml", 1);
    assert_ok(phx_topology_create(pci_ids, N_GPUS, &t));
    unsetenv("HWLOC_XMLFILE");
    assert_int_equal(t->n_processors, 16);
    assert_int_equal(t->processors[15].core, 7);
    assert_int_equal(t->processors[15].numa, 3);
    assert_int_equal(t->n_gpus, N_GPUS);
    for (int g = 0; g < N_GPUS; g++) {
        int numbers[16], n = 0;
        char text[64];
        for (int i = 0; i < t->n_processors; i++)
            if (t->gpus[g].near[i]) numbers[n++] = t->processors[i].number;
        phx_processors_text(numbers, n, sizeof text, text);
        assert_string_equal(text, near[g]);
        assert_int_equal(t->gpus[g].numa, numa[g]);
    }
    struct phx_placement *placement = NULL;
    assert_ok(phx_placement_create(t, 2, 6, 0, &placement));
    assert_int_equal(placement->gpu, 2);
    assert_int_equal(placement->n_binding, 8);
    assert_int_equal(placement->binding[0], 8);
    phx_placement_destroy(placement);
    phx_topology_destroy(t);
}

/// Numbers that a binding is made of are those that are read back.
static void test_binding(void **state)
{
    (void)state;
    struct phx_topology *before = NULL, *after = NULL;
    assert_ok(phx_topology_create(NULL, 0, &before));
    int last = before->processors[before->n_processors - 1].number;
    assert_ok(phx_topology_bind(&last, 1));
    assert_ok(phx_topology_create(NULL, 0, &after));
    for (int i = 0; i < after->n_processors; i++)
        assert_int_equal(after->processors[i].bound, after->processors[i].number == last);
    phx_topology_destroy(after);
    phx_topology_destroy(before);
}

/* ---- seats ---- */

/// A rank on GPU `gpu` with this name; -1: on the CPU.
static struct phx_seat seat(const char *host, int gpu, const char *uuid, int n_gpus)
{
    struct phx_seat s = {.gpu = gpu, .n_gpus = n_gpus};
    snprintf(s.host, sizeof s.host, "%s", host);
    snprintf(s.info.uuid, sizeof s.info.uuid, "%s", uuid);
    snprintf(s.info.name, sizeof s.info.name, "NVIDIA H200");
    snprintf(s.info.pci_id, sizeof s.info.pci_id, "0000:3b:00.0");
    snprintf(s.no_gpu, sizeof s.no_gpu, "%s", gpu < 0 ? "there is no NVIDIA driver" : "");
    return s;
}

static void expect_sharers(const struct phx_seat *seats, int size, bool share, int expected)
{
    for (int rank = 0; rank < size; rank++) {
        int sharers = 0;
        assert_ok(phx_seats_check(seats, size, rank, share, &sharers));
        assert_int_equal(sharers, expected);
    }
}

static void test_seats_that_go_together(void **state)
{
    (void)state;
    /* mpirun; srun, where everybody's GPU is number 0; two hosts with the same ordinals */
    struct phx_seat all[] = {seat("a", 0, "GPU-1", 2), seat("a", 1, "GPU-2", 2)};
    struct phx_seat own[] = {seat("a", 0, "GPU-1", 1), seat("a", 0, "GPU-2", 1)};
    struct phx_seat hosts[] = {seat("a", 0, "GPU-1", 1), seat("b", 0, "GPU-2", 1)};
    struct phx_seat cpus[] = {seat("a", -1, "", 0), seat("a", -1, "", 0), seat("a", -1, "", 0)};
    expect_sharers(all, 2, false, 1);
    expect_sharers(own, 2, false, 1);
    expect_sharers(hosts, 2, false, 1);
    expect_sharers(cpus, 3, false, 1);
    expect_sharers(all, 2, true, 1);
}

static void test_ranks_on_one_gpu(void **state)
{
    (void)state;
    struct phx_seat three[] = {seat("a", 0, "GPU-00000001-0002", 2),
                               seat("a", 1, "GPU-00000002-0002", 2),
                               seat("a", 0, "GPU-00000001-0002", 2)};
    struct phx_seat five[] = {seat("b", 0, "GPU-9", 1), seat("a", 0, "GPU-1", 2),
                              seat("a", 1, "GPU-2", 2), seat("a", 0, "GPU-1", 2),
                              seat("a", 0, "GPU-1", 2)};
    int sharers;
    for (int rank = 0; rank < 3; rank++)
        assert_fails(
            phx_seats_check(three, 3, rank, false, &sharers), PHX_UNSUPPORTED,
            "ranks 0 and 2 have come to the same GPU of a, GPU-00000001 (NVIDIA H200 at "
            "0000:3b:00.0): 3 ranks run there, and rank 2 sees 2 GPUs. Start no more ranks "
            "than there are GPUs, let each see its own or all see all "
            "(CUDA_VISIBLE_DEVICES), or add --share-gpu, which is slow");
    expect_sharers(three, 3, true, 2);
    assert_fails(phx_seats_check(five, 5, 0, false, &sharers), PHX_UNSUPPORTED, "ranks 1 and 3");
    expect_sharers(five, 5, true, 3);
}

static void test_a_rank_without_a_gpu(void **state)
{
    (void)state;
    struct phx_seat mixed[] = {seat("a", 0, "GPU-1", 1), seat("b", -1, "", 0),
                               seat("a", 0, "GPU-2", 1)};
    int sharers;
    assert_ok(phx_seats_check(mixed, 3, 0, false, &sharers));
    assert_ok(phx_seats_check(mixed, 3, 2, false, &sharers));
    assert_fails(
        phx_seats_check(mixed, 3, 1, true, &sharers), PHX_UNSUPPORTED,
        "there is no NVIDIA driver, but rank 0 computes on a GPU (NVIDIA H200 of a): see to "
        "it that every rank has a GPU, or give all of them --device cpu");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decisions),         cmocka_unit_test(test_processors_text),
        cmocka_unit_test(test_machine_of_a_file), cmocka_unit_test(test_seats_that_go_together),
        cmocka_unit_test(test_ranks_on_one_gpu),  cmocka_unit_test(test_a_rank_without_a_gpu),
        cmocka_unit_test(test_binding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
