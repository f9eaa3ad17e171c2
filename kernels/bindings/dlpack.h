// The DLPack exchange format, ABI version 1, and the one that had no version number. Field order
// and types are the protocol's.
#pragma once

#include <cstdint>

namespace revisage::python {

enum class DLDeviceType : std::int32_t { cpu = 1, cuda = 2, cuda_managed = 13 };

struct DLDevice {
  DLDeviceType type;
  std::int32_t index;
};

enum class DLKind : std::uint8_t { integer = 0, unsigned_integer = 1, real = 2, bfloat = 4 };

struct DLDataType {
  DLKind kind;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t rank;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in samples; null: C order
  std::uint64_t byte_offset;
};

// Of capsules named "dltensor".
struct DLManagedTensor {
  static constexpr const char* capsule = "dltensor";
  static constexpr const char* used_capsule = "used_dltensor";
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};

// Of capsules named "dltensor_versioned".
struct DLManagedTensorVersioned {
  static constexpr const char* capsule = "dltensor_versioned";
  static constexpr const char* used_capsule = "used_dltensor_versioned";
  static constexpr std::uint64_t read_only = 1, is_copy = 2;  // flags
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  std::uint64_t flags;
  DLTensor tensor;
};

}  // namespace revisage::python
