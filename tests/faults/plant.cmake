# Copies of sources with faults in them, each behind a switch; plant_cpu.cmake and others include
# this:
#   cmake -DROOT=<tree> -DOUT=<folder> -P plant_cpu.cmake
# An edit whose place is gone, or is there twice, is an error: the source has changed, and so must
# the fault.
cmake_minimum_required(VERSION 3.22)

function(open file)
    file(READ "${ROOT}/${file}" text)
    set(planting "${file}" PARENT_SCOPE)
    set(text "#include \"tests/faults/fault.h\"\n${text}" PARENT_SCOPE)
endfunction()

function(plant old new)
    string(FIND "${text}" "${old}" first)
    string(FIND "${text}" "${old}" last REVERSE)
    if(first EQUAL -1 OR NOT first EQUAL last)
        message(FATAL_ERROR "${planting}: a fault is planted where there is once: ${old}")
    endif()
    string(REPLACE "${old}" "${new}" text "${text}")
    set(text "${text}" PARENT_SCOPE)
endfunction()

function(close)
    file(WRITE "${OUT}/${planting}" "${text}")
endfunction()
