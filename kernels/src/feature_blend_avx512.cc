// The feature blend's hot loops for AVX-512 F, BW, DQ, VL: see feature_blend_kernels.h.
#define REVISAGE_ISA_FUNCTION feature_blend_kernels_avx512
#include "feature_blend_loops.h"
