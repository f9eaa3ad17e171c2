// The Fourier unit's hot loops for any machine: see fft_conv_kernels.h.
#define REVISAGE_ISA_FUNCTION fourier_kernels_baseline
#define REVISAGE_LANES 4
#define REVISAGE_GEMM_ROWS 4
#include "fft_conv_loops.h"
