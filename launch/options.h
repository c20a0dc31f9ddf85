/// \file options.h
/// argv and the environment into one struct. Pure: reads no file, knows no rank and no model.
///
/// Everything is in one table of verbs and one of options (options_table.c); parsing, range checks
/// and the help text follow from them. A new option is a field here and a row there.
#ifndef PHX_LAUNCH_OPTIONS_H
#define PHX_LAUNCH_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "kernels/base/status.h"
#include "launch/option_values.h"

enum phx_verb {
    PHX_VERB_GENERATE,
    PHX_VERB_CHAT,
    PHX_VERB_SERVE,
    PHX_VERB_PERPLEXITY,
    PHX_VERB_TOKENIZE,
    PHX_VERB_TOPOLOGY,
    PHX_VERB_PLAN,
    PHX_VERB_AUDIT,
    PHX_VERB_COMPARE,
    PHX_VERB_BENCH,
    PHX_VERB_CONVERT,
    PHX_VERB_HELP, ///< print phx_options_help(stdout, options->help_about)
    PHX_VERB_VERSION,
    PHX_VERB_COUNT
};

/// Options that the verb does not take hold their defaults. Texts point into argv and the
/// environment.
struct phx_options {
    enum phx_verb verb;
    enum phx_verb help_about; ///< PHX_VERB_HELP: the verb asked about, itself for the overview
    uint64_t given[2];        ///< see phx_options_given()

    /* model */
    const char *model; ///< folder or GGUF file; NULL: the embedded one
    int load_format;   ///< enum phx_load_format
    int load_mode;     ///< enum phx_load_mode
    int compute;       ///< enum phx_compute
    int kv_cache;      ///< enum phx_kv_choice
    int32_t context;   ///< tokens; 0: what the model allows

    /* text; at most one of prompts, prompt_file, prompts_file, prompt_ids, ids is given */
    struct phx_text_list prompts;
    const char *prompt_file;       ///< one prompt; "-": standard input
    const char *prompts_file;      ///< a prompt a line; "-": standard input
    struct phx_id_list prompt_ids; ///< one prompt
    struct phx_id_list ids;        ///< tokenize: to text
    bool no_bos;

    /* length */
    int32_t n_predict; ///< -1: until the context is full
    struct phx_text_list stop;
    bool ignore_eos;
    struct phx_id_list force_ids; ///< only with a single prompt

    /* sampling */
    int64_t seed; ///< -1: draw one
    double temperature, top_p, min_p;
    double repeat_penalty, presence_penalty, frequency_penalty;
    int32_t top_k; ///< 0: all
    struct phx_bias_list logit_bias;

    /* perplexity */
    int32_t window; ///< tokens; 0: the context
    int32_t stride; ///< tokens, at most the window; 0: the window

    /* audit, compare */
    const char *layers;  ///< "all" or a list; NULL: all
    const char *heads;   ///< "all" or a list; NULL: the first of each group
    const char *against; ///< "solo" or a folder
    const char *dump;    ///< folder; NULL: none
    bool quick, brief;
    const char *json_out; ///< file for JSON, "-" for standard output; NULL: none

    /* convert */
    const char *convert_out; ///< NULL: not given
    int convert_type;        ///< enum phx_convert_type

    /* plan */
    const char *ranks; ///< "all" or a list
    const char *gpu;   ///< a kind or its memory; NULL: this machine's CPU
    int32_t batch;     ///< texts at the same time

    /* bench; each combination of these lists is measured */
    struct phx_int_list bench_prompt, bench_generate; ///< tokens; 0: no such test
    struct phx_pair_list bench_both;                  ///< prompt and then generation
    struct phx_text_list tests;                       ///< "P,N,D,B" each
    struct phx_int_list depth;                        ///< tokens that the cache holds before
    struct phx_int_list batches;                      ///< sequences
    struct phx_int_list step_tokens, part_tokens;     ///< -b and -ub
    struct phx_int_list thread_counts;                ///< empty: choose
    int32_t repetitions;
    int fill; ///< enum phx_fill_choice
    bool breakdown;
    int output;         ///< enum phx_bench_output
    const char *commit; ///< NULL: not told

    /* output */
    bool json, verbose;
    int32_t logprobs;       ///< most likely tokens to report at each place; -1: none at all
    const char *logits_out; ///< NULL: none; only with a single prompt

    /* chat */
    const char *system_message; ///< NULL: none

    /* serve */
    const char *host;
    int32_t port;                           ///< 0: any that is free
    const char *served_model_name;          ///< NULL: the folder's name
    const char *api_key, *api_key_file;     ///< at most one; NULL: nobody is asked for one
    const char *ssl_certfile, *ssl_keyfile; ///< both or none
    int32_t max_connections;
    int32_t max_body_mb, max_header_kb;
    int32_t request_timeout;   ///< seconds
    int32_t shutdown_timeout;  ///< seconds
    const char *chat_template; ///< file; NULL: the model's own
    const char *pid_file;      ///< NULL: none
    int log_format;            ///< enum phx_log_format
    int64_t kv_cache_tokens;   ///< 0: for all texts at their longest, if they fit
    bool no_prefix_cache;

    /* machine */
    int device;                    ///< enum phx_device_choice
    bool share_gpu;                ///< ranks may have the same GPU
    bool expert_parallel;          ///< ranks own whole experts
    int32_t threads;               ///< 0: choose
    int32_t tensor_parallel_size;  ///< 0: not given; otherwise it must be the world's size
    int32_t max_seqs;              ///< sequences in a step
    int32_t max_batched_tokens;    ///< tokens in a step; 0: by the device
    double gpu_memory_utilization; ///< above 0, at most 1
    bool enforce_eager;            ///< no graphs
    int32_t watchdog_timeout;      ///< seconds; 0: none
    int allreduce;                 ///< enum phx_allreduce
    const char *cpu_isa;           ///< NULL: the best that the machine has
};

/// `look_up` is getenv or a test's stand-in. argv and what `look_up` returns outlive the options.
/// PHX_USAGE with a sentence that names the flag, the value and what would work.
enum phx_status phx_options_create(int argc, char *const *argv, char *(*look_up)(const char *name),
                                   struct phx_options **out);
void phx_options_destroy(struct phx_options *options);

/// True if the command line or the environment gave this option ("--temp", any of its names), so
/// that a default of the model must not replace the value. An assertion if there is no such option.
bool phx_options_given(const struct phx_options *options, const char *name);

/// The help page of a verb; PHX_VERB_HELP: the overview.
void phx_options_help(FILE *stream, enum phx_verb about);

/// The verb's name as typed.
const char *phx_verb_name(enum phx_verb verb);

#endif
