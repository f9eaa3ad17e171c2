// The Fourier unit's hot loops for AVX2 and FMA: see fft_conv_kernels.h.
#define REVISAGE_ISA_FUNCTION fourier_kernels_avx2
#define REVISAGE_LANES 8
#define REVISAGE_GEMM_ROWS 6
#include "fft_conv_loops.h"
