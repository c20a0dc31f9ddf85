/// Any bytes as a chat template; what parses must render, or fail with a sentence, within bounds.
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>

#include "kernels/base/check.h"
#include "runtime/template/template.h"
#include "runtime/tokenizer/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char variables[] =
        "{\"messages\":[{\"role\":\"system\",\"content\":\"Be \\u00e9.\"},{\"role\":\"user\","
        "\"content\":\"Hi <b>\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
        "\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1.5}}}]}],"
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"bos_token\":\"<s>\","
        "\"eos_token\":\"</s>\",\"add_generation_prompt\":true}";
    static json_t *root;
    struct phx_template *tmpl;
    if (!root) root = json_loads(variables, 0, NULL);
    if (phx_template_parse("fuzz", (const char *)data, size, &tmpl) != PHX_OK) return 0;
    char *text = NULL;
    size_t bytes = 0;
    if (phx_template_render(tmpl, root, 0, &text, &bytes) == PHX_OK) {
        PHX_ASSERT(phx_utf8_valid(text, bytes) == bytes);
        free(text);
    }
    phx_template_destroy(tmpl);
    return 0;
}
