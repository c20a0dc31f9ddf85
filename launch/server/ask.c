#include "launch/server/ask.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/server/fields.h"

static bool no_memory(struct phx_problem *problem)
{
    return phx_problem_set(problem, 503, NULL, NULL, "no memory for the request");
}

/* ---- what is not built ---- */

static bool is_empty(const json_t *value)
{
    return json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static bool refuse(const char *field, struct phx_problem *problem)
{
    return phx_problem_set(problem, 400, "unsupported_parameter", field,
                           "%s is not supported by this server: leave it out", field);
}

/* An object whose type is the only one there is. */
static bool check_type(const json_t *body, const char *field, const char *only,
                       struct phx_problem *problem)
{
    const json_t *value = phx_fields_get(body, field);
    const char *type = NULL;
    if (value == NULL) return true;
    if (!json_is_object(value))
        return phx_problem_set(problem, 400, NULL, field, "%s is %s: it must be an object", field,
                               phx_fields_type(value));
    if (!phx_fields_string(value, "type", &type, problem)) return false;
    if (type != NULL && strcmp(type, only) == 0) return true;
    return phx_problem_set(problem, 400, "unsupported_parameter", field,
                           "%s: the only type that this server supports is \"%s\"", field, only);
}

static bool check_not_built(const json_t *body, struct phx_problem *problem)
{
    static const char *const fields[] = {
        "tools",           "functions",       "function_call",
        "audio",           "prediction",      "web_search_options",
        "suffix",          "use_beam_search", "guided_json",
        "guided_regex",    "guided_choice",   "guided_grammar",
        "grammar",         "json_schema",     "structured_outputs",
        "prompt_logprobs", "prompt_embeds",   "mm_processor_kwargs",
        "documents",       "bad_words",
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const json_t *value = phx_fields_get(body, fields[i]);
        if (value != NULL && !is_empty(value)) return refuse(fields[i], problem);
    }
    const json_t *choice = phx_fields_get(body, "tool_choice");
    const char *word = json_is_string(choice) ? json_string_value(choice) : "";
    if (choice != NULL && strcmp(word, "none") != 0 && strcmp(word, "auto") != 0)
        return refuse("tool_choice", problem);
    const json_t *modalities = phx_fields_get(body, "modalities");
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const json_t *value = json_array_get(modalities, i);
        if (!json_is_string(value) || strcmp(json_string_value(value), "text") != 0)
            return refuse("modalities", problem);
    }
    return check_type(body, "response_format", "text", problem);
}

/* ---- what is to be continued ---- */

static bool set_text(const json_t *value, struct phx_ask_prompt *out, struct phx_problem *problem)
{
    out->text = json_string_value(value);
    out->bytes = json_string_length(value);
    if (out->bytes > 0) return true;
    return phx_problem_set(problem, 400, NULL, "prompt", "prompt is an empty text");
}

static bool set_ids(const json_t *value, struct phx_ask_prompt *out, struct phx_problem *problem)
{
    if (json_array_size(value) == 0)
        return phx_problem_set(problem, 400, NULL, "prompt", "prompt is an empty array");
    return phx_fields_ids(value, "prompt", &out->ids, &out->n_ids, problem);
}

static bool parse_prompts(struct phx_ask *ask, struct phx_problem *problem)
{
    const json_t *value = phx_fields_get(ask->body, "prompt");
    if (value == NULL)
        return phx_problem_set(problem, 400, "missing_required_parameter", "prompt",
                               "prompt is missing: give a string, an array of strings, an array of "
                               "token ids or an array of such arrays");
    const json_t *first = json_array_get(value, 0);
    bool many = json_is_string(first) || json_is_array(first);
    size_t n = many ? json_array_size(value) : 1;
    if (n > PHX_ASK_PROMPTS)
        return phx_problem_set(problem, 400, NULL, "prompt",
                               "prompt has %zu entries: at most %d in one request", n,
                               PHX_ASK_PROMPTS);
    ask->prompts = calloc(n, sizeof *ask->prompts);
    if (ask->prompts == NULL) return no_memory(problem);
    ask->n_prompts = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = many ? json_array_get(value, i) : value;
        bool ok;
        if (json_is_string(one) && (!many || json_is_string(first)))
            ok = set_text(one, &ask->prompts[i], problem);
        else if (json_is_array(one) && (!many || json_is_array(first)))
            ok = set_ids(one, &ask->prompts[i], problem);
        else
            ok = phx_problem_set(problem, 400, NULL, "prompt",
                                 "prompt holds %s: it must be a string, an array of strings, an "
                                 "array of token ids or an array of such arrays",
                                 phx_fields_type(one));
        if (!ok) return false;
    }
    return true;
}

