/// \file log.h
/// Lines on stderr, each with the rank that writes it.
#ifndef PHX_KERNELS_BASE_LOG_H
#define PHX_KERNELS_BASE_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

enum phx_log_level { PHX_LOG_ERROR, PHX_LOG_WARN, PHX_LOG_INFO, PHX_LOG_DEBUG };

/// Lines above this level are dropped. Process-wide; PHX_LOG_WARN until set.
void phx_log_level_set(enum phx_log_level level);

/// The rank named in the calling thread's lines (ranks may be threads); -1, the default, names
/// none.
void phx_log_rank_set(int rank);

/// One line "phalanx[rank]: level: ..." in a single write.
void phx_log(enum phx_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
