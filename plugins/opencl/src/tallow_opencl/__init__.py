"""The OpenCL backend of Tallow: kernels as OpenCL C, compiled by the drivers of the devices that are here."""