/* The texts of content parts become one text: templates take strings. */
static bool join_parts(json_t *message, size_t i, struct phx_problem *problem)
{
    json_t *content = json_object_get(message, "content");
    size_t bytes = 0, at;
    const json_t *part;
    json_array_foreach(content, at, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (type == NULL || strcmp(type, "text") != 0 || !json_is_string(text))
            return phx_problem_set(problem, 400, NULL, "messages",
                                   "messages[%zu].content[%zu] is no text: only parts of the type "
                                   "\"text\" are supported",
                                   i, at);
        bytes += json_string_length(text);
    }
    char *joined = malloc(bytes + 1);
    size_t n = 0;
    if (joined == NULL) return no_memory(problem);
    json_array_foreach(content, at, part)
    {
        const json_t *text = json_object_get(part, "text");
        memcpy(joined + n, json_string_value(text), json_string_length(text));
        n += json_string_length(text);
    }
    int failed = json_object_set_new(message, "content", json_stringn(joined, n));
    free(joined);
    return failed ? no_memory(problem) : true;
}

static bool check_message(json_t *message, size_t i, struct phx_problem *problem)
{
    if (!json_is_object(message))
        return phx_problem_set(problem, 400, NULL, "messages",
                               "messages[%zu] is %s: it must be an object", i,
                               phx_fields_type(message));
    if (!json_is_string(json_object_get(message, "role")))
        return phx_problem_set(problem, 400, NULL, "messages",
                               "messages[%zu].role must be a string", i);
    const json_t *content = json_object_get(message, "content");
    if (json_is_array(content)) return join_parts(message, i, problem);
    if (json_is_string(content)) return true;
    return phx_problem_set(problem, 400, NULL, "messages",
                           "messages[%zu].content must be a string or an array of text parts", i);
}

static bool parse_messages(struct phx_ask *ask, struct phx_problem *problem)
{
    json_t *messages = phx_fields_get(ask->body, "messages"), *message;
    size_t i;
    if (messages == NULL)
        return phx_problem_set(problem, 400, "missing_required_parameter", "messages",
                               "messages is missing: give an array of messages");
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return phx_problem_set(problem, 400, NULL, "messages",
                               "messages must be an array with at least one message");
    if (json_array_size(messages) > PHX_ASK_MESSAGES)
        return phx_problem_set(problem, 400, NULL, "messages",
                               "messages has %zu entries: at most %d", json_array_size(messages),
                               PHX_ASK_MESSAGES);
    json_array_foreach(messages, i, message)
    {
        if (!check_message(message, i, problem)) return false;
    }
    ask->messages = messages;
    ask->prompts = calloc(1, sizeof *ask->prompts);
    if (ask->prompts == NULL) return no_memory(problem);
    ask->n_prompts = 1;
    ask->template_arguments = phx_fields_get(ask->body, "chat_template_kwargs");
    if (ask->template_arguments != NULL && !json_is_object(ask->template_arguments))
        return phx_problem_set(problem, 400, NULL, "chat_template_kwargs",
                               "chat_template_kwargs is %s: it must be an object",
                               phx_fields_type(ask->template_arguments));
    ask->add_generation_prompt = true;
    if (!phx_fields_bool(ask->body, "add_generation_prompt", &ask->add_generation_prompt,
                         problem) ||
        !phx_fields_bool(ask->body, "continue_final_message", &ask->continue_final_message,
                         problem))
        return false;
    if (ask->continue_final_message) return refuse("continue_final_message", problem);
    return true;
}

/* ---- how it is continued ---- */

static bool parse_sampling(struct phx_ask *ask, struct phx_problem *problem)
{
    struct phx_sampling *s = &ask->sampling;
    const json_t *body = ask->body;
    int32_t top_k = s->top_k;
    int64_t seed = 0;
    if (!phx_fields_real(body, "temperature", 0, 2, false, &s->temperature, problem) ||
        !phx_fields_real(body, "top_p", 0, 1, true, &s->top_p, problem) ||
        !phx_fields_real(body, "min_p", 0, 1, false, &s->min_p, problem) ||
        !phx_fields_int32(body, "top_k", -1, INT32_MAX, &top_k, problem) ||
        !phx_fields_real(body, "repetition_penalty", 0, 2, true, &s->repeat_penalty, problem) ||
        !phx_fields_real(body, "presence_penalty", -2, 2, false, &s->presence_penalty, problem) ||
        !phx_fields_real(body, "frequency_penalty", -2, 2, false, &s->frequency_penalty, problem) ||
        !phx_fields_int(body, "seed", INT64_MIN, INT64_MAX, &seed, problem))
        return false;
    if (s->temperature > 0 && s->temperature < 1e-6f)
        return phx_problem_set(problem, 400, NULL, "temperature",
                               "temperature is %g: it must be 0, or at least 0.000001",
                               (double)s->temperature);
    s->top_k = top_k < 0 ? 0 : top_k;
    ask->seeded = phx_fields_get(body, "seed") != NULL;
    s->seed = (uint64_t)seed;
    return true;
}

