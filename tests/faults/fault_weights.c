/* Faults of weights: what the loader walks over, changed. Linked with --wrap=phx_weight_walk_next.
 */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/base/check.h"
#include "runtime/weight_walk.h"
#include "tests/faults/fault.h"

bool __real_phx_weight_walk_next(struct phx_weight_walk *walk, struct phx_weight_place *out);
bool __wrap_phx_weight_walk_next(struct phx_weight_walk *walk, struct phx_weight_place *out);

/* ---- changed copies of tensors ---- */

enum { MAX_COPIES = 4096 };

static struct copy {
    struct phx_file_tensor tensor;
    void *memory;
} copies[MAX_COPIES];
static int n_copies;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Shared memory keeps its bytes when a loader says that it does not need them any more. */
static struct copy *new_copy(const struct phx_file_tensor *of)
{
    pthread_mutex_lock(&lock);
    PHX_ASSERT(n_copies < MAX_COPIES);
    struct copy *copy = &copies[n_copies++];
    pthread_mutex_unlock(&lock);
    copy->memory = mmap(NULL, of->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    PHX_ASSERT(copy->memory != MAP_FAILED);
    copy->tensor = *of;
    copy->tensor.data = copy->memory;
    return copy;
}

void test_fault_clear(void)
{
    while (n_copies > 0) {
        n_copies--;
        munmap(copies[n_copies].memory, copies[n_copies].tensor.bytes);
    }
}

/* The part's groups of rank 0, 0 + T, 0 + 2T, ..., then those of rank 1: a contiguous cut then
 * interleaves them. */
static void interleave(struct phx_weight_part *part, size_t n_groups, size_t n_ranks)
{
    const struct phx_file_tensor *from = part->tensor;
    const size_t row_bytes = from->bytes / (size_t)part->span.all_rows;
    const size_t begin = (size_t)part->span.first_row * row_bytes;
    const size_t bytes = (size_t)part->full_rows * row_bytes / n_groups;
    struct copy *copy = new_copy(from);
    memcpy(copy->memory, from->data, from->bytes);
    char *to = (char *)copy->memory + begin;
    for (size_t r = 0; r < n_ranks; r++)
        for (size_t g = r; g < n_groups; g += n_ranks, to += bytes)
            memcpy(to, (const char *)from->data + begin + g * bytes, bytes);
    part->tensor = &copy->tensor;
}

static void transpose(struct phx_weight_part *part)
{
    const struct phx_file_tensor *from = part->tensor;
    const size_t n = (size_t)part->full_rows, each = from->bytes / (n * n);
    struct copy *copy = new_copy(from);
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < n; c++)
            memcpy((char *)copy->memory + (c * n + r) * each,
                   (const char *)from->data + (r * n + c) * each, each);
    part->tensor = &copy->tensor;
}

/* ---- changed cuts ---- */

/* As many as before, from `begin` on or as far as there are. */
static struct phx_interval moved(struct phx_interval own, int64_t begin, int64_t full)
{
    const int64_t n = phx_interval_length(own);
    if (begin > full - n) begin = full - n;
    return (struct phx_interval){begin, begin + n};
}

static bool is(const struct phx_weight_place *place, enum test_fault fault, enum phx_slot a,
               enum phx_slot b)
{
    return test_fault_is(fault) && (place->slot == a || place->slot == b);
}

static void change_qkv(struct phx_weight_part *part, const struct phx_weight_walk *walk,
                       const struct phx_weight_place *place)
{
    const struct phx_layer_shape *s = &walk->config->layers[place->layer].shape;
    const int rank = phx_shard_plan_rank(walk->plan), size = phx_shard_plan_size(walk->plan);
    const bool vector = place->is_vector;
    const enum phx_dim dim = vector ? part->row->col_dim : part->row->row_dim;
    struct phx_interval *own = vector ? &part->cols : &part->rows;
    const int64_t full = vector ? part->full_cols : part->full_rows;
    const int64_t padded = (s->n_heads + size - 1) / size;
    if (test_fault_is(FAULT_INTERLEAVED_GROUPS) && part->tensor != NULL)
        interleave(part, (size_t)s->n_kv_heads, (size_t)size);
    if (test_fault_is(FAULT_RANK_OFFSET) && dim == PHX_DIM_KV) *own = moved(*own, 0, full);
    if (test_fault_is(FAULT_Q_PADDED) && dim == PHX_DIM_Q)
        *own = moved(*own, rank * padded * s->head_dim, full);
}

/* The last one has none, and stays as it is. */
static void take_next_expert(struct phx_weight_part *part, const struct phx_weight_walk *walk,
                             const struct phx_weight_place *place)
{
    char name[PHX_WEIGHT_NAME_BYTES];
    if (walk->checkpoint == NULL) return;
    phx_weight_name(part->row->name, place->layer, place->expert + 1, name);
    const struct phx_file_tensor *next = phx_checkpoint_find(walk->checkpoint, name);
    if (next != NULL) part->tensor = next;
}

static void change(struct phx_weight_walk *walk, struct phx_weight_place *place)
{
    const int rank = phx_shard_plan_rank(walk->plan), size = phx_shard_plan_size(walk->plan);
    struct phx_weight_part *part = &place->parts[0];
    if (place->slot == PHX_SLOT_QKV || place->slot == PHX_SLOT_QKV_BIAS)
        for (int i = 0; i < place->n_parts; i++) change_qkv(&place->parts[i], walk, place);
    if (is(place, FAULT_O_TRANSPOSED, PHX_SLOT_O, PHX_SLOT_O) &&
        part->full_rows == part->full_cols && part->tensor != NULL)
        transpose(part);
    if (is(place, FAULT_O_COLUMNS, PHX_SLOT_O, PHX_SLOT_O)) {
        const int other = rank + 1 < size ? rank + 1 : 0;
        part->cols = moved(
            part->cols, phx_shard_plan_interval(walk->plan, other, place->layer, PHX_DIM_Q).begin,
            part->full_cols);
    }
    if (is(place, FAULT_LM_HEAD_SHIFTED, PHX_SLOT_LM_HEAD, PHX_SLOT_LM_HEAD) && size > 1) {
        const bool room = part->rows.end < part->full_rows;
        part->rows = moved(part->rows, part->rows.begin + (room ? 1 : -1), part->full_rows);
    }
    if (is(place, FAULT_EXPERT_OF_NEIGHBOUR, PHX_SLOT_EXPERTS_GATE_UP, PHX_SLOT_EXPERTS_GATE_UP))
        take_next_expert(part, walk, place);
    if (is(place, FAULT_BIAS_EVERYWHERE, PHX_SLOT_O_BIAS, PHX_SLOT_DOWN_BIAS) && place->absent) {
        const size_t bytes = phx_dtype_bytes(PHX_F32, place->shape.cols);
        place->absent = false;
        walk->vector_bytes += (bytes + 255) & ~(size_t)255;
    }
}

bool __wrap_phx_weight_walk_next(struct phx_weight_walk *walk, struct phx_weight_place *out)
{
    if (!__real_phx_weight_walk_next(walk, out)) return false;
    if (!test_fault_is(FAULT_NONE)) change(walk, out);
    return true;
}
