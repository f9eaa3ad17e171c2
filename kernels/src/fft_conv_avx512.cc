// The Fourier unit's hot loops for AVX-512 F, BW, DQ, VL: see fft_conv_kernels.h.
#define REVISAGE_ISA_FUNCTION fourier_kernels_avx512
#define REVISAGE_LANES 16
#define REVISAGE_GEMM_ROWS 13
#include "fft_conv_loops.h"
