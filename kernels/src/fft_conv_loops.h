// Body of fft_conv_<isa>.cc: no include guard, once per file. Before including it, define
//     REVISAGE_ISA_FUNCTION  name of the function that returns the kernels
//     REVISAGE_LANES         floats of a vector: 4, 8 (AVX) or 16 (AVX-512)
//     REVISAGE_GEMM_ROWS     rows of the register tile of the matrix product, two vectors wide
#include "fft_conv_kernels.h"
#include "fft_conv_passes.h"

#if REVISAGE_LANES > 4
#include <immintrin.h>
#endif

namespace revisage {
namespace {

// ---- Between planes and lanes -------------------------------------------------------------------

// rows[i][j] -> rows[j][i]
inline void transpose(Vector* rows) {
#if REVISAGE_LANES == 16
  __m512 a[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  // Column c of every 128-bit part, of four rows each: b[4 * (rows / 4) + c].
  __m512 b[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d low = _mm512_castps_pd(a[i]), high = _mm512_castps_pd(a[i + 1]);
    const __m512d low2 = _mm512_castps_pd(a[i + 2]), high2 = _mm512_castps_pd(a[i + 3]);
    b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
    b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
    b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
    b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 p = _mm512_shuffle_f32x4(b[c], b[c + 4], 0x88);  // parts 0 and 2
    const __m512 q = _mm512_shuffle_f32x4(b[c], b[c + 4], 0xDD);  // parts 1 and 3
    const __m512 r = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0x88);
    const __m512 s = _mm512_shuffle_f32x4(b[c + 8], b[c + 12], 0xDD);
    rows[c] = _mm512_shuffle_f32x4(p, r, 0x88);
    rows[c + 4] = _mm512_shuffle_f32x4(q, s, 0x88);
    rows[c + 8] = _mm512_shuffle_f32x4(p, r, 0xDD);
    rows[c + 12] = _mm512_shuffle_f32x4(q, s, 0xDD);
  }
#elif REVISAGE_LANES == 8
  __m256 a[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  __m256 b[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    rows[c] = _mm256_permute2f128_ps(b[c], b[c + 4], 0x20);
    rows[c + 4] = _mm256_permute2f128_ps(b[c], b[c + 4], 0x31);
  }
#else
  const Vector a = rows[0], b = rows[1], c = rows[2], d = rows[3];
  for (int i = 0; i < 4; ++i) rows[i] = Vector{a[i], b[i], c[i], d[i]};
#endif
}

// Rows are read and written in more streams than the hardware follows, so what the next two rows
// need is asked for by hand: into L2, since L1 is full of the line that is being transformed.
inline void fetch_ahead(const void* address) { __builtin_prefetch(address, 0, 2); }

inline void fetch_pair_ahead(const Complex* pair) {
  for (int i = 0; i < 2; ++i) {
    fetch_ahead(&pair[i].re);
    fetch_ahead(&pair[i].im);
  }
}

// Up to kLanes rows of up to kLanes floats, `stride` apart -> vectors to[0], to[2], ..., one per
// column; what is missing is zero. Every other vector, because re and im alternate. The rows are
// asked for again `ahead` floats on.
inline void load_columns(const float* from, int64_t stride, int64_t rows, int64_t columns,
                         int64_t ahead, Vector* to) {
  Vector square[kLanes];
  if (rows == kLanes && columns == kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      square[i] = *reinterpret_cast<const UnalignedVector*>(from + i * stride);
      fetch_ahead(from + i * stride + ahead);
    }
    transpose(square);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) to[2 * i] = square[i];
    return;
  }
  for (int i = 0; i < kLanes; ++i) {
    square[i] = Vector{};
    for (int64_t j = 0; j < columns && i < rows; ++j) square[i][j] = from[i * stride + j];
  }
  transpose(square);
  for (int64_t i = 0; i < columns; ++i) to[2 * i] = square[i];
}

inline void store_columns(float* to, int64_t stride, int64_t rows, int64_t columns,
                          const Vector* from) {
  Vector square[kLanes];
  if (rows == kLanes && columns == kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) square[i] = from[2 * i];
    transpose(square);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      *reinterpret_cast<UnalignedVector*>(to + i * stride) = square[i];
    }
    return;
  }
  for (int i = 0; i < kLanes; ++i) square[i] = i < columns ? from[2 * i] : Vector{};
  for (int i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[i * stride + j] = square[j][i];
  }
}

// Where the squares of a row begin, one after another: the last one overlaps its neighbour, so that
// a row is whole squares wherever it has room for one.
inline int64_t next_square(int64_t x, int64_t width) {
  const int64_t next = x + kLanes;
  return next < width && next + kLanes > width && width >= kLanes ? width - kLanes : next;
}

inline int64_t square_columns(int64_t x, int64_t width) {
  return width - x < kLanes ? width - x : kLanes;
}

struct Rows {
  Complex *line, *spare;  // [width] each
  Complex* sums;          // [largest radix]
};

