// The Winograd convolution's hot loops for AVX2 and FMA: see winograd_conv_kernels.h.
#define REVISAGE_ISA_FUNCTION winograd_kernels_avx2
#define REVISAGE_GEMM_ROWS 6
#include "winograd_conv_loops.h"
