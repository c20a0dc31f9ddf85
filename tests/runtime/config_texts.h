/* A config.json of each of the first families, and changes to it. */
#ifndef PHX_TESTS_RUNTIME_CONFIG_TEXTS_H
#define PHX_TESTS_RUNTIME_CONFIG_TEXTS_H

#include "runtime/config.h"

/* The text of PHX_LLAMA, PHX_MISTRAL, PHX_QWEN2 or PHX_QWEN3. */
const char *config_text(enum phx_family family);

/* The same with the entries of `changes` (a JSON object) put over it; a value of "<absent>" takes
 * the key away. free() it. */
char *config_text_changed(enum phx_family family, const char *changes);

#endif
