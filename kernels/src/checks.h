// One-line argument checks, shared by the operations. All of them throw and none of them fix.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "revisage/array.h"
#include "revisage/errors.h"

namespace revisage {

std::string shape_text(const std::vector<std::int64_t>& shape);

// ShapeError unless the array has this dtype, this shape (-1: any size, but not 0) and a pointer.
void check_array(const Array& array, DType dtype, const std::vector<std::int64_t>& shape);

// ShapeError unless writable.
void check_writable(const Array& array);

// DeviceError unless all arrays lie on one device, which is returned.
Device common_device(std::initializer_list<const Array*> arrays);

// ShapeError where the memory of the two overlaps; `allow_same` permits exactly the same array.
void check_no_overlap(const Array& out, const Array& input, bool allow_same = false);

// OptionError unless all six values are finite.
void check_affine(const Affine& matrix);

// OptionError unless finite and at least 0.
void check_strength(float strength);

}  // namespace revisage
