# The faults of kernels/cuda: see plant.cmake. Their code is in planted_attention.cuh and
# planted_rope.cuh; kernels know the fault from their arguments.
include(${CMAKE_CURRENT_LIST_DIR}/plant.cmake)

open(kernels/cuda/attention.cuh)
plant([=[    float scale, soft_cap;]=] [=[    float scale, soft_cap;
    enum test_fault fault;]=])
plant([=[/// The row of the pages where a key of a page lies.]=]
    [=[#include "tests/faults/planted_attention.cuh"

/// The row of the pages where a key of a page lies.]=])
plant([=[    return (page * a.n_kv_heads + t.kv_head) * PHX_PAGE_TOKENS + key;]=]
    [=[    return planted_row(a, page, t.kv_head, key);]=])
plant([=[    w.end = min(min(t.highest + 1 - w.position, t.length - tile * KEYS), KEYS);]=]
    [=[    w.end = min(min(t.highest + 1 - w.position, t.length - tile * KEYS), KEYS);
    if (planted_tail(a, w.position - tile % TILES * KEYS, t.highest)) w.end = KEYS;]=])
close()

open(kernels/cuda/attention_tap.cuh)
plant([=[    const int32_t head = t.kv_head * a.group + (t.first + query) % a.group;]=]
    [=[    const int32_t head = planted_head(a, t.kv_head, (t.first + query) % a.group);]=])
plant([=[    read->v = (uint64_t)a.v + key;]=]
    [=[    read->v = (uint64_t)a.v + key + planted_v(a, t.kv_head) * row_bytes;]=])
plant([=[    read->v_next = (uint64_t)a.v + next;]=]
    [=[    read->v_next = (uint64_t)a.v + next + planted_v(a, t.kv_head) * row_bytes;]=])
close()

open(kernels/cuda/attention_tile.cuh)
plant([=[(int64_t)(t.kv_head * a.group + query % a.group) * a.head_dim]=]
    [=[(int64_t)planted_head(a, t.kv_head, query % a.group) * a.head_dim]=])
plant([=[ *
                        a.scale;]=] [=[ *
                        planted_scale(a);]=])
plant([=[            const int64_t from = (key + (wanted ? r : w.begin)) * row_bytes + offset;]=]
    [=[            const int64_t from =
                (key + (wanted ? r : w.begin) * planted_step(a)) * row_bytes + offset;]=])
plant([=[ *from_v = (const char *)a.v + from;]=]
    [=[ *from_v = (const char *)a.v + from + planted_v(a, t.kv_head) * row_bytes;]=])
plant([=[                exists && position <= own && (]=]
    [=[                ((exists && position <= own) ||
                 planted_tail(a, w.position - tile % BLOCK_TILES * KEYS, own)) && (]=])
close()

open(kernels/cuda/attention.cu)
plant([=[        const int h = t.kv_head * a.group + (t.first + query) % a.group;]=]
    [=[        const int h = planted_head(a, t.kv_head, (t.first + query) % a.group);]=])
plant([=[    t.slot = a.layout.seq_slot[t.seq];]=] [=[    t.slot = planted_slot(a, t.seq);]=])
plant([=[    a.group = args->n_heads / kv->n_kv_heads;]=]
    [=[    a.group = args->n_heads / kv->n_kv_heads;
    a.fault = test_fault;
    if (a.fault == FAULT_GROUP_SIZE && a.group > 1) a.group--;]=])
close()

open(kernels/cuda/attention_divide.cuh)
plant([=[    const int32_t head = t.kv_head * a.group + t.first + query;
    return]=] [=[    const int32_t head = planted_head(a, t.kv_head, t.first + query);
    return]=])
plant([=[    const int64_t head = t.kv_head * a.group + t.first + query;]=]
    [=[    const int64_t head = planted_head(a, t.kv_head, t.first + query);]=])
plant([=[    const int32_t head = t.kv_head * a.group + t.first + query;
    tap_sums]=] [=[    const int32_t head = planted_head(a, t.kv_head, t.first + query);
    tap_sums]=])
plant([=[    s.slot = l.seq_slot[seq];]=] [=[    s.slot = planted_slot(a, seq);]=])
close()

open(kernels/cuda/attention_mma.cuh)
plant([=[            const int64_t from = (key + (wanted ? r : w.begin)) * DIM * 2 + offset;]=]
    [=[            const int64_t from =
                (key + (wanted ? r : w.begin) * planted_step(a)) * DIM * 2 + offset;]=])
plant([=[(const char *)a.v + from, 16,]=]
    [=[(const char *)a.v + from + planted_v(a, t.kv_head) * DIM * 2, 16,]=])
plant([=[    const int64_t head = t.kv_head * a.group + (t.first + query) % a.group;]=]
    [=[    const int64_t head = planted_head(a, t.kv_head, (t.first + query) % a.group);]=])
plant([=[s[n][i] * a.scale);]=] [=[s[n][i] * planted_scale(a));]=])
plant([=[soft_capped(s[n][i] * a.scale, ]=] [=[soft_capped(s[n][i] * planted_scale(a), ]=])
plant([=[                key < n_keys && position <= own && (]=]
    [=[                ((key < n_keys && position <= own) ||
                 planted_tail(a, seen.position - tile % (PHX_PAGE_TOKENS / KEYS) * KEYS, own)) && (]=])
close()

open(kernels/cuda/attention_decode.cu)
plant([=[(uint64_t)(p.row + seen) * (DIM / 8);]=]
    [=[(p.row + (int64_t)seen * step) * (DIM / 8);]=])
plant([=[words_of(const void *pages, const tile_place &p, int key)]=]
    [=[words_of(const void *pages, const tile_place &p, int key, int step)]=])
plant([=[words_of<DIM>(a.k, p, g + 8 * i) + c;]=]
    [=[words_of<DIM>(a.k, p, g + 8 * i, planted_step(a)) + c;]=])
plant([=[words_of<DIM>(a.v, p, 2 * c + i % 2 + i / 2 * 8) + g;]=]
    [=[words_of<DIM>(a.v, p, 2 * c + i % 2 + i / 2 * 8, planted_step(a)) +
                            planted_v(a, blockIdx.y) * (DIM / 8) + g;]=])
plant([=[tile * KEYS + key_of(i), s[b][i] * a.scale);]=]
    [=[tile * KEYS + key_of(i), s[b][i] * planted_scale(a));]=])
plant([=[ s[b][i] *= a.scale;]=] [=[ s[b][i] *= planted_scale(a);]=])
close()

open(kernels/cuda/attention_mma.cu)
plant([=[        const int64_t head = t.kv_head * a.group + query % a.group;]=]
    [=[        const int64_t head = planted_head(a, t.kv_head, query % a.group);]=])
plant([=[    t.slot = a.layout.seq_slot[t.seq];]=] [=[    t.slot = planted_slot(a, t.seq);]=])
close()

open(kernels/cuda/attention_wgmma.cu)
plant([=[    t.slot = a.layout.seq_slot[t.seq];]=] [=[    t.slot = planted_slot(a, t.seq);]=])
plant([=[        const int64_t head = t.kv_head * a.group + query % a.group;]=]
    [=[        const int64_t head = planted_head(a, t.kv_head, query % a.group);]=])
plant([=[    return a.soft_cap > 0 ? 1 : a.scale;]=]
    [=[    return a.soft_cap > 0 ? 1 : planted_scale(a);]=])
plant([=[s[n][i] * a.scale);]=] [=[s[n][i] * planted_scale(a));]=])
plant([=[        const float inner = a.scale / a.soft_cap;]=]
    [=[        const float inner = planted_scale(a) / a.soft_cap;]=])
plant([=[            end[p][half] = min(last + 1, tile.n_keys[p]);]=]
    [=[            end[p][half] = min(last + 1, tile.n_keys[p]);
            if (planted_tail(a, tile.position[p], w.position[half]))
                end[p][half] = PHX_PAGE_TOKENS;]=])
plant([=[    const cuuint64_t sizes[] = {(cuuint64_t)a.head_dim, (cuuint64_t)rows};]=]
    [=[    const cuuint64_t step = a.fault == FAULT_STRIDES_SWAPPED ? a.n_kv_heads : 1;
    const cuuint64_t sizes[] = {step * a.head_dim, rows / step};]=])
plant([=[    const cuuint64_t pitch[] = {(cuuint64_t)a.head_dim * 2};]=]
    [=[    const cuuint64_t pitch[] = {step * a.head_dim * 2};]=])
close()

open(kernels/cuda/attention_wgmma_load.cuh)
plant([=[value = from[i];]=] [=[value = from[r * planted_step(a) * EACH + i % EACH];]=])
plant([=[void copy_tile(const CUtensorMap *map,]=]
    [=[void copy_tile(const attention_args &a, const CUtensorMap *map,]=])
plant([=[        copy_page(map, part * 64, row, to]=]
    [=[        copy_page(map, planted_map_column(a, row) + part * 64, planted_map_row(a, row), to]=])
plant([=[        copy_tile<DIM>(map, page_row(]=] [=[        copy_tile<DIM>(a, map, page_row(]=])
plant([=[        row[p] = page_row(a, t, tile, p);]=]
    [=[        row[p] = page_row(a, t, tile, p);
        if (row[p] >= 0) row[p] += planted_v(a, t.kv_head);]=])
plant([=[copy_tile<DIM>(map, row[p], stage]=] [=[copy_tile<DIM>(a, map, row[p], stage]=])
close()

open(kernels/cuda/rope.cu)
plant([=[__global__ void rope_table(const int32_t *positions,]=]
    [=[__global__ void rope_table(enum test_fault fault, const int32_t *positions,]=])
plant([=[    const float position = (float)positions[n];]=]
    [=[    const float position =
        (float)positions[fault == FAULT_ROPE_POSITION ? gridDim.x - 1 - n : n];]=])
plant([=[{(unsigned)args->out.rows, THREADS}, rope_table,]=]
    [=[{(unsigned)args->out.rows, THREADS}, rope_table, test_fault,]=])
plant([=[    layout_view layout;
};]=] [=[    layout_view layout;
    enum test_fault fault;
};]=])
plant([=[        const float x = head[i], y = head[i + half], c = f.cosine[j], s = f.sine[j];]=]
    [=[        if (a.fault == FAULT_ROPE_PAIRS) {
            const float p = head[2 * i], q = head[2 * i + 1];
            head[2 * i] = p * f.cosine[j] - q * f.sine[j];
            head[2 * i + 1] = q * f.cosine[j] + p * f.sine[j];
            continue;
        }
        const float x = head[i], y = head[i + half], c = f.cosine[j], s = f.sine[j];]=])
plant([=[extern "C" enum phx_status phx_cuda_rope_append(]=]
    [=[#include "tests/faults/planted_rope.cuh"

extern "C" enum phx_status phx_cuda_rope_append(]=])
plant([=[    const struct append_args a = {]=] [=[    struct append_args a = {]=])
plant([=[view_of(args->layout)};]=] [=[view_of(args->layout), test_fault};]=])
plant([=[    return with_type(args->qkv.dtype, [&](auto t) {]=]
    [=[    return with_type(args->qkv.dtype, [&](auto t) {
        PHX_TRY(planted_norm<decltype(t)>(stream, &a, args->layout->n_rows));]=])
close()
