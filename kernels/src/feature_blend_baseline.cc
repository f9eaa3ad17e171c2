// The feature blend's hot loops for any machine: see feature_blend_kernels.h.
#define REVISAGE_ISA_FUNCTION feature_blend_kernels_baseline
#include "feature_blend_loops.h"
