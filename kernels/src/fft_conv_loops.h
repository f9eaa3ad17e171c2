// Body of fft_conv_<isa>.cc: no include guard, once per file. Before including it, define
//     REVISAGE_ISA_FUNCTION  name of the function that returns the kernels
//     REVISAGE_GEMM_ROWS     rows of the register tile
//     REVISAGE_GEMM_VECTORS  sixteen-float vectors per row of the tile
#include "fft_conv_kernels.h"

namespace revisage {
namespace {

typedef float Vector __attribute__((vector_size(64)));

struct Complex {
  Vector re, im;
};

inline Complex operator+(const Complex& a, const Complex& b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(const Complex& a, const Complex& b) { return {a.re - b.re, a.im - b.im}; }

inline Complex times(const Complex& a, float re, float im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}

// -i * a
inline Complex quarter_turn(const Complex& a) { return {a.im, -a.re}; }

// ---- FFT ----------------------------------------------------------------------------------------
// One Stockham pass: in[q + stride * (p + m * k)] -> out[q + stride * (radix * p + j)], where
// out_j = w^(p * j) * sum_k in_k * exp(-2 pi i j k / radix) and w = exp(-2 pi i / (m * radix)).

struct Radix2 {
  static constexpr int radix = 2;
  static void butterfly(Complex* v) {
    const Complex a = v[0], b = v[1];
    v[0] = a + b;
    v[1] = a - b;
  }
};

struct Radix3 {
  static constexpr int radix = 3;
  static void butterfly(Complex* v) {
    constexpr float sine = 0.86602540378443864676f;
    const Complex sum = v[1] + v[2], turn = quarter_turn(v[1] - v[2]);
    const Complex base = {v[0].re - 0.5f * sum.re, v[0].im - 0.5f * sum.im};
    const Complex side = {turn.re * sine, turn.im * sine};
    v[0] = v[0] + sum;
    v[1] = base + side;
    v[2] = base - side;
  }
};

struct Radix4 {
  static constexpr int radix = 4;
  static void butterfly(Complex* v) {
    const Complex a = v[0] + v[2], b = v[0] - v[2];
    const Complex c = v[1] + v[3], d = quarter_turn(v[1] - v[3]);
    v[0] = a + c;
    v[1] = b + d;
    v[2] = a - c;
    v[3] = b - d;
  }
};

struct Radix5 {
  static constexpr int radix = 5;
  static void butterfly(Complex* v) {
    constexpr float c1 = 0.30901699437494742410f, c2 = -0.80901699437494742410f;
    constexpr float s1 = 0.95105651629515357212f, s2 = 0.58778525229247312917f;
    const Complex p = v[1] + v[4], q = v[2] + v[3];
    const Complex r = quarter_turn(v[1] - v[4]), s = quarter_turn(v[2] - v[3]);
    const Complex near = {v[0].re + c1 * p.re + c2 * q.re, v[0].im + c1 * p.im + c2 * q.im};
    const Complex far = {v[0].re + c2 * p.re + c1 * q.re, v[0].im + c2 * p.im + c1 * q.im};
    const Complex t = {s1 * r.re + s2 * s.re, s1 * r.im + s2 * s.im};
    const Complex u = {s2 * r.re - s1 * s.re, s2 * r.im - s1 * s.im};
    v[0] = v[0] + p + q;
    v[1] = near + t;
    v[2] = far + u;
    v[3] = far - u;
    v[4] = near - t;
  }
};

template <typename Butterfly>
void pass(const Complex* in, Complex* out, int64_t m, int64_t stride, const float* twiddles) {
  constexpr int radix = Butterfly::radix;
  for (int64_t p = 0; p < m; ++p) {
    const float* w = twiddles + p * (radix - 1) * 2;
    for (int64_t q = 0; q < stride; ++q) {
      Complex v[radix];
      for (int k = 0; k < radix; ++k) v[k] = in[q + stride * (p + m * k)];
      Butterfly::butterfly(v);
      Complex* to = out + q + stride * radix * p;
      to[0] = v[0];
      if (p == 0) {  // all twiddles are 1
        for (int j = 1; j < radix; ++j) to[stride * j] = v[j];
      } else {
        for (int j = 1; j < radix; ++j) {
          to[stride * j] = times(v[j], w[2 * (j - 1)], w[2 * (j - 1) + 1]);
        }
      }
    }
  }
}

// Any odd prime radix by its definition; pairing k with radix - k halves the products.
void pass_prime(const Complex* in, Complex* out, int radix, int64_t m, int64_t stride,
                const float* twiddles, const float* roots, Complex* sums) {
  const int half = radix / 2;
  Complex* differences = sums + half;
  for (int64_t p = 0; p < m; ++p) {
    const float* w = twiddles + p * (radix - 1) * 2;
    for (int64_t q = 0; q < stride; ++q) {
      const Complex first = in[q + stride * p];
      Complex total = first;
      for (int k = 1; k <= half; ++k) {
        const Complex a = in[q + stride * (p + m * k)];
        const Complex b = in[q + stride * (p + m * (radix - k))];
        sums[k - 1] = a + b;
        differences[k - 1] = quarter_turn(a - b);
        total = total + sums[k - 1];
      }
      Complex* to = out + q + stride * radix * p;
      to[0] = total;
      for (int j = 1; j <= half; ++j) {
        Complex even = first, odd = {};
        int turn = 0;  // j * k mod radix
        for (int k = 1; k <= half; ++k) {
          turn += j;
          if (turn >= radix) turn -= radix;
          const float cosine = roots[2 * turn], sine = roots[2 * turn + 1];
          even.re += cosine * sums[k - 1].re;
          even.im += cosine * sums[k - 1].im;
          odd.re += sine * differences[k - 1].re;
          odd.im += sine * differences[k - 1].im;
        }
        const int other = radix - j;
        to[stride * j] = times(even + odd, w[2 * (j - 1)], w[2 * (j - 1) + 1]);
        to[stride * other] = times(even - odd, w[2 * (other - 1)], w[2 * (other - 1) + 1]);
      }
    }
  }
}

// Transforms `data`, with `spare` of the same length; returns where the result lies.
Complex* transform(const FftPlan& plan, Complex* data, Complex* spare, Complex* sums) {
  int64_t left = plan.length, stride = 1;
  for (int stage = 0; stage < plan.stages; ++stage) {
    const int radix = plan.radix[stage];
    const float* twiddles = plan.twiddles[stage];
    const int64_t m = left / radix;
    switch (radix) {
      case 2:
        pass<Radix2>(data, spare, m, stride, twiddles);
        break;
      case 3:
        pass<Radix3>(data, spare, m, stride, twiddles);
        break;
      case 4:
        pass<Radix4>(data, spare, m, stride, twiddles);
        break;
      case 5:
        pass<Radix5>(data, spare, m, stride, twiddles);
        break;
      default:
        pass_prime(data, spare, radix, m, stride, twiddles, plan.roots[stage], sums);
    }
    Complex* swap = data;
    data = spare;
    spare = swap;
    left = m;
    stride *= radix;
  }
  return data;
}

// ---- 2-D transforms of sixteen channels ---------------------------------------------------------

struct Scratch {
  Complex* half;   // [width / 2 + 1][height]
  Complex* line;   // [longer side]
  Complex* spare;  // [longer side]
  Complex* sums;   // [largest radix]
};

Scratch split_scratch(const FourierBlock& block) {
  Scratch scratch;
  scratch.half = reinterpret_cast<Complex*>(block.scratch);
  scratch.line = scratch.half + (block.width / 2 + 1) * block.height;
  const int64_t longer = block.height > block.width ? block.height : block.width;
  scratch.spare = scratch.line + longer;
  scratch.sums = scratch.spare + longer;
  return scratch;
}

// Pixel i of up to sixteen planes, as lanes.
inline Vector load_pixel(const float* planes, int64_t plane, int64_t channels, int64_t i) {
  Vector lanes = {};
  if (channels == kLanes) {
    for (int c = 0; c < kLanes; ++c) lanes[c] = planes[c * plane + i];
  } else {
    for (int64_t c = 0; c < channels; ++c) lanes[c] = planes[c * plane + i];
  }
  return lanes;
}

inline void store_pixel(float* planes, int64_t plane, int64_t channels, int64_t i, Vector lanes) {
  if (channels == kLanes) {
    for (int c = 0; c < kLanes; ++c) planes[c * plane + i] = lanes[c];
  } else {
    for (int64_t c = 0; c < channels; ++c) planes[c * plane + i] = lanes[c];
  }
}

// Two real rows are one complex row z = a + i b; their spectra are 2A = Z[k] + conj Z[-k] and
// 2B = -i (Z[k] - conj Z[-k]).
void forward(const FourierBlock& block, const float* planes, float* spectrum) {
  const Scratch scratch = split_scratch(block);
  const int64_t height = block.height, width = block.width, plane = height * width;
  for (int64_t y = 0; y < height; y += 2) {
    const bool pair = y + 1 < height;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t i = y * width + x;
      scratch.line[x].re = load_pixel(planes, plane, block.channels, i);
      scratch.line[x].im = pair ? load_pixel(planes, plane, block.channels, i + width) : Vector{};
    }
    const Complex* z = transform(*block.across, scratch.line, scratch.spare, scratch.sums);
    for (int64_t k = 0; k <= width / 2; ++k) {
      const Complex a = z[k], b = z[k == 0 ? 0 : width - k];
      Complex* column = scratch.half + k * height + y;
      column[0] = {a.re + b.re, a.im - b.im};
      if (pair) column[1] = {a.im + b.im, b.re - a.re};
    }
  }
  for (int64_t k = 0; k <= width / 2; ++k) {
    const Complex* column =
        transform(*block.down, scratch.half + k * height, scratch.spare, scratch.sums);
    for (int64_t y = 0; y < height; ++y) {
      auto* to = reinterpret_cast<Vector*>(spectrum + (k * height + y) * block.spectrum_stride);
      to[0] = column[y].re;
      to[1] = column[y].im;
    }
  }
}

// An inverse transform is a forward one with real and imaginary parts exchanged on the way in and
// out. Rows y and y + 1 are made at once: Z[k] = A[k] + i B[k], Z[-k] = conj A[k] + i conj B[k],
// which gives a + i b. What A and B hold at k = 0 (and at width / 2, if even) counts as real.
void inverse(const FourierBlock& block, const float* spectrum, float* planes, float factor) {
  const Scratch scratch = split_scratch(block);
  const int64_t height = block.height, width = block.width, plane = height * width;
  for (int64_t k = 0; k <= width / 2; ++k) {
    for (int64_t y = 0; y < height; ++y) {
      const auto* from =
          reinterpret_cast<const Vector*>(spectrum + (k * height + y) * block.spectrum_stride);
      scratch.line[y] = {from[1], from[0]};
    }
    const Complex* column = transform(*block.down, scratch.line, scratch.spare, scratch.sums);
    for (int64_t y = 0; y < height; ++y) {
      scratch.half[k * height + y] = {column[y].im, column[y].re};
    }
  }
  for (int64_t y = 0; y < height; y += 2) {
    const bool pair = y + 1 < height;
    for (int64_t k = 0; k <= width / 2; ++k) {
      const Complex* column = scratch.half + k * height + y;
      const Complex a = column[0], b = pair ? column[1] : Complex{};
      const bool own_conjugate = k == 0 || 2 * k == width;
      // Stored as (im, re), ready for the exchanged transform.
      if (own_conjugate) {
        scratch.line[k] = {b.re, a.re};
      } else {
        scratch.line[k] = {a.im + b.re, a.re - b.im};
        scratch.line[width - k] = {b.re - a.im, a.re + b.im};
      }
    }
    const Complex* z = transform(*block.across, scratch.line, scratch.spare, scratch.sums);
    for (int64_t x = 0; x < width; ++x) {
      const int64_t i = y * width + x;
      store_pixel(planes, plane, block.channels, i, z[x].im * factor);
      if (pair) store_pixel(planes, plane, block.channels, i + width, z[x].re * factor);
    }
  }
}

// ---- 1x1 convolution ----------------------------------------------------------------------------

constexpr int kRows = REVISAGE_GEMM_ROWS;
constexpr int kVectors = REVISAGE_GEMM_VECTORS;
constexpr int kColumns = kVectors * kLanes;

inline Vector broadcast(float value) { return value - Vector{}; }

template <int Rows>
void gemm_tile(const GemmBlock& block, int64_t row, int64_t column, const float* weights) {
  Vector sums[Rows][kVectors] = {};
  const float* from = block.spectrum + row * block.depth;
  for (int64_t k = 0; k < block.depth; ++k) {
    const auto* w = reinterpret_cast<const Vector*>(weights + k * kColumns);
    for (int r = 0; r < Rows; ++r) {
      const Vector value = broadcast(from[r * block.depth + k]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] += value * w[v];
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const int64_t at = column + v * kLanes;
    if (at >= block.columns) break;
    const Vector scale = *reinterpret_cast<const Vector*>(block.scale + at);
    const Vector shift = *reinterpret_cast<const Vector*>(block.shift + at);
    for (int r = 0; r < Rows; ++r) {
      const Vector value = sums[r][v] * scale + shift;
      auto* to = reinterpret_cast<Vector*>(block.out + (row + r) * block.columns + at);
      *to = value < 0.0f ? Vector{} : value;  // a NaN stays
    }
  }
}

void gemm(const GemmBlock& block) {
  for (int64_t column = 0; column < block.columns; column += kColumns) {
    const float* weights = block.weights + column * block.depth;
    int64_t row = 0;
    for (; row + kRows <= block.rows; row += kRows) gemm_tile<kRows>(block, row, column, weights);
    for (; row < block.rows; ++row) gemm_tile<1>(block, row, column, weights);
  }
}

}  // namespace

const FourierKernels& REVISAGE_ISA_FUNCTION() {
  static const FourierKernels kernels = {forward, inverse, gemm, kColumns};
  return kernels;
}

}  // namespace revisage
