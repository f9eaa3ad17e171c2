// Body of winograd_conv_<isa>.cc: no include guard, once per file. Before including it, define
//     REVISAGE_ISA_FUNCTION  name of the function that returns the kernels
//     REVISAGE_GEMM_ROWS     rows of the register tile of the matrix product, two vectors wide
#include "float_vector.h"
#include "winograd_conv_kernels.h"

namespace revisage {
namespace {

constexpr int kRows = REVISAGE_GEMM_ROWS;
constexpr int kLine = 4 * kLanes;  // pixels across a vector of tiles

// ---- Lanes --------------------------------------------------------------------------------------

// Lanes from kLanes on are those of `second`. The order is a constant everywhere.
inline Floats permuted(Floats first, Floats second, Ints order) {
#if defined(__AVX512F__)
  return _mm512_permutex2var_ps(first, (__m512i)order, second);
#elif defined(__clang__)
  Floats result;
  for (int i = 0; i < kLanes; ++i) {
    result[i] = order[i] < kLanes ? first[order[i]] : second[order[i] - kLanes];
  }
  return result;
#else
  return __builtin_shuffle(first, second, order);
#endif
}

// start, start + step, ...
inline Ints counted(int start, int step) {
  Ints lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = start + step * i;
  return lanes;
}

// 0, kLanes, 1, kLanes + 1, ... from `start` on
inline Ints alternating(int start) {
  Ints lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = start + i / 2 + i % 2 * kLanes;
  return lanes;
}

inline Floats broadcast(float value) { return Floats{} + value; }

// line[k][t] -> line'[t % 4][...]: every fourth float.
inline void split_columns(Floats (&line)[4]) {
  const Ints even = counted(0, 2), odd = counted(1, 2);
  const Floats a = permuted(line[0], line[1], even), b = permuted(line[2], line[3], even);
  const Floats c = permuted(line[0], line[1], odd), d = permuted(line[2], line[3], odd);
  line[0] = permuted(a, b, even);
  line[1] = permuted(c, d, even);
  line[2] = permuted(a, b, odd);
  line[3] = permuted(c, d, odd);
}

// The inverse of split_columns.
inline void join_columns(Floats (&line)[4]) {
  const Ints low = alternating(0), high = alternating(kLanes / 2);
  const Floats a = permuted(line[0], line[2], low), b = permuted(line[0], line[2], high);
  const Floats c = permuted(line[1], line[3], low), d = permuted(line[1], line[3], high);
  line[0] = permuted(a, c, low);
  line[1] = permuted(a, c, high);
  line[2] = permuted(b, d, low);
  line[3] = permuted(b, d, high);
}

// ---- The transforms, see Note [Winograd convolution] --------------------------------------------

constexpr float kA = 0.625f, kB = 1.5f;  // the points +-kA, +-kB
constexpr float kA2 = kA * kA, kB2 = kB * kB;

// B^T d
inline void transform_pixels(const Floats (&d)[6], Floats (&to)[6]) {
  const Floats odd_a = multiply_add(d[1], broadcast(-kB2), d[3]);
  const Floats even_a = multiply_add(d[2], broadcast(-kB2), d[4]);
  const Floats odd_b = multiply_add(d[1], broadcast(-kA2), d[3]);
  const Floats even_b = multiply_add(d[2], broadcast(-kA2), d[4]);
  to[0] = multiply_add(d[0], broadcast(kA2 * kB2), multiply_add(d[2], broadcast(-kA2 - kB2), d[4]));
  to[1] = multiply_add(odd_a, broadcast(kA), even_a);
  to[2] = multiply_add(odd_a, broadcast(-kA), even_a);
  to[3] = multiply_add(odd_b, broadcast(kB), even_b);
  to[4] = multiply_add(odd_b, broadcast(-kB), even_b);
  to[5] = multiply_add(d[1], broadcast(kA2 * kB2), multiply_add(d[3], broadcast(-kA2 - kB2), d[5]));
}

// A^T m
inline void transform_sums(const Floats (&m)[6], Floats (&to)[4]) {
  const Floats even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const Floats even_b = m[3] + m[4], odd_b = m[3] - m[4];
  to[0] = m[0] + even_a + even_b;
  to[1] = multiply_add(odd_a, broadcast(kA), odd_b * kB);
  to[2] = multiply_add(even_a, broadcast(kA2), even_b * kB2);
  to[3] = multiply_add(odd_a, broadcast(kA2 * kA), multiply_add(odd_b, broadcast(kB2 * kB), m[5]));
}

// G g of as many output channels as a block has, in double.
struct Weights {
  double of[kRows];
};

inline void transform_weights(const Weights* g, int64_t step, Weights* to, int64_t to_step) {
  constexpr double a = kA, b = kB, a2 = a * a, b2 = b * b;
  constexpr double of_a = 1 / (2 * a2 * (a2 - b2)), of_b = 1 / (2 * b2 * (b2 - a2));
  for (int r = 0; r < kRows; ++r) {
    const double g0 = g[0].of[r], g1 = g[step].of[r], g2 = g[2 * step].of[r];
    to[0].of[r] = g0 / (a2 * b2);
    to[to_step].of[r] = (g0 + a * g1 + a2 * g2) * of_a;
    to[2 * to_step].of[r] = (g0 - a * g1 + a2 * g2) * of_a;
    to[3 * to_step].of[r] = (g0 + b * g1 + b2 * g2) * of_b;
    to[4 * to_step].of[r] = (g0 - b * g1 + b2 * g2) * of_b;
    to[5 * to_step].of[r] = g2;
  }
}

// ---- Pieces, see Note [Lanes are tiles] ---------------------------------------------------------

constexpr int64_t kNothing = -1;  // in the place of an index: a zero

// A run of tiles in one row, and where it lies in a vector.
struct Piece {
  int lane, count;
  int64_t image, y, x;    // of the first result
  int64_t from[6];        // where in a plane of x the lines begin, or kNothing
  int64_t before, after;  // columns of x of the pixels at both sides, or kNothing
  int64_t results;        // pixels in a line of results
  int lines;              // of results
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Row or column `at` of the results, one beyond them included -> of x.
inline int64_t in_picture(const WinogradCall& call, int64_t at, int64_t size) {
  const int64_t inside = at + call.origin;
  if (inside >= 0 && inside < size) return inside;
  if (!call.reflection) return kNothing;
  return inside < 0 ? -inside : 2 * size - 2 - inside;
}

// The pieces of a vector from tile `tile` on; their number.
int find_pieces(const WinogradCall& call, int64_t tile, Piece* pieces) {
  const int64_t tiles = call.batch * call.tiles_down * call.tiles_across;
  int count = 0;
  for (int lane = 0; lane < kLanes && tile < tiles;) {
    Piece& piece = pieces[count++];
    const int64_t row = tile / call.tiles_across, column = tile % call.tiles_across;
    piece.lane = lane;
    piece.count = static_cast<int>(smaller(kLanes - lane, call.tiles_across - column));
    piece.image = row / call.tiles_down;
    piece.y = row % call.tiles_down * 4;
    piece.x = column * 4;
    piece.lines = static_cast<int>(smaller(4, call.rows - piece.y));
    piece.results = smaller(4 * piece.count, call.columns - piece.x);
    piece.before = in_picture(call, piece.x - 1, call.width);
    piece.after = in_picture(call, piece.x + piece.results, call.width);
    for (int i = 0; i < 6; ++i) {
      const int64_t y = piece.y - 1 + i;
      const int64_t line = y > call.rows ? kNothing : in_picture(call, y, call.height);
      piece.from[i] = line == kNothing ? kNothing : line * call.width;
    }
    lane += piece.count;
    tile += piece.count;
  }
  return count;
}

// Six columns of the tiles of a line of a piece.
inline void load_line(const WinogradCall& call, const float* plane, const Piece& piece, int line,
                      Floats (&d)[6]) {
  if (piece.from[line] == kNothing) {
    for (Floats& column : d) column = Floats{};
    return;
  }
  const float* row = plane + piece.from[line];
  const float* from = row + piece.x + call.origin;
  const float before = piece.before == kNothing ? 0.0f : row[piece.before];
  const float after = piece.after == kNothing ? 0.0f : row[piece.after];
  Floats pixels[4];
  if (piece.results == kLine) {
    for (int k = 0; k < 4; ++k) pixels[k] = load(from + k * kLanes, AllLanes{});
  } else {
    for (int k = 0; k < 4; ++k) {
      const int64_t left = piece.results - k * kLanes;
      if (left >= kLanes) {
        pixels[k] = load(from + k * kLanes, AllLanes{});
        continue;
      }
      pixels[k] = left > 0 ? load(from + k * kLanes, FirstLanes{static_cast<int>(left)}) : Floats{};
      if (left >= 0)
        pixels[k] = counted(0, 1) == static_cast<int>(left) ? broadcast(after) : pixels[k];
    }
  }
  split_columns(pixels);
  d[0] = permuted(broadcast(before), pixels[3], counted(kLanes - 1, 1));
  for (int k = 0; k < 4; ++k) d[k + 1] = pixels[k];
  d[5] = permuted(pixels[0], broadcast(after), counted(1, 1));
}

// ---- Before the product -------------------------------------------------------------------------

// Asks for the pixels of the next channel, which lie a plane away: no prefetcher follows.
inline void fetch_ahead(const float* plane, const WinogradCall& call, const Piece& piece) {
  for (int line = 0; line < 6; ++line) {
    if (piece.from[line] == kNothing) continue;
    const float* from = plane + piece.from[line] + piece.x + call.origin;
    for (int64_t i = 0; i < piece.results; i += 16) __builtin_prefetch(from + i);
  }
}

// One vector of tiles of one channel -> its 36 places, `stride` floats apart.
inline void transform_tiles(const WinogradCall& call, int64_t channel, const Piece* pieces,
                            int piece_count, float* to, int64_t stride) {
  alignas(64) float across[kWinogradPlaces * kLanes];
  for (int p = 0; p < piece_count; ++p) {
    const Piece& piece = pieces[p];
    const int64_t area = call.height * call.width;
    const float* plane = call.x + (piece.image * call.in_channels + channel) * area;
    if (channel + 1 < call.in_channels) fetch_ahead(plane + area, call, piece);
    for (int line = 0; line < 6; ++line) {
      Floats d[6], transformed[6];
      load_line(call, plane, piece, line, d);
      transform_pixels(d, transformed);
      float* at = across + line * 6 * kLanes + piece.lane;
      for (int j = 0; j < 6; ++j, at += kLanes) {
        if (piece.count == kLanes) {
          store(at, transformed[j], AllLanes{});
        } else {
          store(at, transformed[j], FirstLanes{piece.count});
        }
      }
    }
  }
  for (int j = 0; j < 6; ++j) {
    Floats d[6], transformed[6];
    for (int i = 0; i < 6; ++i) d[i] = load(across + (i * 6 + j) * kLanes, AllLanes{});
    transform_pixels(d, transformed);
    for (int i = 0; i < 6; ++i) store(to + (i * 6 + j) * stride, transformed[i], AllLanes{});
  }
}

// ---- The product --------------------------------------------------------------------------------

// inputs [in_channels][Vectors], weights [in_channels][Rows] -> sums [Rows][Vectors][36], of which
// one place is written.
template <int Rows, int Vectors>
void multiply(const float* inputs, const float* weights, int64_t in_channels, float* sums) {
  Floats total[Rows][Vectors] = {};
  for (int64_t channel = 0; channel < in_channels; ++channel) {
    Floats input[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) input[v] = load(inputs + v * kLanes, AllLanes{});
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Floats weight = broadcast(weights[r]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) total[r][v] = multiply_add(input[v], weight, total[r][v]);
    }
    inputs += Vectors * kLanes;
    weights += Rows;
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      store(sums + (r * Vectors + v) * kWinogradPlaces * kLanes, total[r][v], AllLanes{});
    }
  }
}

using Multiply = void (*)(const float*, const float*, int64_t, float*);

template <int Vectors, int Rows = kRows>
struct MultiplyTable : MultiplyTable<Vectors, Rows - 1> {
  MultiplyTable() { this->of_rows[Rows] = multiply<Rows, Vectors>; }
};
template <int Vectors>
struct MultiplyTable<Vectors, 0> {
  Multiply of_rows[kRows + 1];
};

// ---- After the product --------------------------------------------------------------------------

// What is added to a line of results, and where they go.
struct Results {
  float* out;
  const float *residual, *skip;  // or null
  float bias, slope, ceiling;

