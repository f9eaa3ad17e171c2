// The compositor's hot loops for any machine: see composite_kernels.h.
#define REVISAGE_ISA_FUNCTION composite_kernels_baseline
#include "composite_loops.h"
