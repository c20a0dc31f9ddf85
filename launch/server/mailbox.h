/// \file mailbox.h
/// What passes between the server's thread and the engine's: jobs one way, their news the other.
#ifndef PHX_LAUNCH_SERVER_MAILBOX_H
#define PHX_LAUNCH_SERVER_MAILBOX_H

#include <stdbool.h>

#include "launch/server/job.h"
#include "launch/server/metrics.h"

struct phx_mailbox;

/// How far the server still goes.
enum phx_serve_mode {
    PHX_SERVE_ON,
    PHX_SERVE_DRAIN, ///< what was taken in is finished, then the engine stops
    PHX_SERVE_STOP,  ///< everything is cancelled, then the engine stops
};

enum phx_status phx_mailbox_create(struct phx_mailbox **out);
/// When one thread is left. Jobs that are still in it are not touched.
void phx_mailbox_destroy(struct phx_mailbox *mailbox);

/* The server's thread. */

/// Becomes readable when there is news.
int phx_mailbox_fd(const struct phx_mailbox *mailbox);
/// Give a job away.
void phx_mailbox_send(struct phx_mailbox *mailbox, struct phx_job *job);
/// Nobody waits for the job any more: the engine ends it with its next step.
void phx_mailbox_cancel(struct phx_mailbox *mailbox, struct phx_job *job);
void phx_mailbox_set_mode(struct phx_mailbox *mailbox, enum phx_serve_mode mode);
/// A job with news, which are the caller's, in order; NULL: none (and the fd is not readable until
/// there are new ones).
struct phx_job *phx_mailbox_news(struct phx_mailbox *mailbox, struct phx_news **out);
/// As they were after the newest step.
void phx_mailbox_metrics(struct phx_mailbox *mailbox, struct phx_metrics *out);
/// For how long there has been work and no step has ended.
double phx_mailbox_stuck_s(struct phx_mailbox *mailbox);

/* The engine's thread. */

/// Jobs that were sent since the last call, linked by `next`, oldest first. With `wait`, does
/// not return before there is one, a cancel, or a mode other than ON. *out_cancels: some jobs were
/// cancelled; ask phx_mailbox_cancelled() about each.
struct phx_job *phx_mailbox_receive(struct phx_mailbox *mailbox, bool wait,
                                    enum phx_serve_mode *out_mode, bool *out_cancels);
bool phx_mailbox_cancelled(struct phx_mailbox *mailbox, const struct phx_job *job);
/// Hand over the news of these jobs (linked by next_changed; those that are over become the
/// server's), and the numbers.
void phx_mailbox_publish(struct phx_mailbox *mailbox, struct phx_job *changed,
                         const struct phx_metrics *metrics);

#endif