inline Rows split_scratch(const RowBlock& block) {
  Rows rows;
  rows.line = reinterpret_cast<Complex*>(block.scratch);
  rows.spare = rows.line + block.width;
  rows.sums = rows.spare + block.width;
  return rows;
}

// Two real rows are one complex row z = a + i b; their spectra are 2A = Z[k] + conj Z[-k] and
// 2B = -i (Z[k] - conj Z[-k]).
void forward_rows(const RowBlock& block, const float* planes, int64_t first, int64_t last) {
  const Rows rows = split_scratch(block);
  const int64_t width = block.width, plane = block.height * width;
  for (int64_t y = first; y < last; y += 2) {
    const bool pair = y + 1 < last;
    const float* from = planes + y * width;
    for (int64_t x = 0; x < width; x = next_square(x, width)) {
      const int64_t columns = square_columns(x, width);
      Complex* to = rows.line + x;
      load_columns(from + x, plane, block.channels, columns, 2 * width, &to->re);
      load_columns(from + x + width, plane, pair ? block.channels : 0, columns, 2 * width, &to->im);
    }
    const Complex* z = transform(*block.across, rows.line, rows.spare, rows.line, rows.sums);
    float* to = block.spectrum + y * 2 * kLanes;
    for (int64_t k = 0; k <= width / 2; ++k) {
      const Complex a = z[k], b = z[k == 0 ? 0 : width - k];
      auto* column = reinterpret_cast<Complex*>(to + k * block.column_stride);
      column[0] = {a.re + b.re, a.im - b.im};
      if (pair) column[1] = {a.im + b.im, b.re - a.re};
      fetch_pair_ahead(column + 2);
    }
  }
}

// Two rows are made at once: Z[k] = A[k] + i B[k], Z[-k] = conj A[k] + i conj B[k] gives a + i b.
// What A and B hold at k = 0 (and at width / 2, if even) counts as real.
void inverse_rows(const RowBlock& block, float* planes, int64_t first, int64_t last) {
  const Rows rows = split_scratch(block);
  const int64_t height = block.height, width = block.width, plane = height * width;
  for (int64_t i = first; i < last; i += 2) {
    const bool pair = i + 1 < last;
    const float* from = block.spectrum + i * 2 * kLanes;
    for (int64_t k = 0; k <= width / 2; ++k) {
      const auto* column = reinterpret_cast<const Complex*>(from + k * block.column_stride);
      const Complex a = column[0], b = pair ? column[1] : Complex{};
      fetch_pair_ahead(column + 2);
      if (k == 0 || 2 * k == width) {
        rows.line[k] = {a.re, b.re};
      } else {  // backwards: see Note [Inverse by reversal]
        rows.line[width - k] = {a.re - b.im, a.im + b.re};
        rows.line[k] = {a.re + b.im, b.re - a.im};
      }
    }
    const Complex* z = transform(*block.across, rows.line, rows.spare, rows.line, rows.sums);
    float* upper = planes + (i == 0 ? 0 : height - i) * width;
    float* lower = planes + (height - i - 1) * width;
    for (int64_t x = 0; x < width; x = next_square(x, width)) {
      const int64_t columns = square_columns(x, width);
      store_columns(upper + x, plane, block.channels, columns, &z[x].re);
      if (pair) store_columns(lower + x, plane, block.channels, columns, &z[x].im);
    }
  }
}

// ---- 1x1 convolution ----------------------------------------------------------------------------

constexpr int kRows = REVISAGE_GEMM_ROWS;

// A product in [in_blocks][height][2 vectors] -> [out_blocks][height][2 vectors] of which a tile is
// one out block and a few rows.
struct Product {
  const Column& column;
  const Vector* in;
  Vector* out;

  const Vector* weights(int64_t block) const {
    return reinterpret_cast<const Vector*>(column.weights) + block * column.in_blocks * 4 * kLanes;
  }

  const float* rows(int64_t block, int64_t row) const {
    return reinterpret_cast<const float*>(in + 2 * (block * column.height + row));
  }

  void write(int64_t block, int64_t row, Vector re, Vector im) const {
    const auto* shift = reinterpret_cast<const Vector*>(column.shift) + 2 * block;
    Vector* to = out + 2 * (block * column.height + row);
    const Vector value[2] = {re * column.factor + shift[0], im * column.factor + shift[1]};
    for (int part = 0; part < 2; ++part) {
      to[part] = value[part] < 0.0f ? Vector{} : value[part];  // a NaN stays
    }
  }
};

// Adds `depth` inputs of Rows rows to sums.
template <int Rows>
inline void accumulate(Vector (&sums)[Rows][2], const float* values, const Vector*& weights,
                       int depth) {
  for (int k = 0; k < depth; ++k) {
    const Vector re = weights[0], im = weights[1];
    weights += 2;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float value = values[r * 2 * kLanes + k];
      sums[r][0] += re * value;
      sums[r][1] += im * value;
    }
  }
}

