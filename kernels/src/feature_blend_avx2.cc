// The feature blend's hot loops for AVX2 and FMA: see feature_blend_kernels.h.
#define REVISAGE_ISA_FUNCTION feature_blend_kernels_avx2
#include "feature_blend_loops.h"
