/* The watchdog with ranks as threads: what it lets pass, and what it ends. Each job is a process of
 * its own, since the watchdog ends it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "parallel/world_threads.h"
#include "runtime/watchdog.h"
#include "tests/parallel/rank_check.h"
#include "tests/support/check.h"

enum { TIMEOUT_S = 2, N_STEPS = 2, N_SUMS = 5, NEVER = -1 };

/* What the ranks do: steps of some sums. */
struct job {
    int size, ranks_per_node;
    int start_ms;                          /* of every rank before the first step */
    int outside_ms;                        /* of every rank before the last step */
    int pause_ms;                          /* of every rank before each sum */
    int stuck_rank, stuck_step, stuck_sum; /* NEVER; counted from 0 */
    bool abort_hangs;
};

static const struct phx_config config = {.n_layers = 2};
static bool abort_hangs;

void __wrap_phx_comm_abort(struct phx_comm *comm);
void __real_phx_comm_abort(struct phx_comm *comm);
void __wrap_phx_comm_abort(struct phx_comm *comm)
{
    while (abort_hangs) pause();
    __real_phx_comm_abort(comm);
}

static void sleep_ms(int ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static enum phx_status step(const struct job *job, struct phx_world *world, struct phx_comm *comm,
                            struct phx_stream *stream, struct phx_tensor x, int number)
{
    PHX_TRY(phx_comm_begin_step(comm, stream));
    for (int sum = 0; sum < N_SUMS; sum++) {
        sleep_ms(job->pause_ms);
        while (world->rank == job->stuck_rank && number == job->stuck_step && sum == job->stuck_sum)
            pause();
        PHX_TRY(phx_comm_all_reduce(comm, stream, x));
    }
    return PHX_OK;
}

static enum phx_status run_steps(const struct job *job, struct phx_world *world,
                                 struct phx_device *device, struct phx_stream *stream)
{
    struct phx_comm_options options = {
        .kind = PHX_COMM_HOST, .max_reduce_bytes = 256, .max_gather_bytes = 256};
    struct phx_comm *comm;
    struct phx_buffer *buffer;
    struct phx_watchdog *watchdog;
    PHX_TRY(phx_comm_create(world, device, &options, &comm));
    PHX_TRY(phx_comm_buffer(comm, 256, &buffer));
    PHX_TRY(
        phx_watchdog_create(&(struct phx_watchdog_parts){world, &config, TIMEOUT_S}, &watchdog));
    sleep_ms(job->start_ms);
    phx_watchdog_begin(watchdog, comm);
    struct phx_tensor x = phx_tensor_view(buffer, 0, PHX_F32, 1, 8);
    for (int number = 0; number < N_STEPS; number++) {
        if (number == N_STEPS - 1) sleep_ms(job->outside_ms);
        PHX_TRY(phx_world_barrier(world));
        phx_watchdog_enter(watchdog);
        PHX_TRY(step(job, world, comm, stream, x, number));
        phx_watchdog_leave(watchdog);
    }
    struct phx_comm_position position;
    phx_comm_position(comm, &position);
    RANK_CHECK(position.n_steps == N_STEPS && position.n_begun == N_SUMS);
    phx_watchdog_destroy(watchdog);
    phx_comm_finish(comm);
    phx_comm_destroy(comm);
    return PHX_OK;
}

static enum phx_status body(struct phx_world *world, void *user)
{
    struct phx_device *device;
    struct phx_stream *stream;
    PHX_TRY(phx_device_create(&(struct phx_device_options){.kind = PHX_DEVICE_CPU, .n_threads = 1},
                              &device));
    PHX_TRY(phx_stream_create(
        device, &(struct phx_limits){.max_rows = 1, .max_in = 8, .max_out = 8}, &stream));
    enum phx_status status = run_steps(user, world, device, stream);
    phx_stream_destroy(stream);
    phx_device_destroy(device);
    return status;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

struct outcome {
    int wait_status;
    int64_t ms;
    char text[4096]; /* of stderr */
};

/* `stop_ms` > 0: the process is stopped for so long, after 300 ms. */
static struct outcome run(const struct job *job, int stop_ms)
{
    struct outcome outcome = {.ms = now_ms()};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        abort_hangs = job->abort_hangs;
        enum phx_status status =
            phx_world_threads_run_on_nodes(job->size, job->ranks_per_node, body, (void *)job);
        if (status != PHX_OK) fprintf(stderr, "%s\n", phx_fail_sentence());
        _exit(status == PHX_OK ? 0 : 99);
    }
    close(ends[1]);
    if (stop_ms > 0) {
        sleep_ms(300);
        kill(child, SIGSTOP);
        sleep_ms(stop_ms);
        kill(child, SIGCONT);
    }
    size_t used = 0;
    const size_t room = sizeof outcome.text - 1;
    for (ssize_t n = 1; n > 0 && used < room; used += (size_t)n) {
        n = read(ends[0], outcome.text + used, room - used);
        assert_true(n >= 0);
    }
    close(ends[0]);
    assert_int_equal(waitpid(child, &outcome.wait_status, 0), child);
    outcome.ms = now_ms() - outcome.ms;
    return outcome;
}

static int occurrences(const char *text, const char *of)
{
    int n = 0;
    for (const char *found = strstr(text, of); found != NULL; found = strstr(found + 1, of)) n++;
    return n;
}

static void expect_done(const struct outcome *outcome)
{
    if (outcome->wait_status != 0) fail_msg("ended: %s", outcome->text);
    assert_string_equal(outcome->text, "");
}

static void expect_ended(const struct outcome *outcome, int n_sentences, const char *sentence)
{
    if (occurrences(outcome->text, sentence) != 1 ||
        occurrences(outcome->text, "\n") != n_sentences)
        fail_msg("not %d sentences, or not once \"%s\": %s", n_sentences, sentence, outcome->text);
    assert_true(outcome->ms >= 1000 * TIMEOUT_S && outcome->ms < 1000 * (TIMEOUT_S + 5));
}

static void test_idle_is_no_stall(void **state)
{
    struct job job = {.size = 3, .ranks_per_node = 3, .outside_ms = 3000, .stuck_rank = NEVER};
    (void)state;
    struct outcome outcome = run(&job, 0);
    expect_done(&outcome);
}

static void test_long_start_is_no_stall(void **state)
{
    struct job job = {.size = 2, .ranks_per_node = 2, .start_ms = 3000, .stuck_rank = NEVER};
    (void)state;
    struct outcome outcome = run(&job, 0);
    expect_done(&outcome);
}

static void test_slow_is_no_stall(void **state)
{
    /* 5 x 500 ms: each step takes longer than the timeout. */
    struct job job = {.size = 2, .ranks_per_node = 2, .pause_ms = 500, .stuck_rank = NEVER};
    (void)state;
    struct outcome outcome = run(&job, 0);
    expect_done(&outcome);
}

static void test_stopped_and_continued(void **state)
{
    struct job job = {.size = 2, .ranks_per_node = 2, .pause_ms = 100, .stuck_rank = NEVER};
    (void)state;
    struct outcome outcome = run(&job, 3500);
    expect_done(&outcome);
    assert_true(outcome.ms > 3800);
}

static void test_stuck_rank_is_named(void **state)
{
    struct job job = {
        .size = 3, .ranks_per_node = 3, .stuck_rank = 2, .stuck_step = 1, .stuck_sum = 4};
    (void)state;
    struct outcome outcome = run(&job, 0);
    expect_ended(&outcome, 1,
                 "error: step 2 has not moved for 2 s: rank 2 runs and is missing in the sum after "
                 "the MLP of layer 1 (--watchdog-timeout)\n");
    assert_true(WIFEXITED(outcome.wait_status) && WEXITSTATUS(outcome.wait_status) == 1);
}

static void test_each_machine_tells(void **state)
{
    struct job job = {
        .size = 4, .ranks_per_node = 2, .stuck_rank = 3, .stuck_step = 0, .stuck_sum = 0};
    (void)state;
    struct outcome outcome = run(&job, 0);
    expect_ended(&outcome, 2, "rank 3 runs and is missing in the sum of the embeddings");
    expect_ended(&outcome, 2,
                 "the ranks of this machine are in the sum of the embeddings, the "
                 "missing one is on another");
}

static void test_hanging_abort_is_cut_short(void **state)
{
    struct job job = {.size = 2,
                      .ranks_per_node = 2,
                      .stuck_rank = 0,
                      .stuck_step = 0,
                      .stuck_sum = 1,
                      .abort_hangs = true};
    (void)state;
    struct outcome outcome = run(&job, 0);
    expect_ended(&outcome, 1,
                 "rank 0 runs and is missing in the sum after the attention of layer 0");
    assert_true(WIFSIGNALED(outcome.wait_status) && WTERMSIG(outcome.wait_status) == SIGALRM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_is_no_stall),
        cmocka_unit_test(test_long_start_is_no_stall),
        cmocka_unit_test(test_slow_is_no_stall),
        cmocka_unit_test(test_stopped_and_continued),
        cmocka_unit_test(test_stuck_rank_is_named),
        cmocka_unit_test(test_each_machine_tells),
        cmocka_unit_test(test_hanging_abort_is_cut_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
