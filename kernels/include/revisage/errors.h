// The errors that C++ throws on purpose; bindings/errors.cc maps them to revisage.errors.
#pragma once

#include <stdexcept>
#include <string>

namespace revisage {

struct ShapeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct OptionError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace revisage
