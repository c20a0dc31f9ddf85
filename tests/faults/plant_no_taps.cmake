# Not a fault, but no taps either: what taps_cost.sh holds the program against. See plant.cmake.
include(${CMAKE_CURRENT_LIST_DIR}/plant.cmake)

open(runtime/forward.c)
plant([=[    if (f->taps == NULL) return PHX_OK;
    return f->taps->look(f->taps->user, s, step, point, layer, tensor);]=]
    [=[    (void)f, (void)s, (void)step, (void)point, (void)layer, (void)tensor;
    return PHX_OK;]=])
plant([=[                                   .tap = f->taps == NULL ? NULL
                                                          : f->taps->attention(f->taps->user, l)}));]=]
    [=[                                   .tap = NULL}));]=])
close()

open(kernels/ops.c)
plant([=[    if (args->tap != NULL) check_tap(stream, args);]=] [=[    (void)check_tap;]=])
plant([=[    if (args->tap == NULL) RUN(attention);
    RUN(attention_tapped);]=] [=[    RUN(attention);]=])
close()
