/// \file option_values.h
/// What options can be: choices and lists.
#ifndef PHX_LAUNCH_OPTION_VALUES_H
#define PHX_LAUNCH_OPTION_VALUES_H

#include <stddef.h>
#include <stdint.h>

enum phx_load_format { PHX_LOAD_AUTO, PHX_LOAD_SAFETENSORS, PHX_LOAD_DUMMY };
enum phx_compute { PHX_COMPUTE_AUTO, PHX_COMPUTE_FLOAT32, PHX_COMPUTE_BFLOAT16 };
enum phx_kv_choice { PHX_KV_AUTO, PHX_KV_F32, PHX_KV_F16, PHX_KV_BF16 };
enum phx_fill_choice { PHX_FILL_COMPUTED, PHX_FILL_NOISE };
enum phx_bench_output { PHX_OUTPUT_MD, PHX_OUTPUT_CSV, PHX_OUTPUT_JSON, PHX_OUTPUT_JSONL };
enum phx_log_format { PHX_LOG_TEXT, PHX_LOG_JSON };
enum phx_convert_type {
    PHX_CONVERT_AUTO,
    PHX_CONVERT_F32,
    PHX_CONVERT_F16,
    PHX_CONVERT_BF16,
    PHX_CONVERT_Q8_0,
    PHX_CONVERT_Q4_0
};
enum phx_device_choice { PHX_CHOOSE_AUTO, PHX_CHOOSE_CPU, PHX_CHOOSE_CUDA };

struct phx_text_list {
    const char **items; ///< [n]
    size_t n;
};

struct phx_id_list {
    int32_t *items; ///< [n], each >= 0
    size_t n;
};

struct phx_int_list {
    int32_t *items; ///< [n]
    size_t n;
};

struct phx_int_pair {
    int32_t first, second;
};

struct phx_pair_list {
    struct phx_int_pair *items; ///< [n]
    size_t n;
};

struct phx_logit_bias {
    int32_t id;  ///< >= 0; whether the model has it is not known here
    float value; ///< finite, or -infinity: never
};

struct phx_bias_list {
    struct phx_logit_bias *items; ///< [n], no id twice
    size_t n;
};

#endif
