/// \file reply.h
/// The news of a job -> what its client reads: one JSON object, or a stream of chunks as
/// server-sent events. Server's thread.
#ifndef PHX_LAUNCH_SERVER_REPLY_H
#define PHX_LAUNCH_SERVER_REPLY_H

#include <stdbool.h>

#include "launch/server/job.h"
#include "runtime/tokenizer/buffer.h"

struct phx_reply;

/// The job and the name outlive it.
enum phx_status phx_reply_create(const struct phx_job *job, const char *model_name,
                                 struct phx_reply **out);
void phx_reply_destroy(struct phx_reply *reply);

/// Take in news, which stay the caller's. PHX_OUT_OF_MEMORY: the reply cannot go on.
enum phx_status phx_reply_add(struct phx_reply *reply, const struct phx_news *news);
/// All choices have ended; what there is to be sent is complete, and job->problem is final.
bool phx_reply_ended(const struct phx_reply *reply);
/// What went wrong with it; http is 0 if nothing did (yet).
const struct phx_problem *phx_reply_problem(const struct phx_reply *reply);
/// End it with this problem, unless it has ended: nothing more is taken in.
void phx_reply_fail(struct phx_reply *reply, const struct phx_problem *problem);

/// The whole answer of one that has ended without a problem and is not streamed; append it.
enum phx_status phx_reply_body(struct phx_reply *reply, struct phx_bytes *out);
/// Events of a streamed one, as far as they came. The caller takes bytes from the front by giving
/// their number to phx_reply_sent().
const struct phx_bytes *phx_reply_events(struct phx_reply *reply);
void phx_reply_sent(struct phx_reply *reply, size_t bytes);
/// Append a comment to the events, so that whoever is between knows that the stream lives.
enum phx_status phx_reply_ping(struct phx_reply *reply);

#endif