static bool parse_bias(struct phx_ask *ask, struct phx_problem *problem)
{
    json_t *biases = phx_fields_get(ask->body, "logit_bias"), *value;
    const char *key;
    if (biases == NULL) return true;
    if (!json_is_object(biases))
        return phx_problem_set(problem, 400, NULL, "logit_bias",
                               "logit_bias is %s: it must be an object of token ids and numbers",
                               phx_fields_type(biases));
    size_t n = json_object_size(biases);
    if (n > PHX_MAX_BIAS)
        return phx_problem_set(problem, 400, NULL, "logit_bias",
                               "logit_bias has %zu entries: at most %d", n, PHX_MAX_BIAS);
    ask->bias_ids = malloc(n * sizeof *ask->bias_ids + 1);
    ask->bias_values = malloc(n * sizeof *ask->bias_values + 1);
    if (ask->bias_ids == NULL || ask->bias_values == NULL) return no_memory(problem);
    json_object_foreach(biases, key, value)
    {
        char *end;
        errno = 0;
        long id = strtol(key, &end, 10);
        /* One way to write each: "7" and "07" would be the same token twice. */
        bool plain = key[0] >= '0' && key[0] <= '9' && (key[0] != '0' || key[1] == '\0');
        if (!plain || *end != '\0' || errno != 0 || id > INT32_MAX)
            return phx_problem_set(problem, 400, NULL, "logit_bias",
                                   "logit_bias: a key is no token id, like \"29\"");
        double x = json_number_value(value);
        if (!json_is_number(value) || !(x >= -100 && x <= 100))
            return phx_problem_set(problem, 400, NULL, "logit_bias",
                                   "logit_bias of token %ld must be a number from -100 to 100", id);
        ask->bias_ids[ask->n_bias] = (int32_t)id;
        ask->bias_values[ask->n_bias++] = (float)x;
    }
    return true;
}

static bool add_stop(struct phx_ask *ask, const json_t *value, struct phx_problem *problem)
{
    if (!json_is_string(value))
        return phx_problem_set(problem, 400, NULL, "stop",
                               "stop holds %s: it must be a string or an array of strings",
                               phx_fields_type(value));
    const char *text = json_string_value(value);
    if (text[0] == '\0' || strlen(text) != json_string_length(value))
        return phx_problem_set(problem, 400, NULL, "stop",
                               "stop: a text is empty or holds a zero character");
    if (ask->n_stops == PHX_ASK_STOPS)
        return phx_problem_set(problem, 400, NULL, "stop", "stop has more than %d texts",
                               PHX_ASK_STOPS);
    ask->stops[ask->n_stops++] = text;
    return true;
}

static bool parse_stops(struct phx_ask *ask, struct phx_problem *problem)
{
    const json_t *stop = phx_fields_get(ask->body, "stop"), *value;
    const json_t *ids = phx_fields_get(ask->body, "stop_token_ids");
    size_t i;
    if (stop != NULL && !json_is_array(stop) && !add_stop(ask, stop, problem)) return false;
    json_array_foreach(stop, i, value)
    {
        if (!add_stop(ask, value, problem)) return false;
    }
    if (!phx_fields_bool(ask->body, "ignore_eos", &ask->ignore_eos, problem)) return false;
    if (ids == NULL) return true;
    if (!json_is_array(ids) || json_array_size(ids) > PHX_ASK_STOP_IDS)
        return phx_problem_set(problem, 400, NULL, "stop_token_ids",
                               "stop_token_ids must be an array of at most %d token ids",
                               PHX_ASK_STOP_IDS);
    int32_t *copy;
    if (!phx_fields_ids(ids, "stop_token_ids", &copy, &ask->n_stop_ids, problem)) return false;
    memcpy(ask->stop_ids, copy, ask->n_stop_ids * sizeof *copy);
    free(copy);
    return true;
}

