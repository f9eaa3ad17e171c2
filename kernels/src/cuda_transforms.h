// Complex numbers in registers, and their forward transforms, exp(-i ...), of 2 to 16 points.
#pragma once

#include <cuda_runtime.h>

namespace revisage {

__device__ inline float2 operator+(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ inline float2 operator-(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ inline float2 operator*(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}
__device__ inline float2 operator*(float2 a, float b) { return make_float2(a.x * b, a.y * b); }
__device__ inline float2 conjugate(float2 a) { return make_float2(a.x, -a.y); }
__device__ inline float2 times_i(float2 a) { return make_float2(-a.y, a.x); }
__device__ inline float2 times_minus_i(float2 a) { return make_float2(a.y, -a.x); }

__device__ inline void transform(float2& a, float2& b) {
  const float2 sum = a + b;
  b = a - b;
  a = sum;
}

__device__ inline void transform(float2& a, float2& b, float2& c, float2& d) {
  transform(a, c);
  transform(b, d);
  const float2 turned = times_minus_i(d);
  d = c - turned;
  c = c + turned;
  transform(a, b);
  // Now (a, c, b, d) are the frequencies 0 to 3.
  const float2 second = c;
  c = b;
  b = second;
}

__device__ inline void transform(float2 (&v)[2]) { transform(v[0], v[1]); }
__device__ inline void transform(float2 (&v)[4]) { transform(v[0], v[1], v[2], v[3]); }

// radix = 4 * others: transforms of 4 over every others-th element, then of `others`.
template <int radix>
__device__ inline void transform_fours(float2 (&v)[radix]) {
  constexpr float kCosines[16] = {1.0f,  0.923879533f,  0.707106781f,  0.382683432f,
                                  0.0f,  -0.382683432f, -0.707106781f, -0.923879533f,
                                  -1.0f, -0.923879533f, -0.707106781f, -0.382683432f,
                                  0.0f,  0.382683432f,  0.707106781f,  0.923879533f};
  constexpr int kOthers = radix / 4;
#pragma unroll
  for (int i = 0; i < kOthers; ++i) {
    transform(v[i], v[i + kOthers], v[i + 2 * kOthers], v[i + 3 * kOthers]);
#pragma unroll
    for (int q = 1; q < 4; ++q) {
      const int turn = i * q * (16 / radix);  // of 16
      if (turn == 4) {
        v[i + q * kOthers] = times_minus_i(v[i + q * kOthers]);
      } else if (turn > 0) {
        v[i + q * kOthers] =
            v[i + q * kOthers] * make_float2(kCosines[turn], kCosines[(turn + 4) % 16]);
      }
    }
  }
  float2 result[radix];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    float2 line[kOthers];
#pragma unroll
    for (int i = 0; i < kOthers; ++i) line[i] = v[i + q * kOthers];
    transform(line);
#pragma unroll
    for (int r = 0; r < kOthers; ++r) result[q + 4 * r] = line[r];
  }
#pragma unroll
  for (int i = 0; i < radix; ++i) v[i] = result[i];
}

__device__ inline void transform(float2 (&v)[8]) { transform_fours(v); }
__device__ inline void transform(float2 (&v)[16]) { transform_fours(v); }

// An odd radix: x[j] and x[radix - j] meet conjugate roots, so cosines and sines are separate sums.
template <int radix>
__device__ inline void transform_odd(float2 (&v)[radix], const float (&cosines)[radix],
                                     const float (&sines)[radix]) {
  constexpr int kHalf = (radix + 1) / 2;
  float2 sum[kHalf], difference[kHalf];
  const float2 first = v[0];
#pragma unroll
  for (int j = 1; j < kHalf; ++j) {
    sum[j] = v[j] + v[radix - j];
    difference[j] = v[j] - v[radix - j];
    v[0] = v[0] + sum[j];
  }
#pragma unroll
  for (int q = 1; q < kHalf; ++q) {
    float2 even = first, odd = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int j = 1; j < kHalf; ++j) {
      even = even + sum[j] * cosines[j * q % radix];
      odd = odd - difference[j] * sines[j * q % radix];
    }
    v[q] = even + times_i(odd);
    v[radix - q] = even - times_i(odd);
  }
}

__device__ inline void transform(float2 (&v)[3]) {
  constexpr float kCosines[3] = {1.0f, -0.5f, -0.5f};
  constexpr float kSines[3] = {0.0f, 0.866025404f, -0.866025404f};
  transform_odd(v, kCosines, kSines);
}

__device__ inline void transform(float2 (&v)[5]) {
  constexpr float kCosines[5] = {1.0f, 0.309016994f, -0.809016994f, -0.809016994f, 0.309016994f};
  constexpr float kSines[5] = {0.0f, 0.951056516f, 0.587785252f, -0.587785252f, -0.951056516f};
  transform_odd(v, kCosines, kSines);
}

__device__ inline void transform(float2 (&v)[7]) {
  constexpr float kCosines[7] = {1.0f,          0.623489802f,  -0.222520934f, -0.900968868f,
                                 -0.900968868f, -0.222520934f, 0.623489802f};
  constexpr float kSines[7] = {0.0f,          0.781831482f,  0.974927912f, 0.433883739f,
                               -0.433883739f, -0.974927912f, -0.781831482f};
  transform_odd(v, kCosines, kSines);
}

}  // namespace revisage
