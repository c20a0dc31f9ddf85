#include "launch/server/loop.h"

#include "kernels/base/check.h"

struct loop {
    struct phx_engine *engine;
    struct phx_mailbox *mailbox;
    struct phx_metrics metrics;
    struct phx_job_changes changes;
    struct phx_job *active; /* by next_active */
};

static void begin(struct loop *l, struct phx_job *job)
{
    job->next_active = l->active;
    job->link = &l->active;
    if (job->next_active != NULL) job->next_active->link = &job->next_active;
    l->active = job;
    phx_job_begin(job, l->engine, &l->metrics, &l->changes);
}

/* Hand out the news; jobs that are over are the server's then. */
static void publish(struct loop *l)
{
    for (struct phx_job *job = l->changes.first; job != NULL; job = job->next_changed) {
        if (job->n_ended < job->n_choices) continue;
        *job->link = job->next_active;
        if (job->next_active != NULL) job->next_active->link = job->link;
    }
    phx_mailbox_publish(l->mailbox, l->changes.first, &l->metrics);
    l->changes.first = NULL;
    l->changes.tail = &l->changes.first;
}

/* New jobs begin, cancelled ones end. False when it is over. */
static bool receive(struct loop *l)
{
    enum phx_serve_mode mode;
    bool cancels;
    struct phx_job *jobs = phx_mailbox_receive(l->mailbox, l->active == NULL, &mode, &cancels);
    for (struct phx_job *next; jobs != NULL; jobs = next) {
        next = jobs->next;
        begin(l, jobs);
    }
    bool all = mode == PHX_SERVE_STOP;
    for (struct phx_job *job = all || cancels ? l->active : NULL; job != NULL;
         job = job->next_active)
        if (all || phx_mailbox_cancelled(l->mailbox, job)) phx_job_cancel(job);
    return mode == PHX_SERVE_ON || l->active != NULL;
}

static void on_step(void *user, const struct phx_step_report *report)
{
    struct loop *l = user;
    phx_metrics_step(&l->metrics, report);
}

static void look(struct loop *l)
{
    struct phx_engine_load load;
    struct phx_metrics *m = &l->metrics;
    phx_engine_load(l->engine, &load);
    m->n_running = load.n_running;
    m->n_waiting = load.n_waiting;
    m->n_pages = load.n_pages;
    m->n_pages_used = load.n_pages - load.n_free_pages;
    m->n_preemptions = load.counters.n_preemptions;
    m->prefix_queries = load.counters.prompt_tokens;
    m->prefix_hits = load.counters.cached_tokens;
    m->sum_seconds = load.sum_seconds;
}

static enum phx_status run(struct loop *l)
{
    double since_s = 0; /* the end of the turn before, if there was work since */
    while (receive(l)) {
        bool worked;
        if (since_s == 0) since_s = phx_job_now();
        PHX_TRY(phx_engine_step(l->engine, &worked));
        look(l);
        double now_s = phx_job_now();
        l->metrics.loop_seconds += now_s - since_s;
        publish(l);
        since_s = l->active != NULL ? now_s : 0;
    }
    return phx_engine_stop(l->engine);
}

enum phx_status phx_server_loop(struct phx_engine *engine, struct phx_mailbox *mailbox)
{
    struct loop l = {.engine = engine, .mailbox = mailbox};
    l.changes.tail = &l.changes.first;
    phx_engine_on_step(engine, on_step, &l);
    look(&l);
    publish(&l);
    enum phx_status status = run(&l);
    phx_engine_on_step(engine, NULL, NULL);
    return status;
}
