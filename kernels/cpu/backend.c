#include "kernels/cpu/cpu.h"

static int count(const char **reason)
{
    *reason = "";
    return 1;
}

const struct phx_backend *phx_backend_cpu(void)
{
    static const struct phx_backend backend = {
        .name = "cpu",
        .count = count,
        .describe = phx_cpu_describe,
        .device_create = phx_cpu_device_create,
        .device_destroy = phx_cpu_device_destroy,
        .device_info = phx_cpu_device_info,
        .stream_create = phx_cpu_stream_create,
        .stream_destroy = phx_cpu_stream_destroy,
        .stream_scratch_bytes = phx_cpu_stream_scratch_bytes,
        .stream_synchronize = phx_cpu_stream_synchronize,
        .buffer_create = phx_cpu_buffer_create,
        .buffer_wrap = phx_cpu_buffer_wrap,
        .buffer_destroy = phx_cpu_buffer_destroy,
        .buffer_upload = phx_cpu_buffer_upload,
        .buffer_download = phx_cpu_buffer_download,
        .buffer_copy = phx_cpu_buffer_copy,
        .buffer_zero = phx_cpu_buffer_zero,
        .host_alloc = phx_cpu_host_alloc,
        .host_free = phx_cpu_host_free,
        .event_create = phx_cpu_event_create,
        .event_destroy = phx_cpu_event_destroy,
        .event_record = phx_cpu_event_record,
        .event_wait = phx_cpu_event_wait,
        .event_elapsed_ms = phx_cpu_event_elapsed_ms,
        .graph_begin = phx_cpu_graph_begin,
        .graph_end = phx_cpu_graph_end,
        .graph_launch = phx_cpu_graph_launch,
        .graph_destroy = phx_cpu_graph_destroy,
        .weight_bytes = phx_cpu_weight_bytes,
        .weight_create = phx_cpu_weight_create,
        .weight_destroy = phx_cpu_weight_destroy,
        .weight_write = phx_cpu_weight_write,
        .weight_write_dummy = phx_cpu_weight_write_dummy,
        .weight_read = phx_cpu_weight_read,
        .probe_fill = phx_cpu_probe_fill,
        .probe_read = phx_cpu_probe_read,
        .probe_empty = phx_cpu_probe_empty,
        .probe_multiply = phx_cpu_probe_multiply,
        .embed = phx_cpu_embed,
        .add_norm = phx_cpu_add_norm,
        .linear = phx_cpu_linear,
        .gate_up = phx_cpu_gate_up,
        .route = phx_cpu_route,
        .experts_gate_up = phx_cpu_experts_gate_up,
        .experts_down = phx_cpu_experts_down,
        .rope_table = phx_cpu_rope_table,
        .head_squares = phx_cpu_head_squares,
        .rope_append = phx_cpu_rope_append,
        .attention = phx_cpu_attention,
        .attention_tapped = phx_cpu_attention_tapped,
        .gather_rows = phx_cpu_gather_rows,
        .count_tokens = phx_cpu_count_tokens,
        .adjust_logits = phx_cpu_adjust_logits,
        .sample_candidates = phx_cpu_sample_candidates,
        .sample_pick = phx_cpu_sample_pick,
        .sample_full = phx_cpu_sample_full,
    };
    return &backend;
}
