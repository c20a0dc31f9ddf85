# The faults of kernels/cpu: see plant.cmake.
include(${CMAKE_CURRENT_LIST_DIR}/plant.cmake)

open(kernels/cpu/attention.c)
plant([=[    return u->head + i % u->n_heads;]=] [=[    if (test_fault_is(FAULT_Q_MODULO_K)) {
        const int64_t n_kv = u->n_kv, group = u->group;
        return u->kv_head + n_kv * (u->head - u->kv_head * group + i % u->n_heads);
    }
    return u->head + i % u->n_heads;]=])
plant([=[    int64_t head, n_heads; /* query heads */]=] [=[    int64_t head, n_heads; /* query heads */
    int64_t n_kv, group;]=])
plant([=[    struct unit u = {.seq = seq, .kv_head = index / j->head_steps % n_kv};]=]
    [=[    struct unit u = {.seq = seq,
                     .kv_head = index / j->head_steps % n_kv,
                     .n_kv = n_kv,
                     .group = j->group};]=])
plant([=[    j.group = args->n_heads / args->kv.n_kv_heads;]=]
    [=[    j.group = args->n_heads / args->kv.n_kv_heads;
    if (test_fault_is(FAULT_GROUP_SIZE) && j.group > 1) j.group--;]=])
plant([=[    const int64_t row = (page * j->args->kv.n_kv_heads + kv_head) * PAGE + key;]=]
    [=[    const int64_t n_kv = j->args->kv.n_kv_heads;
    if (test_fault_is(FAULT_V_OF_NEIGHBOUR) && pages.offset_bytes == j->args->kv.v.offset_bytes)
        kv_head = (kv_head + 1) % n_kv;
    int64_t row = (page * n_kv + kv_head) * PAGE + key;
    if (test_fault_is(FAULT_KV_HEAD_STRIDE))
        row = page * n_kv * PAGE + kv_head * j->args->n_heads + key;
    if (test_fault_is(FAULT_STRIDES_SWAPPED)) row = (page * PAGE + key) * n_kv + kv_head;]=])
plant([=[    const int64_t dim = j->args->kv.head_dim;
    if (pages.dtype == PHX_F32 && dim == j->padded)]=]
    [=[    const int64_t dim = j->args->kv.head_dim;
    if (test_fault_is(FAULT_STRIDES_SWAPPED)) {
        const size_t apart = phx_dtype_bytes(pages.dtype, j->args->kv.n_kv_heads * dim);
        for (int64_t r = 0; r < n; r++)
            j->loops->widen(pages.dtype, from + (size_t)r * apart, 1, dim, to + r * j->padded,
                            j->padded);
        return to;
    }
    if (pages.dtype == PHX_F32 && dim == j->padded)]=])
plant([=[    const int32_t slot = at(layout->seq_slot, u->seq);]=]
    [=[    int32_t other = u->seq;
    do other = (other + 1) % layout->n_seqs;
    while (at(layout->seq_slot, other) < 0); /* padding */
    const int32_t slot =
        at(layout->seq_slot, test_fault_is(FAULT_BLOCK_TABLE_ROW) ? other : u->seq);]=])
plant([=[    struct span keys = {0, min64(position + 1, n_keys)};]=]
    [=[    struct span keys = {0, min64(position + 1, n_keys)};
    if (test_fault_is(FAULT_TAIL) && position >= 0 && position < PAGE) keys.end = PAGE;]=])
plant([=[        for (int64_t d = 0; d < dim; d++) to[d] = from[d] * j->args->scale;]=]
    [=[        float scale = j->args->scale;
        if (test_fault_is(FAULT_SCALE_MISSING)) scale = 1;
        if (test_fault_is(FAULT_SCALE_TWICE)) scale *= scale;
        for (int64_t d = 0; d < dim; d++) to[d] = from[d] * scale;]=])
close()

open(kernels/cpu/rope.c)
plant([=[        const float position = (float)phx_i32_at(args->positions, n, 0);]=]
    [=[        const int64_t other = args->out.rows - 1 - n;
        const float position = (float)phx_i32_at(
            args->positions, test_fault_is(FAULT_ROPE_POSITION) ? other : n, 0);]=])
plant([=[            float scale = all_scale != 0 ? all_scale : phx_rms_scale(x, dim, epsilon);]=]
    [=[            float scale = all_scale != 0 ? all_scale : phx_rms_scale(x, dim, epsilon);
            if (test_fault_is(FAULT_QK_NORM_OVER_HEADS)) {
                if (x == heads) all = phx_rms_scale(heads, n_heads * dim, epsilon);
                scale = all;
            }]=])
plant([=[    const int64_t half = rotated / 2;
    for (float *x = heads]=] [=[    const int64_t half = rotated / 2;
    float all = 0;
    for (float *x = heads]=])
plant([=[            float a = x[i], b = x[i + half], c = cos_sin[i], s = cos_sin[i + half];]=]
    [=[            if (test_fault_is(FAULT_ROPE_PAIRS)) {
                float p = x[2 * i], q = x[2 * i + 1], cp = cos_sin[i], sp = cos_sin[i + half];
                x[2 * i] = p * cp - q * sp;
                x[2 * i + 1] = q * cp + p * sp;
                continue;
            }
            float a = x[i], b = x[i + half], c = cos_sin[i], s = cos_sin[i + half];]=])
close()
