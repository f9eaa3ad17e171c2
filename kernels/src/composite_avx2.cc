// The compositor's hot loops for AVX2 and F16C: see composite_kernels.h.
#define REVISAGE_ISA_FUNCTION composite_kernels_avx2
#include "composite_loops.h"
