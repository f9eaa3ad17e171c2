// Python arrays -> revisage::Array, without a copy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "revisage/array.h"
#include "revisage/errors.h"

namespace revisage::python {

// Borrows a NumPy array, or a CUDA array by DLPack or __cuda_array_interface__, in that order; work
// on `stream` then comes after what the array's library has queued. The Python object must outlive
// the call; the Array must be destroyed with the interpreter's lock held. Throws ShapeError for
// other types, foreign dtypes, broken descriptions and strides that are not C order.
Array borrow(const char* name, const pybind11::object& object, std::uintptr_t stream);

// The six numbers of a matrix argument.
Affine to_affine(const pybind11::tuple& matrix);

}  // namespace revisage::python
