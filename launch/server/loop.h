/// \file loop.h
/// The engine's thread of a server: takes jobs out of the mailbox, steps, hands out the news.
#ifndef PHX_LAUNCH_SERVER_LOOP_H
#define PHX_LAUNCH_SERVER_LOOP_H

#include "launch/server/mailbox.h"
#include "runtime/engine.h"

/// Rank 0: until the mailbox says that it is over; then the other ranks' phx_engine_follow()
/// return too. After a failure some jobs have not ended.
enum phx_status phx_server_loop(struct phx_engine *engine, struct phx_mailbox *mailbox);

#endif
