// CUDA's small vectors, aligned as on the device.
#pragma once

#define REVISAGE_VECTORS(scalar, name, align2, align4)                              \
  struct alignas(align2) name##2 { scalar x, y; };                                  \
  struct name##3 { scalar x, y, z; };                                               \
  struct alignas(align4) name##4 { scalar x, y, z, w; };                            \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }              \
  inline name##3 make_##name##3(scalar x, scalar y, scalar z) { return {x, y, z}; } \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }
REVISAGE_VECTORS(unsigned char, uchar, 2, 4)
REVISAGE_VECTORS(unsigned short, ushort, 4, 8)
REVISAGE_VECTORS(int, int, 8, 16)
REVISAGE_VECTORS(unsigned int, uint, 8, 16)
REVISAGE_VECTORS(float, float, 8, 16)
#undef REVISAGE_VECTORS

struct alignas(16) double2 {
  double x, y;
};
inline double2 make_double2(double x, double y) { return {x, y}; }

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};
