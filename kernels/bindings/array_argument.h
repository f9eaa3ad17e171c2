// Python arrays -> revisage::Array, without a copy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "revisage/array.h"
#include "revisage/errors.h"

namespace revisage::python {

// Borrows a NumPy array or an object with __cuda_array_interface__; the Python object must outlive
// the call. Throws ShapeError for other types, foreign dtypes and strides that are not C order.
Array borrow(const char* name, const pybind11::object& object);

// The six numbers of a matrix argument.
Affine to_affine(const pybind11::tuple& matrix);

}  // namespace revisage::python
