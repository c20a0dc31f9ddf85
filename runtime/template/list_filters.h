/// \file list_filters.h
/// Filters of lists and dicts.
#ifndef PHX_RUNTIME_TEMPLATE_LIST_FILTERS_H
#define PHX_RUNTIME_TEMPLATE_LIST_FILTERS_H

#include "runtime/template/filters.h"

extern const struct phx_tfilter phx_tlist_filters[];
extern const size_t phx_tlist_n_filters;

#endif
