/// \file status.h
/// What a fallible function returns, and the one sentence that says why it failed.
///
/// A failure is recorded where it happens, with phx_fail(); callers pass the status on. Whoever
/// ends the work (phx_world_agree() at start-up, main() otherwise) reports the sentence, once.
#ifndef PHX_KERNELS_BASE_STATUS_H
#define PHX_KERNELS_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/// X(name, text)
#define PHX_STATUS_LIST(X)                                                                         \
    X(OK, "ok")                                                                                    \
    X(USAGE, "usage")             /* the command line or a request asks for the impossible */      \
    X(NOT_FOUND, "not found")     /* a file, a tensor, a device */                                 \
    X(IO, "input/output")         /* the system refused to read or write */                        \
    X(BAD_DATA, "bad data")       /* a file's content contradicts itself or its format */          \
    X(UNSUPPORTED, "unsupported") /* valid, but not something this build or machine can do */      \
    X(OUT_OF_MEMORY, "out of memory")                                                              \
    X(DEVICE, "device")            /* the accelerator or its library reported an error */          \
    X(COMM, "communication")       /* a transport between ranks reported an error */               \
    X(PEER, "another rank failed") /* somebody else's sentence tells why */                        \
    X(INTERRUPTED, "interrupted")

enum phx_status {
#define PHX_STATUS_ENUM(name, text) PHX_##name,
    PHX_STATUS_LIST(PHX_STATUS_ENUM)
#undef PHX_STATUS_ENUM
};

/// The text of a status, a static string.
const char *phx_status_text(enum phx_status status);

enum { PHX_SENTENCE_BYTES = 1024 };

/// Record a failure of the calling thread and return `status` (which must not be PHX_OK).
/// The sentence names the thing, the value found, and what would work; no trailing newline.
/// A sentence that is already recorded and not yet taken is replaced.
enum phx_status phx_fail(enum phx_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/// The calling thread's recorded sentence, "" if there is none. Valid until its next phx_fail().
const char *phx_fail_sentence(void);

/// Forget the recorded sentence (it has been reported, or the failure was handled).
void phx_fail_clear(void);

#ifdef __cplusplus
}
#endif
#endif
