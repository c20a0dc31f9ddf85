#include "launch/server/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kernels/base/check.h"

struct phx_mailbox {
    pthread_mutex_t lock;
    pthread_cond_t work; /* for the engine's thread */
    int news_fd;
    enum phx_serve_mode mode;
    bool cancels;
    bool idle;                         /* the engine's thread waits for work, and there is none */
    double progress_s;                 /* when it last took up work or had done some */
    struct phx_job *sent, **sent_tail; /* by `next` */
    struct phx_job *listed, **listed_tail; /* with news; by `next` */
    struct phx_metrics metrics;
};

enum phx_status phx_mailbox_create(struct phx_mailbox **out)
{
    struct phx_mailbox *m = calloc(1, sizeof *m);
    if (m == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the server's mailbox");
    m->news_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->news_fd < 0) {
        free(m);
        return phx_fail(PHX_IO, "the system gives no eventfd: %s", strerror(errno));
    }
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->work, NULL);
    m->sent_tail = &m->sent;
    m->listed_tail = &m->listed;
    m->idle = true;
    *out = m;
    return PHX_OK;
}

void phx_mailbox_destroy(struct phx_mailbox *mailbox)
{
    if (mailbox == NULL) return;
    close(mailbox->news_fd);
    pthread_cond_destroy(&mailbox->work);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox);
}

/* ---- the server's thread ---- */

int phx_mailbox_fd(const struct phx_mailbox *mailbox)
{
    return mailbox->news_fd;
}

void phx_mailbox_send(struct phx_mailbox *mailbox, struct phx_job *job)
{
    pthread_mutex_lock(&mailbox->lock);
    job->next = NULL;
    if (mailbox->idle) mailbox->progress_s = phx_job_now();
    mailbox->idle = false;
    *mailbox->sent_tail = job;
    mailbox->sent_tail = &job->next;
    pthread_cond_signal(&mailbox->work);
    pthread_mutex_unlock(&mailbox->lock);
}

void phx_mailbox_cancel(struct phx_mailbox *mailbox, struct phx_job *job)
{
    pthread_mutex_lock(&mailbox->lock);
    job->cancelled = mailbox->cancels = true;
    pthread_cond_signal(&mailbox->work);
    pthread_mutex_unlock(&mailbox->lock);
}

void phx_mailbox_set_mode(struct phx_mailbox *mailbox, enum phx_serve_mode mode)
{
    pthread_mutex_lock(&mailbox->lock);
    mailbox->mode = mode;
    pthread_cond_signal(&mailbox->work);
    pthread_mutex_unlock(&mailbox->lock);
}

struct phx_job *phx_mailbox_news(struct phx_mailbox *mailbox, struct phx_news **out)
{
    struct phx_mailbox *m = mailbox;
    pthread_mutex_lock(&m->lock);
    struct phx_job *job = m->listed;
    if (job != NULL) {
        m->listed = job->next;
        if (m->listed == NULL) m->listed_tail = &m->listed;
        *out = job->delivered;
        job->listed = false;
        job->delivered = NULL;
        job->delivered_tail = &job->delivered;
    } else {
        uint64_t count;
        ssize_t n = read(m->news_fd, &count, sizeof count); /* nothing to read is fine */
        (void)n;
    }
    pthread_mutex_unlock(&m->lock);
    return job;
}

void phx_mailbox_metrics(struct phx_mailbox *mailbox, struct phx_metrics *out)
{
    pthread_mutex_lock(&mailbox->lock);
    *out = mailbox->metrics;
    pthread_mutex_unlock(&mailbox->lock);
}

double phx_mailbox_stuck_s(struct phx_mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->lock);
    double seconds = mailbox->idle ? 0 : phx_job_now() - mailbox->progress_s;
    pthread_mutex_unlock(&mailbox->lock);
    return seconds;
}

/* ---- the engine's thread ---- */

struct phx_job *phx_mailbox_receive(struct phx_mailbox *mailbox, bool wait,
                                    enum phx_serve_mode *out_mode, bool *out_cancels)
{
    struct phx_mailbox *m = mailbox;
    pthread_mutex_lock(&m->lock);
    while (wait && m->mode == PHX_SERVE_ON && m->sent == NULL && !m->cancels) {
        m->idle = true;
        pthread_cond_wait(&m->work, &m->lock);
    }
    m->idle = false;
    struct phx_job *jobs = m->sent;
    m->sent = NULL;
    m->sent_tail = &m->sent;
    *out_mode = m->mode;
    *out_cancels = m->cancels;
    m->cancels = false;
    pthread_mutex_unlock(&m->lock);
    return jobs;
}

bool phx_mailbox_cancelled(struct phx_mailbox *mailbox, const struct phx_job *job)
{
    pthread_mutex_lock(&mailbox->lock);
    bool cancelled = job->cancelled;
    pthread_mutex_unlock(&mailbox->lock);
    return cancelled;
}

static void deliver(struct phx_mailbox *m, struct phx_job *job)
{
    *job->delivered_tail = job->staged;
    job->delivered_tail = job->staged_tail;
    job->staged = NULL;
    job->staged_tail = &job->staged;
    if (job->listed) return;
    job->listed = true;
    job->next = NULL;
    *m->listed_tail = job;
    m->listed_tail = &job->next;
}

void phx_mailbox_publish(struct phx_mailbox *mailbox, struct phx_job *changed,
                         const struct phx_metrics *metrics)
{
    struct phx_mailbox *m = mailbox;
    static const uint64_t one = 1;
    pthread_mutex_lock(&m->lock);
    bool none_before = m->listed == NULL;
    for (struct phx_job *job = changed; job != NULL; job = job->next_changed) deliver(m, job);
    m->metrics = *metrics;
    m->progress_s = phx_job_now();
    if (none_before && m->listed != NULL) {
        ssize_t n = write(m->news_fd, &one, sizeof one);
        PHX_ASSERT(n == (ssize_t)sizeof one);
    }
    pthread_mutex_unlock(&m->lock);
}