  template <typename Lanes>
  void write(int64_t at, Floats value, Lanes lanes) const {
    value += bias;
    if (residual != nullptr) value += load(residual + at, lanes);
    const Floats below = slope == 0.0f ? Floats{} : value * slope;
    value = value < 0.0f ? below : value;  // a NaN stays
    value = value > ceiling ? broadcast(ceiling) : value;
    if (skip != nullptr) value += load(skip + at, lanes);
    store(out + at, value, lanes);
  }
};

// The 36 sums of a vector of tiles of one output channel -> its results.
inline void finish_tiles(const WinogradCall& call, int64_t channel, const Piece* pieces,
                         int piece_count, const float* sums) {
  Floats down[6][4];
  for (int j = 0; j < 6; ++j) {
    Floats m[6];
    for (int i = 0; i < 6; ++i) m[i] = load(sums + (i * 6 + j) * kLanes, AllLanes{});
    transform_sums(m, down[j]);
  }
  const Results results = {call.out,   call.residual,
                           call.skip,  call.bias == nullptr ? 0.0f : call.bias[channel],
                           call.slope, call.ceiling};
  for (int line = 0; line < 4; ++line) {
    Floats m[6], pixels[4];
    for (int j = 0; j < 6; ++j) m[j] = down[j][line];
    transform_sums(m, pixels);
    join_columns(pixels);
    const auto place = [&](const Piece& piece) {
      const int64_t plane = piece.image * call.out_channels + channel;
      return (plane * call.rows + piece.y + line) * call.columns + piece.x;
    };
    if (pieces[0].results == kLine) {
      if (line >= pieces[0].lines) return;
      for (int k = 0; k < 4; ++k) {
        results.write(place(pieces[0]) + k * kLanes, pixels[k], AllLanes{});
      }
      continue;
    }
    alignas(64) float joined[kLine];
    for (int k = 0; k < 4; ++k) store(joined + k * kLanes, pixels[k], AllLanes{});
    for (int p = 0; p < piece_count; ++p) {
      if (line >= pieces[p].lines) continue;
      const int64_t at = place(pieces[p]);
      const float* from = joined + 4 * pieces[p].lane;
      for_each_vector(0, pieces[p].results, [&](int64_t i, auto lanes) {
        results.write(at + i, load(from + i, lanes), lanes);
      });
    }
  }
}

// ---- All of it ----------------------------------------------------------------------------------

void compute(const WinogradCall& call, int64_t first, int vectors, int64_t first_block,
             int64_t last_block, float* scratch) {
  static const MultiplyTable<1> single;
  static const MultiplyTable<2> pair;
  Piece pieces[kUnitVectors][kLanes];
  int counts[kUnitVectors] = {};
  for (int v = 0; v < vectors; ++v) counts[v] = find_pieces(call, first + v * kLanes, pieces[v]);

  const int64_t stride = winograd_place_stride(call.in_channels, vectors, kLanes);
  for (int64_t channel = 0; channel < call.in_channels; ++channel) {
    for (int v = 0; v < vectors; ++v) {
      transform_tiles(call, channel, pieces[v], counts[v],
                      scratch + (channel * vectors + v) * kLanes, stride);
    }
  }
  float* sums = scratch + kWinogradPlaces * stride;
  const int64_t blocks = winograd_blocks(call.out_channels, kRows);
  for (int64_t index = first_block; index < last_block; ++index) {
    const WinogradBlock block = winograd_block(call.out_channels, blocks, index);
    const int64_t channels = block.last - block.first;
    const Multiply multiply_rows = (vectors == 1 ? single.of_rows : pair.of_rows)[channels];
    const float* weights = call.weights + block.first * call.in_channels * kWinogradPlaces;
    for (int place = 0; place < kWinogradPlaces; ++place) {
      multiply_rows(scratch + place * stride, weights, call.in_channels, sums + place * kLanes);
      weights += call.in_channels * channels;
    }
    for (int64_t channel = 0; channel < channels; ++channel) {
      for (int v = 0; v < vectors; ++v) {
        finish_tiles(call, block.first + channel, pieces[v], counts[v],
                     sums + (channel * vectors + v) * kWinogradPlaces * kLanes);
      }
    }
  }
}

void pack_weights(const float* weight, int64_t in_channels, WinogradBlock block, float* packed) {
  const int64_t channels = block.last - block.first;
  Weights kernel[9] = {}, across[3 * 6], both[kWinogradPlaces];
  for (int64_t in = 0; in < in_channels; ++in) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      const float* from = weight + ((block.first + channel) * in_channels + in) * 9;
      for (int i = 0; i < 9; ++i) kernel[i].of[channel] = from[i];
    }
    for (int i = 0; i < 3; ++i) transform_weights(kernel + 3 * i, 1, across + 6 * i, 1);
    for (int j = 0; j < 6; ++j) transform_weights(across + j, 6, both + j, 6);
    for (int place = 0; place < kWinogradPlaces; ++place) {
      float* to = packed + (place * in_channels + in) * channels;
      for (int64_t channel = 0; channel < channels; ++channel) {
        to[channel] = static_cast<float>(both[place].of[channel]);
      }
    }
  }
}

}  // namespace

const WinogradKernels& REVISAGE_ISA_FUNCTION() {
  static const WinogradKernels kernels = {kLanes, kRows, compute, pack_weights};
  return kernels;
}

}  // namespace revisage
