// The compositor's hot loops for AVX-512 F, BW, DQ, VL: see composite_kernels.h.
#define REVISAGE_ISA_FUNCTION composite_kernels_avx512
#include "composite_loops.h"
