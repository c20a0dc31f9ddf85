/// Threads and processors of a rank over machines made by hand, the cgroup's quota over directories
/// made by hand, and the real machine's table.
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "launch/cgroup.h"
#include "launch/placement.h"
#include "tests/support/check.h"

enum { MAX_PROCESSORS = 64 };

/// Numbered as Linux does it: the second hardware threads of all cores come after all first ones.
struct machine {
    struct phx_topology topology;
    struct phx_processor processors[MAX_PROCESSORS];
};

static void make_machine(int sockets, int cores_per_socket, int smt, struct machine *out)
{
    int n_cores = sockets * cores_per_socket;
    assert_true(n_cores * smt <= MAX_PROCESSORS);
    *out = (struct machine){.topology = {.n_processors = n_cores * smt}};
    out->topology.processors = out->processors;
    for (int core = 0, i = 0; core < n_cores; core++) {
        for (int thread = 0; thread < smt; thread++, i++) {
            out->processors[i] = (struct phx_processor){.number = thread * n_cores + core,
                                                        .core = core,
                                                        .numa = core / cores_per_socket,
                                                        .bound = true};
        }
    }
}

static void bind_to_cores(struct machine *machine, int begin, int end)
{
    for (int i = 0; i < machine->topology.n_processors; i++) {
        struct phx_processor *p = &machine->processors[i];
        p->bound = p->core >= begin && p->core < end;
    }
}

/// One decision. `cpus` -1: not pinned; otherwise the first processor, the others following it.
struct expected {
    int sockets, cores, smt;
    double quota;
    int bind_begin, bind_end; ///< 0, 0: not bound
    int node_rank, node_size, asked;
    int n_threads, cpus;
    const char *warning;
};

/* Ends a sentence about a binding. */
#define BY_WHOM ", by mpirun (start it with --bind-to none), taskset or a job manager"

static const struct expected cases[] = {
    /* two sockets of eight cores with two hardware threads: cores count */
    {2, 8, 2, 0, 0, 0, 0, 1, 0, 16, 0, ""},
    {2, 8, 2, 0, 0, 0, 0, 2, 0, 8, 0, ""},
    {2, 8, 2, 0, 0, 0, 1, 2, 0, 8, 8, ""},
    {2, 8, 2, 0, 0, 0, 2, 3, 0, 5, 10, ""},
    {2, 8, 2, 0, 0, 0, 15, 16, 0, 1, 15, ""},
    /* fewer threads than cores: free to move */
    {2, 8, 2, 0, 0, 0, 1, 2, 4, 4, -1, ""},
    /* exactly as many as the default */
    {2, 8, 2, 0, 0, 0, 1, 2, 8, 8, 8, ""},
    /* more threads than cores */
    {2, 8, 2, 0, 0, 0, 0, 2, 9, 9, -1,
     "2 ranks with 9 threads each on 16 cores: threads will wait for each other"},
    /* one core */
    {1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, ""},
    {1, 1, 1, 0, 0, 0, 2, 3, 0, 1, -1,
     "3 ranks with 1 thread each on 1 core: threads will wait for each other"},
    {1, 1, 1, 0, 0, 0, 0, 1, 4, 4, -1,
     "1 rank with 4 threads each on 1 core: threads will wait for each other"},
    /* a quota */
    {2, 8, 2, 4, 0, 0, 1, 2, 0, 2, -1, ""},
    {2, 8, 2, 2.5, 0, 0, 0, 1, 0, 2, -1, ""},
    {2, 8, 2, 0.5, 0, 0, 0, 1, 0, 1, -1, ""},
    {2, 8, 2, 64, 0, 0, 1, 2, 0, 8, 8, ""},
    {2, 8, 2, 4, 0, 0, 0, 1, 6, 6, -1,
     "1 rank with 6 threads each on 4 cores (the cgroup's quota): threads will wait for each "
     "other"},
    /* bound by mpirun: to a core ... */
    {2, 8, 2, 0, 3, 4, 0, 2, 0, 1, -1,
     "this rank is bound to 1 of 16 cores where it could use 8" BY_WHOM},
    {2, 8, 2, 0, 3, 4, 0, 2, 1, 1, -1, ""},
    {1, 2, 1, 0, 1, 2, 1, 2, 0, 1, -1, ""},
    /* ... to a socket that two ranks share ... */
    {2, 8, 2, 0, 8, 16, 2, 4, 0, 4, -1, ""},
    {2, 8, 2, 0, 8, 16, 2, 4, 10, 10, -1,
     "this rank is bound to 8 of 16 cores where it could use 10" BY_WHOM},
    /* ... or to a socket of its own */
    {2, 8, 2, 0, 0, 8, 0, 1, 0, 8, -1,
     "this rank is bound to 8 of 16 cores where it could use 16" BY_WHOM},
};

static void test_decisions(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct expected *e = &cases[i];
        struct machine machine;
        struct phx_placement *placement = NULL;
        make_machine(e->sockets, e->cores, e->smt, &machine);
        machine.topology.cpu_quota = e->quota;
        if (e->bind_end > 0) bind_to_cores(&machine, e->bind_begin, e->bind_end);
        print_message("case %zu\n", i);
        assert_int_equal(phx_placement_create(&machine.topology, e->node_rank, e->node_size,
                                              e->asked, &placement),
                         PHX_OK);
        assert_int_equal(placement->n_threads, e->n_threads);
        assert_string_equal(placement->warning, e->warning);
        assert_int_equal(placement->cpus != NULL, e->cpus >= 0);
        for (int t = 0; placement->cpus && t < e->n_threads; t++) {
            assert_int_equal(placement->cpus[t], e->cpus + t);
        }
        phx_placement_destroy(placement);
    }
    phx_placement_destroy(NULL);
}

