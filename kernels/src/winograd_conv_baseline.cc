// The Winograd convolution's hot loops for any machine: see winograd_conv_kernels.h.
#define REVISAGE_ISA_FUNCTION winograd_kernels_baseline
#define REVISAGE_GEMM_ROWS 6
#include "winograd_conv_loops.h"