/* max_completion_tokens is the newer name, and counts where both are given. */
static bool parse_lengths(struct phx_ask *ask, struct phx_problem *problem)
{
    int32_t best_of = 0;
    if (!phx_fields_int32(ask->body, "max_tokens", 0, INT32_MAX, &ask->max_new, problem) ||
        !phx_fields_int32(ask->body, "max_completion_tokens", 0, INT32_MAX, &ask->max_new,
                          problem) ||
        !phx_fields_int32(ask->body, "min_tokens", 0, INT32_MAX, &ask->min_new, problem) ||
        !phx_fields_int32(ask->body, "n", 1, PHX_ASK_CHOICES, &ask->n_choices, problem) ||
        !phx_fields_int32(ask->body, "best_of", 1, PHX_ASK_CHOICES, &best_of, problem))
        return false;
    if (best_of != 0 && best_of != ask->n_choices) return refuse("best_of", problem);
    if (ask->max_new >= 0 && ask->min_new > ask->max_new)
        return phx_problem_set(problem, 400, NULL, "min_tokens",
                               "min_tokens is %d: more than max_tokens, %d", ask->min_new,
                               ask->max_new);
    return true;
}

/* ---- what is told of it ---- */

static bool parse_logprobs(struct phx_ask *ask, struct phx_problem *problem)
{
    if (ask->kind == PHX_ASK_COMPLETION)
        return phx_fields_int32(ask->body, "logprobs", 0, PHX_ASK_LOGPROBS, &ask->n_logprobs,
                                problem);
    bool wanted = false;
    int32_t n_top = 0;
    if (!phx_fields_bool(ask->body, "logprobs", &wanted, problem) ||
        !phx_fields_int32(ask->body, "top_logprobs", 0, PHX_ASK_LOGPROBS, &n_top, problem))
        return false;
    if (!wanted && n_top > 0)
        return phx_problem_set(problem, 400, NULL, "top_logprobs",
                               "top_logprobs needs \"logprobs\": true");
    if (wanted) ask->n_logprobs = n_top;
    return true;
}

static bool parse_output(struct phx_ask *ask, struct phx_problem *problem)
{
    const json_t *options = phx_fields_get(ask->body, "stream_options");
    if (!phx_fields_string(ask->body, "model", &ask->model, problem) ||
        !parse_logprobs(ask, problem) || !phx_fields_bool(ask->body, "echo", &ask->echo, problem) ||
        !phx_fields_bool(ask->body, "stream", &ask->stream, problem) ||
        !phx_fields_bool(ask->body, "add_special_tokens", &ask->add_special_tokens, problem) ||
        !phx_fields_bool(ask->body, "return_token_ids", &ask->return_token_ids, problem))
        return false;
    if (ask->kind == PHX_ASK_CHAT && ask->echo) return refuse("echo", problem);
    if (options == NULL) return true;
    if (!json_is_object(options))
        return phx_problem_set(problem, 400, NULL, "stream_options",
                               "stream_options is %s: it must be an object",
                               phx_fields_type(options));
    if (!ask->stream)
        return phx_problem_set(problem, 400, NULL, "stream_options",
                               "stream_options needs \"stream\": true");
    return phx_fields_bool(options, "include_usage", &ask->include_usage, problem);
}

bool phx_ask_parse(enum phx_ask_kind kind, const struct phx_sampling *defaults, const char *body,
                   size_t bytes, struct phx_ask **out, struct phx_problem *problem)
{
    *out = NULL;
    struct phx_ask *ask = calloc(1, sizeof *ask);
    if (ask == NULL) return no_memory(problem);
    ask->kind = kind;
    ask->sampling = *defaults;
    ask->n_choices = 1;
    ask->max_new = -1;
    ask->n_logprobs = -1;
    ask->add_special_tokens = kind == PHX_ASK_COMPLETION;
    bool ok =
        phx_fields_parse(body, bytes, &ask->body, problem) && check_not_built(ask->body, problem) &&
        (kind == PHX_ASK_CHAT ? parse_messages(ask, problem) : parse_prompts(ask, problem)) &&
        parse_sampling(ask, problem) && parse_bias(ask, problem) && parse_stops(ask, problem) &&
        parse_lengths(ask, problem) && parse_output(ask, problem);
    if (!ok) {
        phx_ask_destroy(ask);
        return false;
    }
    *out = ask;
    return true;
}

void phx_ask_destroy(struct phx_ask *ask)
{
    if (ask == NULL) return;
    for (size_t i = 0; i < ask->n_prompts; i++) free(ask->prompts[i].ids);
    free(ask->prompts);
    free(ask->bias_ids);
    free(ask->bias_values);
    json_decref(ask->body);
    free(ask);
}
