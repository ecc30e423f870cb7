"""Dialects of C: what differs between the languages that the printer writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """`types` maps dtype names to C types of values and elements; `helper` opens a helper function.

    `half_*` are the bodies of the three functions that read, write and round f16, whose values are
    kept in floats. `group`, `local` and `everyone` are a thread's numbers. `neighbours` is how many threads
    work together as `exchange` (of {value} and {distance}) and matrix units need it, 0 where none do.
    """

    name: str
    prelude: str
    kernel: str
    helper: str
    parameter: str  # of {const}, {type} and {name}
    shared: str
    barrier: str
    group: str
    local: str
    everyone: str
    work_group: str  # attribute for a {size}
    types: Mapping[str, str]
    half: str  # element type of f16 in memory
    half_read: str
    half_write: str
    half_round: str
    memory: tuple[str, ...]  # address spaces that `half_read` and `half_write` are written for
    infinity: str
    long_suffix: str
    neighbours: int = 0
    exchange: str = ""
    barrier_of_neighbours: str = ""
    half_array: str = ""  # of arrays of f16, where `half` is for pointers alone (OpenCL without cl_khr_fp16)
    aligned: str = ""  # attribute of memory for {size} bytes
    lanes: int = 1  # of the longest vector type; 1 where there is none to compute with


OPENCL = Dialect(
    name="opencl",
    prelude="#pragma OPENCL FP_CONTRACT OFF",
    kernel="__kernel void",
    helper="static inline",
    parameter="__global {const}{type} *restrict {name}",
    shared="__local",
    barrier="barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);",
    group="get_group_id(0)",
    local="get_local_id(0)",
    everyone="get_global_id(0)",
    work_group="__attribute__((reqd_work_group_size({size}, 1, 1)))",
    types={
        "bool": "uchar",
        "i8": "char",
        "i16": "short",
        "i32": "int",
        "i64": "long",
        "u8": "uchar",
        "u16": "ushort",
        "u32": "uint",
        "u64": "ulong",
        "f32": "float",
        "f64": "double",
    },
    half="half",
    half_array="ushort",
    half_read="return vload_half(i, p);",
    half_write="vstore_half_rte(x, i, p);",
    half_round="ushort h; vstore_half_rte(x, 0, (half *)&h); return vload_half(0, (half *)&h);",
    memory=("__global ", "__local ", ""),
    infinity="INFINITY",
    long_suffix="L",
    lanes=16,
)

CUDA = Dialect(
    name="cuda",
    prelude="#include <cuda_fp16.h>",
    kernel='extern "C" __global__ void',
    helper="static __device__ __forceinline__",
    parameter="{const}{type} *__restrict__ {name}",
    shared="__shared__",
    barrier="__syncthreads();",
    group="blockIdx.x",
    local="threadIdx.x",
    everyone="(blockIdx.x * (long long)blockDim.x + threadIdx.x)",
    work_group="__launch_bounds__({size})",
    types={
        "bool": "unsigned char",
        "i8": "signed char",
        "i16": "short",
        "i32": "int",
        "i64": "long long",
        "u8": "unsigned char",
        "u16": "unsigned short",
        "u32": "unsigned int",
        "u64": "unsigned long long",
        "f32": "float",
        "f64": "double",
    },
    half="__half",
    half_read="return __half2float(p[i]);",
    half_write="p[i] = __float2half_rn(x);",
    half_round="return __half2float(__half(x));",
    memory=("",),
    infinity="__int_as_float(0x7f800000)",
    long_suffix="LL",
    neighbours=32,
    exchange="__shfl_xor_sync(0xffffffffu, {value}, {distance})",
    barrier_of_neighbours="__syncwarp();",
    aligned="__align__({size})",
)
