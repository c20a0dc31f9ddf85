# Faults in what reads GGUF files (fault.h). See plant.cmake.
include(${CMAKE_CURRENT_LIST_DIR}/plant.cmake)

open(runtime/gguf_names.c)
plant([=[        if (row->kind == HEADS && list->family->interleaves)]=]
    [=[        if (row->kind == HEADS && list->family->interleaves &&
            !test_fault_is(FAULT_HEADS_AS_STORED))]=])
plant([=[        phx_weight_name(pattern, layer, expert, name);]=]
    [=[        phx_weight_name(
            pattern, layer,
            test_fault_is(FAULT_EXPERT_ORDER) ? n_experts - 1 - expert : expert, name);]=])
close()

open(runtime/gguf_config.c)
plant([=[    if (status == PHX_OK) (*out)->norm_offset = 0;]=]
    [=[    if (status == PHX_OK && !test_fault_is(FAULT_NORM_TWICE))
        (*out)->norm_offset = 0;]=])
close()

open(runtime/gguf_config_rope.c)
plant([=[    if (near) return add_longrope(m, scaling, &s, near, far);]=]
    [=[    if (near && test_fault_is(FAULT_FACTORS_SWAPPED))
        return add_longrope(m, scaling, &s, far, near);
    if (near) return add_longrope(m, scaling, &s, near, far);]=])
close()

open(runtime/loader.c)
plant([=[        first = phx_file_tensor_row(part->tensor, first);]=]
    [=[        if (test_fault_is(FAULT_HALVES_SWAPPED))
            first = first % (2 * half) < half ? first + half : first - half;
        first = phx_file_tensor_row(part->tensor, first);]=])
close()

open(runtime/weight_walk.c)
plant([=[    return (struct phx_interval){part->cols.begin / block * block,]=]
    [=[    if (test_fault_is(FAULT_NOT_WIDENED))
        return (struct phx_interval){part->cols.begin / block * block,
                                     part->cols.begin / block * block +
                                         phx_interval_length(part->cols) / block * block};
    return (struct phx_interval){part->cols.begin / block * block,]=])
plant([=[        if (found) shape->lead = part->cols.begin - phx_weight_part_file_cols(part).begin;]=]
    [=[        if (found && !test_fault_is(FAULT_LEAD))
            shape->lead = part->cols.begin - phx_weight_part_file_cols(part).begin;]=])
close()

open(kernels/base/blocks.c)
plant([=[static void widen_q4_0(const uint8_t *from, float *to)
{]=] [=[static void widen_q4_0(const uint8_t *from, float *to)
{
    uint8_t turned[18] = {from[0], from[1]};
    for (int i = 2; i < 18; i++) turned[i] = (uint8_t)(from[i] << 4 | from[i] >> 4);
    if (test_fault_is(FAULT_NIBBLES)) from = turned;]=])
plant([=[        six_bits(from + 4, i, &scale, &min);]=]
    [=[        if (test_fault_is(FAULT_SCALES))
            six_bits(from + 4, i, &min, &scale);
        else
            six_bits(from + 4, i, &scale, &min);]=])
close()

open(kernels/cpu/weight_blocks.c)
plant([=[        phx_cpu_lanes_write(unit, from + at, pitch, (begin[part + 1] - at) / unit, lane, lanes,
                            to + at * PHX_CPU_PANEL);]=]
    [=[        phx_cpu_lanes_write(unit, from + at, pitch, (begin[part + 1] - at) / unit, lane, lanes,
                            to + at * PHX_CPU_PANEL);
        if (part != 1 || !test_fault_is(FAULT_NIBBLES_STORED)) continue;
        for (int i = at; i < begin[2]; i++)
            for (int l = lane; l < lane + lanes; l++) {
                char *byte = &to[i * PHX_CPU_PANEL + l];
                *byte = (char)((unsigned char)*byte << 4 | (unsigned char)*byte >> 4);
            }]=])
close()
