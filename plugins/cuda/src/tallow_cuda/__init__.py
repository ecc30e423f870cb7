"""The CUDA backend of Tallow: kernels as CUDA C, compiled by NVRTC to machine code of NVIDIA's GPUs."""