static void test_bound_to_one_core_is_refused(void **state)
{
    (void)state;
    struct machine machine;
    struct phx_placement *placement = NULL;
    make_machine(2, 8, 2, &machine);
    bind_to_cores(&machine, 0, 1);
    assert_int_equal(phx_placement_create(&machine.topology, 0, 2, 4, &placement), PHX_USAGE);
    assert_null(placement);
    assert_string_equal(
        phx_fail_sentence(),
        "4 threads were asked for, but this rank is bound to one core of 16" BY_WHOM);
}

/// Whatever the numbers, ranks of a node never pin to the same processor.
static void test_no_processor_twice(void **state)
{
    (void)state;
    for (int cores = 1; cores <= 17; cores++) {
        for (int size = 1; size <= 20; size++) {
            struct machine machine;
            int taken[MAX_PROCESSORS] = {0};
            int n_pinned = 0;
            make_machine(1, cores, 2, &machine);
            for (int rank = 0; rank < size; rank++) {
                struct phx_placement *placement = NULL;
                assert_int_equal(phx_placement_create(&machine.topology, rank, size, 0, &placement),
                                 PHX_OK);
                for (int t = 0; placement->cpus && t < placement->n_threads; t++, n_pinned++) {
                    assert_in_range(placement->cpus[t], 0, cores - 1);
                    assert_int_equal(taken[placement->cpus[t]]++, 0);
                }
                phx_placement_destroy(placement);
            }
            assert_int_equal(n_pinned, cores / size * size);
        }
    }
}

static int delete_one(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info, (void)flag, (void)ftw;
    return remove(path);
}

static void write_file(const char *root, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(full, 0777);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

struct tree_file {
    const char *path, *text;
};

static void check_quota(const struct tree_file *files, double expected)
{
    char root[] = "/tmp/phx_cgroup_XXXXXX";
    assert_non_null(mkdtemp(root));
    for (; files->path; files++) write_file(root, files->path, files->text);
    double quota = phx_cgroup_cpu_quota(root);
    nftw(root, delete_one, 8, FTW_DEPTH | FTW_PHYS);
    assert_true(quota == expected);
}

static void test_cgroup_quota(void **state)
{
    (void)state;
    /* v2: the group's own limit and a lower one above it */
    check_quota((struct tree_file[]){{"/proc/self/cgroup", "0::/a/b\n"},
                                     {"/sys/fs/cgroup/a/b/cpu.max", "300000 100000\n"},
                                     {"/sys/fs/cgroup/a/cpu.max", "150000 100000\n"},
                                     {NULL, NULL}},
                1.5);
    check_quota((struct tree_file[]){{"/proc/self/cgroup", "0::/a/b\n"},
                                     {"/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"},
                                     {NULL, NULL}},
                0);
    /* in a container, with a namespace of its own or the host's path */
    check_quota((struct tree_file[]){{"/proc/self/cgroup", "0::/\n"},
                                     {"/sys/fs/cgroup/cpu.max", "200000 100000\n"},
                                     {NULL, NULL}},
                2);
    check_quota((struct tree_file[]){{"/proc/self/cgroup", "0::/system.slice/docker-1.scope\n"},
                                     {"/sys/fs/cgroup/cpu.max", "200000 100000\n"},
                                     {NULL, NULL}},
                2);
    /* v1, cpu alone and together with another controller; cpuset is not cpu */
    check_quota((struct tree_file[]){{"/proc/self/cgroup", "3:cpuset:/x\n2:cpu,cpuacct:/x\n"},
                                     {"/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "50000\n"},
                                     {"/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"},
                                     {NULL, NULL}},
                0.5);
    check_quota((struct tree_file[]){{"/proc/self/cgroup", "3:cpuset:/x\n2:cpu:/\n0::/\n"},
                                     {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
                                     {"/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
                                     {NULL, NULL}},
                0);
    /* nothing there, or nonsense */
    check_quota((struct tree_file[]){{NULL, NULL}}, 0);
    check_quota((struct tree_file[]){{"/proc/self/cgroup", "nonsense\n0\n0:\n::\n0::/a\n"},
                                     {"/sys/fs/cgroup/a/cpu.max", "x\n"},
                                     {NULL, NULL}},
                0);
}

static void test_this_machine(void **state)
{
    (void)state;
    struct phx_topology *t = NULL;
    assert_int_equal(phx_topology_create(NULL, 0, &t), PHX_OK);
    assert_true(t->n_processors >= 1);
    assert_int_equal(t->processors[0].core, 0);
    int n_bound = 0;
    for (int i = 0; i < t->n_processors; i++) {
        n_bound += t->processors[i].bound;
        assert_true(t->processors[i].number >= 0);
        int step = i ? t->processors[i].core - t->processors[i - 1].core : 0;
        assert_in_range(step, 0, 1);
    }
    assert_true(n_bound >= 1);
    phx_topology_destroy(t);
    phx_topology_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decisions),
        cmocka_unit_test(test_bound_to_one_core_is_refused),
        cmocka_unit_test(test_no_processor_twice),
        cmocka_unit_test(test_cgroup_quota),
        cmocka_unit_test(test_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
