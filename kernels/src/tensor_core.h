// Warp-wide instructions of sm_80 and later that CUDA C++ has no names for, with what they do
// spelled out for the emulator of the tests. Layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16"
// and "ldmatrix". All 32 lanes take part; lane = 4 * group + member.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace revisage {

// sums += a b, with a [16, 16] and b [16, 8] fp16, sums [16, 8] fp32. Of each lane's registers,
//   a[0..3]    hold rows group, group + 8, group, group + 8 at columns 2 member + {0, 1}; the last
//   two
//              8 columns further right,
//   b[0..1]    hold rows 2 member + {0, 1}, and 8 further down, at column group,
//   sums[0..3] are at row group (two) and group + 8 (two), columns 2 member + {0, 1}.
__device__ inline void multiply_add(float (&sums)[4], const std::uint32_t (&a)[4],
                                    const std::uint32_t (&b)[2]) {
#ifdef REVISAGE_CUDA_EMULATION
  struct Fragments {
    __half a[8], b[4];
  } mine;
  memcpy(mine.a, a, sizeof(mine.a));
  memcpy(mine.b, b, sizeof(mine.b));
  const auto all = cuda_emulation::all_lanes(mine);
  const unsigned int group = cuda_emulation::lane() / 4, member = cuda_emulation::lane() % 4;
  for (unsigned int i = 0; i < 4; ++i) {
    const unsigned int row = group + i / 2 * 8, column = 2 * member + i % 2;
    for (unsigned int k = 0; k < 16; ++k) {
      const __half left = all[row % 8 * 4 + k % 8 / 2].a[k / 8 * 4 + row / 8 * 2 + k % 2];
      const __half right = all[column * 4 + k % 8 / 2].b[k / 8 * 2 + k % 2];
      sums[i] += __half2float(left) * __half2float(right);
    }
  }
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8x8 matrices of fp16 from shared memory. Lane 8 i + r points at row r of matrix i (16 bytes,
// aligned); matrices[i] receives row group, columns 2 member + {0, 1} of matrix i, or of its
// transpose.
template <bool transposed>
__device__ inline void load_matrices(std::uint32_t (&matrices)[4], const __half* row) {
#ifdef REVISAGE_CUDA_EMULATION
  cuda_emulation::require_aligned(row, 16);
  const auto rows = cuda_emulation::all_lanes(row);
  const unsigned int group = cuda_emulation::lane() / 4, member = cuda_emulation::lane() % 4;
  for (unsigned int i = 0; i < 4; ++i) {
    __half pair[2];
    for (unsigned int j = 0; j < 2; ++j) {
      const unsigned int column = 2 * member + j;
      pair[j] = transposed ? rows[8 * i + column][group] : rows[8 * i + group][column];
    }
    memcpy(&matrices[i], pair, sizeof(pair));
  }
#else
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  if (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

// Two fp16 in one register, times two others.
__device__ inline std::uint32_t multiply_halves(std::uint32_t pair, __half2 factors) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof(halves));
  halves = __hmul2(halves, factors);
  memcpy(&pair, &halves, sizeof(pair));
  return pair;
}

// Starts a copy of 16 bytes to shared memory, or of as many zeros where not `wanted`.
__device__ inline void copy_async(void* shared, const void* global, bool wanted) {
#ifdef REVISAGE_CUDA_EMULATION
  cuda_emulation::copy_async(shared, global, wanted ? 16 : 0, wanted ? 0 : 16);
#else
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(wanted ? 16 : 0)
               : "memory");
#endif
}

// Ends a group of this thread's copies.
__device__ inline void commit_copies() {
#ifdef REVISAGE_CUDA_EMULATION
  cuda_emulation::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `groups_left` of this thread's groups are under way.
template <int groups_left>
__device__ inline void wait_for_copies() {
#ifdef REVISAGE_CUDA_EMULATION
  cuda_emulation::wait_for_copies(groups_left);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(groups_left) : "memory");
#endif
}

}  // namespace revisage
