#include "runtime/weights_check.h"

#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/weight_walk.h"

enum { NAMES_SHOWN = 3, NAMES_BYTES = 400 };

/* The first few of a list of names, and how many there are. */
struct name_list {
    size_t count;
    char shown[NAMES_BYTES - 80];
};

static void list_name(struct name_list *list, const char *name)
{
    size_t used = strlen(list->shown);
    if (list->count++ < NAMES_SHOWN)
        snprintf(list->shown + used, sizeof list->shown - used, "%s%.96s", used ? ", " : "", name);
}

/* "; 4 missing (a, b, c, ...)", or nothing. */
static const char *list_text(const struct name_list *list, const char *what, char text[NAMES_BYTES])
{
    *text = '\0';
    if (list->count > 0) {
        snprintf(text, NAMES_BYTES, "; %zu %s (%s%s)", list->count, what, list->shown,
                 list->count > NAMES_SHOWN ? ", ..." : "");
    }
    return text;
}

/* That layer, and of it that expert, is there and has the row. */
static bool has_row(const struct phx_config *config, const struct phx_weight_row *row,
                    const int64_t numbers[2])
{
    if (row->per_layer && numbers[0] >= config->n_layers) return false;
    if (row->per_expert && numbers[1] >= config->layers[numbers[0]].shape.n_experts) return false;
    return phx_weight_row_wanted(row, config, (int32_t)numbers[0]) || row->slot == PHX_SLOT_LM_HEAD;
}

/* Old files carry the rotary frequencies, which we compute; a tied lm_head is the embedding. */
static bool is_expected(const struct phx_config *config, const char *name)
{
    static const char computed[] = "rotary_emb.inv_freq";
    size_t length = strlen(name), suffix = sizeof computed - 1, n_rows;
    if (length >= suffix && strcmp(name + length - suffix, computed) == 0) return true;
    const struct phx_weight_row *rows = phx_weight_rows(config, &n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        int64_t numbers[2] = {0};
        if (phx_weight_name_is(rows[i].name, name, numbers) && has_row(config, &rows[i], numbers))
            return true;
    }
    return false;
}

static enum phx_status check_names(struct phx_weight_walk walk)
{
    struct name_list missing = {0}, unexpected = {0};
    struct phx_weight_place place;
    while (phx_weight_walk_next(&walk, &place)) {
        for (int i = 0; i < place.n_parts; i++) {
            if (place.parts[i].tensor) continue;
            char name[PHX_WEIGHT_NAME_BYTES];
            phx_weight_name(place.parts[i].row->name, place.layer, place.expert, name);
            list_name(&missing, name);
        }
    }
    for (size_t i = 0; i < phx_checkpoint_count(walk.checkpoint); i++) {
        const char *name = phx_checkpoint_at(walk.checkpoint, i)->name;
        if (!is_expected(walk.config, name)) list_name(&unexpected, name);
    }
    if (missing.count == 0 && unexpected.count == 0) return PHX_OK;
    char text[2][NAMES_BYTES];
    return phx_fail(PHX_BAD_DATA, "the tensors of %s are not those of its %s (%s, %d layers)%s%s",
                    phx_checkpoint_path(walk.checkpoint),
                    phx_checkpoint_config_name(walk.checkpoint), walk.config->model_type,
                    walk.config->n_layers, list_text(&missing, "missing", text[0]),
                    list_text(&unexpected, "unexpected", text[1]));
}

static enum phx_status check_tensor(const char *config_name, const struct phx_weight_place *place,
                                    const struct phx_weight_part *part)
{
    const struct phx_file_tensor *tensor = part->tensor;
    if (!phx_file_tensor_is_weight(tensor)) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: tensor %s has type %s; a weight must be F32, F16 or BF16",
                        tensor->file, tensor->name, tensor->dtype_name);
    }
    if (place->is_vector && !phx_dtype_traits((enum phx_dtype)tensor->dtype)->is_float) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: tensor %s has type %s; a norm or bias must be F32, F16 or BF16",
                        tensor->file, tensor->name, tensor->dtype_name);
    }
    struct phx_file_tensor expected = {.n_dims = 2,
                                       .shape = {part->span.all_rows, part->full_cols}};
    if (place->is_vector)
        expected = (struct phx_file_tensor){.n_dims = 1, .shape = {part->full_cols}};
    if (tensor->n_dims == expected.n_dims &&
        memcmp(tensor->shape, expected.shape, sizeof expected.shape) == 0)
        return PHX_OK;
    char found_text[PHX_SHAPE_TEXT_BYTES], expected_text[PHX_SHAPE_TEXT_BYTES];
    return phx_fail(PHX_BAD_DATA, "%s: tensor %s has the shape %s, but by its %s it must be %s",
                    tensor->file, tensor->name, phx_file_tensor_shape_text(tensor, found_text),
                    config_name, phx_file_tensor_shape_text(&expected, expected_text));
}

/* A weight of all experts has the type of the first one's. */
static enum phx_status check_same_type(const struct phx_weight_place *place, enum phx_dtype first)
{
    if (!place->continues || place->shape.dtype == first) return PHX_OK;
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: tensor %s has type %s, but its like of an earlier expert has %s; experts "
                    "of one layer must be of one type",
                    place->parts[0].tensor->file, place->parts[0].tensor->name,
                    phx_dtype_traits(place->shape.dtype)->name, phx_dtype_traits(first)->name);
}

enum phx_status phx_weights_check(const struct phx_config *config,
                                  const struct phx_shard_plan *plan,
                                  const struct phx_checkpoint *checkpoint)
{
    struct phx_weight_walk walk = phx_weight_walk_start(config, plan, checkpoint);
    struct phx_weight_place place;
    enum phx_dtype first = PHX_F32;
    PHX_TRY(check_names(walk));
    while (phx_weight_walk_next(&walk, &place)) {
        for (int i = 0; i < place.n_parts; i++)
            PHX_TRY(check_tensor(phx_checkpoint_config_name(checkpoint), &place, &place.parts[i]));
        PHX_TRY(check_same_type(&place, first));
        if (!place.continues) first = place.shape.dtype;
    }
    return PHX_OK;
}