template <int Rows>
struct PlainTile {
  static constexpr int most = kRows;
  static void run(const Product& product, int64_t block, int64_t row) {
    Vector sums[Rows][2] = {};
    const Vector* weights = product.weights(block);
    for (int64_t b = 0; b < product.column.in_blocks; ++b) {
      accumulate(sums, product.rows(b, row), weights, 2 * kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) product.write(block, row + r, sums[r][0], sums[r][1]);
  }
};

// In a column that is its own conjugate, rows y and -y differ in the sign of the imaginary inputs:
// what the real ones and what the imaginary ones contribute makes two rows.
template <int Rows>
struct ConjugateTile {
  static constexpr int most = kRows / 2;
  static void run(const Product& product, int64_t block, int64_t row) {
    Vector even[Rows][2] = {}, odd[Rows][2] = {};
    const Vector* weights = product.weights(block);
    for (int64_t b = 0; b < product.column.in_blocks; ++b) {
      const float* values = product.rows(b, row);
      accumulate(even, values, weights, kLanes);
      accumulate(odd, values + kLanes, weights, kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const int64_t y = row + r;
      product.write(block, y, even[r][0] + odd[r][0], even[r][1] + odd[r][1]);
      if (y == 0) continue;
      product.write(block, product.column.height - y, even[r][0] - odd[r][0],
                    even[r][1] - odd[r][1]);
    }
  }
};

template <template <int> class Tile, int Rows = Tile<1>::most>
struct TileTable : TileTable<Tile, Rows - 1> {
  TileTable() { this->tiles[Rows] = Tile<Rows>::run; }
};
template <template <int> class Tile>
struct TileTable<Tile, 0> {
  void (*tiles[Tile<1>::most + 1])(const Product&, int64_t block, int64_t row);
};

// Rows [0, rows) of all out blocks, in tiles of nearly equal size.
template <template <int> class Tile>
void multiply(const Product& product, int64_t rows) {
  static const TileTable<Tile> table;
  const int64_t tiles = (rows + Tile<1>::most - 1) / Tile<1>::most;
  for (int64_t block = 0; block < product.column.out_blocks; ++block) {
    int64_t row = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t next = rows * (tile + 1) / tiles;
      table.tiles[next - row](product, block, row);
      row = next;
    }
  }
}

void mix_column(const Column& column) {
  const int64_t height = column.height;
  auto* spectrum = reinterpret_cast<Complex*>(column.spectrum);
  auto* in = reinterpret_cast<Complex*>(column.scratch);
  Complex* out = in + column.in_blocks * height;
  Complex* spare = out + column.out_blocks * height;
  Complex* sums = spare + height;
  const bool odd = column.down->stages % 2 == 1;
  for (int64_t block = 0; block < column.in_blocks; ++block) {
    Complex* to = in + block * height;
    transform(*column.down, spectrum + block * height, odd ? to : spare, odd ? spare : to, sums);
  }
  const Product product = {column, &in->re, &out->re};
  if (column.own_conjugate) {
    multiply<ConjugateTile>(product, height / 2 + 1);
  } else {
    multiply<PlainTile>(product, height);
  }
  for (int64_t block = 0; block < column.out_blocks; ++block) {
    Complex* to = spectrum + block * height;
    transform(*column.down, out + block * height, odd ? to : spare, odd ? spare : to, sums);
  }
}

void pack_weights(const float* weight, const float* scale, int64_t in_channels,
                  int64_t out_channels, int64_t out_block, float* packed) {
  const int64_t inputs = 2 * in_channels, first = out_block * kLanes;
  const int64_t channels = out_channels - first < kLanes ? out_channels - first : kLanes;
  const int64_t padded = (in_channels + kLanes - 1) / kLanes * 2 * kLanes;
  for (int part = 0; part < 2; ++part) {  // re, im of the outputs
    const int64_t row = 2 * first + part;
    Vector scales = {};
    for (int64_t c = 0; c < channels; ++c) scales[c] = scale[row + 2 * c];
    for (int64_t input = 0; input < padded; input += kLanes) {
      const int64_t left = inputs - input;
      const int64_t columns = left < 0 ? 0 : (left < kLanes ? left : kLanes);
      Vector square[2 * kLanes];
      load_columns(weight + row * inputs + input, 2 * inputs, channels, columns, kLanes, square);
      for (int i = 0; i < kLanes; ++i) {
        const int64_t channel = (input + i) / 2, block = channel / kLanes, lane = channel % kLanes;
        const int64_t depth = (2 * block + i % 2) * kLanes + lane;
        const Vector value = i < columns ? square[2 * i] * scales : Vector{};
        reinterpret_cast<Vector*>(packed)[2 * depth + part] = value;
      }
    }
  }
}

}  // namespace

const FourierKernels& REVISAGE_ISA_FUNCTION() {
  static const FourierKernels kernels = {kLanes, forward_rows, mix_column, inverse_rows,
                                         pack_weights};
  return kernels;
}

}  // namespace revisage
