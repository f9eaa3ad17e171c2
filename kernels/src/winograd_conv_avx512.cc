// The Winograd convolution's hot loops for AVX-512 F, BW, DQ, VL: see winograd_conv_kernels.h.
#define REVISAGE_ISA_FUNCTION winograd_kernels_avx512
#define REVISAGE_GEMM_ROWS 14
#include "winograd_conv_loops.h"
