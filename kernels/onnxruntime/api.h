// ONNX Runtime's C++ interface, whose functions come from the program that loads this library:
// nothing is linked.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT
