// The FFT of a vector of channels at once, a part of fft_conv_loops.h: no include guard, once per
// file, REVISAGE_LANES floats to a vector.
#include "fft_conv_kernels.h"

namespace revisage {
namespace {

constexpr int kLanes = REVISAGE_LANES;

typedef float Vector __attribute__((vector_size(4 * kLanes)));
// The same, as it lies in a caller's array.
typedef float UnalignedVector __attribute__((vector_size(4 * kLanes), aligned(4)));

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

struct Radix8 {
  static constexpr int radix = 8;
  static void butterfly(Complex* v) {
    constexpr float diagonal = 0.70710678118654752440f;  // of the eighth roots of 1
    Complex even[4] = {v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]};
    const Complex b = v[1] - v[5], d = v[3] - v[7];
    Complex odd[4] = {v[0] - v[4],
                      {(b.re + b.im) * diagonal, (b.im - b.re) * diagonal},
                      quarter_turn(v[2] - v[6]),
                      {(d.im - d.re) * diagonal, (d.re + d.im) * -diagonal}};
    Radix4::butterfly(even);
    Radix4::butterfly(odd);
    for (int j = 0; j < 4; ++j) {
      v[2 * j] = even[j];
      v[2 * j + 1] = odd[j];
    }
  }
};

// cos and sin of 2 pi j / n for the small odd radices.
template <int n>
struct Roots;
template <>
struct Roots<3> {
  static constexpr float cosine[] = {1.0f, -0.5f};
  static constexpr float sine[] = {0.0f, 0.86602540378443864676f};
};
template <>
struct Roots<5> {
  static constexpr float cosine[] = {1.0f, 0.30901699437494742410f, -0.80901699437494742410f};
  static constexpr float sine[] = {0.0f, 0.95105651629515357212f, 0.58778525229247312917f};
};
template <>
struct Roots<7> {
  static constexpr float cosine[] = {1.0f, 0.62348980185873353053f, -0.22252093395631440429f,
                                     -0.90096886790241912624f};
  static constexpr float sine[] = {0.0f, 0.78183148246802980871f, 0.97492791218182360702f,
                                   0.43388373911755812048f};
};

// Pairing k with radix - k halves the products: sums meet cosines, differences meet sines.
template <int n>
struct OddRadix {
  static constexpr int radix = n;
  static void butterfly(Complex* v) {
    constexpr int half = n / 2;
    Complex sums[half], turns[half], total = v[0];
    for (int k = 1; k <= half; ++k) {
      sums[k - 1] = v[k] + v[n - k];
      turns[k - 1] = quarter_turn(v[k] - v[n - k]);
      total = total + sums[k - 1];
    }
    const Complex first = v[0];
    v[0] = total;
    for (int j = 1; j <= half; ++j) {
      Complex even = first, odd = {};
      for (int k = 1; k <= half; ++k) {
        const int turn = j * k % n;
        const bool past_half = turn > half;
        const float cosine = Roots<n>::cosine[past_half ? n - turn : turn];
        const float sine = past_half ? -Roots<n>::sine[n - turn] : Roots<n>::sine[turn];
        even = {even.re + cosine * sums[k - 1].re, even.im + cosine * sums[k - 1].im};
        odd = {odd.re + sine * turns[k - 1].re, odd.im + sine * turns[k - 1].im};
      }
      v[j] = even + odd;
      v[n - j] = even - odd;
    }
  }
};

template <typename Butterfly>
void pass(const Complex* in, Complex* out, int64_t m, int64_t stride, const float* twiddles) {
  constexpr int radix = Butterfly::radix;
  for (int64_t q = 0; q < stride; ++q) {  // p = 0: all twiddles are 1
    Complex v[radix];
#pragma GCC unroll 8
    for (int k = 0; k < radix; ++k) v[k] = in[q + stride * m * k];
    Butterfly::butterfly(v);
#pragma GCC unroll 8
    for (int j = 0; j < radix; ++j) out[q + stride * j] = v[j];
  }
  for (int64_t p = 1; p < m; ++p) {
    const float* w = twiddles + p * (radix - 1) * 2;
    const Complex* from = in + stride * p;
    Complex* to = out + stride * radix * p;
    for (int64_t q = 0; q < stride; ++q) {
      Complex v[radix];
#pragma GCC unroll 8
      for (int k = 0; k < radix; ++k) v[k] = from[q + stride * m * k];
      Butterfly::butterfly(v);
      to[q] = v[0];
#pragma GCC unroll 8
      for (int j = 1; j < radix; ++j) {
        to[q + stride * j] = times(v[j], w[2 * (j - 1)], w[2 * (j - 1) + 1]);
      }
    }
  }
}

// `Count` outputs j, j + 1, ... (and their partners radix - j) of a butterfly by its definition.
template <int Count>
void prime_outputs(const Complex& first, const Complex* sums, const Complex* turns, int radix,
                   const float* roots, int j, const float* twiddles, Complex* to, int64_t stride) {
  Complex even[Count], odd[Count] = {};
  int step[Count], turn[Count] = {};  // turn = j * k mod radix
  for (int i = 0; i < Count; ++i) {
    even[i] = first;
    step[i] = j + i;
  }
  for (int k = 0; k < radix / 2; ++k) {
    for (int i = 0; i < Count; ++i) {
      turn[i] += step[i];
      turn[i] -= turn[i] >= radix ? radix : 0;
      const float cosine = roots[2 * turn[i]], sine = roots[2 * turn[i] + 1];
      even[i] = {even[i].re + cosine * sums[k].re, even[i].im + cosine * sums[k].im};
      odd[i] = {odd[i].re + sine * turns[k].re, odd[i].im + sine * turns[k].im};
    }
  }
  for (int i = 0; i < Count; ++i) {
    const int here = j + i, there = radix - here;
    const float *w = twiddles + 2 * (here - 1), *v = twiddles + 2 * (there - 1);
    to[stride * here] = times(even[i] + odd[i], w[0], w[1]);
    to[stride * there] = times(even[i] - odd[i], v[0], v[1]);
  }
}

// Any odd radix by its definition, with `sums` as scratch for radix - 1 values.
void pass_prime(const Complex* in, Complex* out, int radix, int64_t m, int64_t stride,
                const float* twiddles, const float* roots, Complex* sums) {
  constexpr int kTogether = kLanes == 16 ? 4 : 2;  // as many as the registers hold
  const int half = radix / 2;
  Complex* turns = sums + half;
  for (int64_t p = 0; p < m; ++p) {
    const float* w = twiddles + p * (radix - 1) * 2;
    for (int64_t q = 0; q < stride; ++q) {
      const Complex first = in[q + stride * p];
      Complex total = first;
      for (int k = 1; k <= half; ++k) {
        const Complex a = in[q + stride * (p + m * k)];
        const Complex b = in[q + stride * (p + m * (radix - k))];
        sums[k - 1] = a + b;
        turns[k - 1] = quarter_turn(a - b);
        total = total + sums[k - 1];
      }
      Complex* to = out + q + stride * radix * p;
      to[0] = total;
      int j = 1;
      for (; j + kTogether <= half + 1; j += kTogether) {
        prime_outputs<kTogether>(first, sums, turns, radix, roots, j, w, to, stride);
      }
      for (; j <= half; ++j) prime_outputs<1>(first, sums, turns, radix, roots, j, w, to, stride);
    }
  }
}

// Transforms `in` by way of `odd` and `even`: passes 1, 3, ... write odd, passes 2, 4, ... even.
// `even` may be `in`. Returns where the result lies.
Complex* transform(const FftPlan& plan, const Complex* in, Complex* odd, Complex* even,
                   Complex* sums) {
  int64_t left = plan.length, stride = 1;
  Complex *to = odd, *next = even;
  for (int stage = 0; stage < plan.stages; ++stage) {
    const int radix = plan.radix[stage];
    const float* twiddles = plan.twiddles[stage];
    const int64_t m = left / radix;
    switch (radix) {
      case 2:
        pass<Radix2>(in, to, m, stride, twiddles);
        break;
      case 3:
        pass<OddRadix<3>>(in, to, m, stride, twiddles);
        break;
      case 4:
        pass<Radix4>(in, to, m, stride, twiddles);
        break;
      case 5:
        pass<OddRadix<5>>(in, to, m, stride, twiddles);
        break;
      case 7:
        pass<OddRadix<7>>(in, to, m, stride, twiddles);
        break;
      case 8:
        pass<Radix8>(in, to, m, stride, twiddles);
        break;
      default:
        pass_prime(in, to, radix, m, stride, twiddles, plan.roots[stage], sums);
    }
    in = to;
    to = next;
    next = const_cast<Complex*>(in);
    left = m;
    stride *= radix;
  }
  return const_cast<Complex*>(in);
}

}  // namespace
}  // namespace revisage
