# The CUDA backend and NCCL, or neither: PHX_HAS_CUDA says which of the two configurations this is.
set(PHX_CUDA AUTO CACHE STRING "The CUDA backend: AUTO (if the toolkit and NCCL are found), ON or OFF")
set_property(CACHE PHX_CUDA PROPERTY STRINGS AUTO ON OFF)

# Architectures of the GPUs of this machine.
function(phx_cuda_gpus out)
    set(found "")
    find_program(PHX_NVIDIA_SMI nvidia-smi)
    if(PHX_NVIDIA_SMI)
        execute_process(COMMAND ${PHX_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
            OUTPUT_VARIABLE text RESULT_VARIABLE failed ERROR_QUIET)
        if(NOT failed)
            string(REGEX MATCHALL "[0-9]+\\.[0-9]+" found "${text}")
            string(REPLACE "." "" found "${found}")
            string(REPLACE "90" "90a" found "${found}")
            list(REMOVE_DUPLICATES found)
        endif()
    endif()
    set(${out} "${found}" PARENT_SCOPE)
endfunction()

set(PHX_HAS_CUDA OFF)
if(PHX_CUDA)
    include(CheckLanguage)
    find_package(CUDAToolkit QUIET)
    check_language(CUDA)
    find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_library(NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR})
    if(CUDAToolkit_FOUND AND CMAKE_CUDA_COMPILER AND NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
        set(PHX_HAS_CUDA ON)
    elseif(NOT PHX_CUDA STREQUAL "AUTO")
        message(FATAL_ERROR "PHX_CUDA is ${PHX_CUDA}, but something is missing: the CUDA toolkit "
            "(${CUDAToolkit_VERSION}), its compiler (${CMAKE_CUDA_COMPILER}), nccl.h "
            "(${NCCL_INCLUDE_DIR}) or libnccl (${NCCL_LIBRARY})")
    endif()
endif()

if(PHX_HAS_CUDA)
    phx_cuda_gpus(gpus)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
        set(architectures "${gpus}")
        if(NOT gpus)
            set(architectures 80 90a) # A100; H100 and H200
        endif()
        set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "GPUs to build kernels for")
    endif()
    # The tests' own copies of kernels, with faults in them. Without a GPU nothing runs them, and
    # that they compile is seen from the PTX of one architecture, in a quarter of the time.
    set(PHX_CUDA_PLANTED_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
    if(NOT gpus AND CMAKE_CUDA_ARCHITECTURES MATCHES "([0-9]+a?)(-[a-z]+)?$")
        set(PHX_CUDA_PLANTED_ARCHITECTURES ${CMAKE_MATCH_1}-virtual)
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_EXTENSIONS OFF)
    target_compile_options(phx_flags INTERFACE
        $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
        $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${PHX_WERROR}>>:-Werror=all-warnings>)
    add_library(phx_nccl INTERFACE)
    target_include_directories(phx_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
    target_link_libraries(phx_nccl INTERFACE ${NCCL_LIBRARY} CUDA::cudart_static)
    message(STATUS "CUDA ${CUDAToolkit_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}; NCCL: ${NCCL_LIBRARY}")
else()
    message(STATUS "CUDA: none (PHX_CUDA is ${PHX_CUDA}); building for the CPU")
endif()
