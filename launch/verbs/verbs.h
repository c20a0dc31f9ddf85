/// \file verbs.h
/// One function a verb, in a file of its own. All are collective: every rank of the world calls the
/// same one. They return the status that ends the program; results go to stdout, everything else to
/// stderr.
#ifndef PHX_LAUNCH_VERBS_VERBS_H
#define PHX_LAUNCH_VERBS_VERBS_H

#include "kernels/base/status.h"
#include "launch/options.h"
#include "launch/run.h"
#include "parallel/world.h"

enum phx_status phx_verb_generate(struct phx_world *world, const struct phx_options *options);
/// Until the input ends.
enum phx_status phx_verb_chat(struct phx_world *world, const struct phx_options *options);
/// Until it is told to stop.
enum phx_status phx_verb_serve(struct phx_world *world, const struct phx_options *options);
enum phx_status phx_verb_perplexity(struct phx_world *world, const struct phx_options *options);
enum phx_status phx_verb_tokenize(struct phx_world *world, const struct phx_options *options);
enum phx_status phx_verb_topology(struct phx_world *world, const struct phx_options *options);
enum phx_status phx_verb_plan(struct phx_world *world, const struct phx_options *options);
/// A check that fails is PHX_BAD_DATA without a sentence: what was printed says it.
enum phx_status phx_verb_audit(struct phx_world *world, const struct phx_options *options);
enum phx_status phx_verb_compare(struct phx_world *world, const struct phx_options *options);
enum phx_status phx_verb_bench(struct phx_world *world, const struct phx_options *options);
enum phx_status phx_verb_convert(struct phx_world *world, const struct phx_options *options);

#endif
