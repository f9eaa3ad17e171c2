#include "revisage/feature_blend.h"

#include "array_argument.h"
#include "bindings.h"

namespace py = pybind11;

namespace revisage::python {

void register_feature_blend(py::module_& module) {
  module.def(
      "feature_blend_into",
      [](const py::object& out, const py::object& style, const py::object& image,
         const py::object& spatial_logits, const py::object& channel_logits, double strength,
         int threads, std::uintptr_t stream) {
        const Array out_array = borrow("out", out, stream);
        const Array style_array = borrow("style", style, stream),
                    image_array = borrow("image", image, stream);
        const Array spatial_array = borrow("spatial_logits", spatial_logits, stream);
        const Array channel_array = borrow("channel_logits", channel_logits, stream);
        const py::gil_scoped_release unlocked;
        feature_blend(out_array, style_array, image_array, spatial_array, channel_array,
                      static_cast<float>(strength), {threads, stream});
      },
      py::arg("out"), py::arg("style"), py::arg("image"), py::arg("spatial_logits"),
      py::arg("channel_logits"), py::arg("strength"), py::arg("threads"), py::arg("stream"));
  module.def(
      "feature_blend_backward_into",
      [](const py::object& grad_style, const py::object& grad_image,
         const py::object& grad_spatial_logits, const py::object& grad_channel_logits,
         const py::object& grad, const py::object& style, const py::object& image,
         const py::object& spatial_logits, const py::object& channel_logits, double strength,
         int threads, std::uintptr_t stream) {
        const FeatureBlendGradients gradients{
            borrow("grad_style", grad_style, stream), borrow("grad_image", grad_image, stream),
            borrow("grad_spatial_logits", grad_spatial_logits, stream),
            borrow("grad_channel_logits", grad_channel_logits, stream)};
        const Array grad_array = borrow("grad", grad, stream);
        const Array style_array = borrow("style", style, stream),
                    image_array = borrow("image", image, stream);
        const Array spatial_array = borrow("spatial_logits", spatial_logits, stream);
        const Array channel_array = borrow("channel_logits", channel_logits, stream);
        const py::gil_scoped_release unlocked;
        feature_blend_backward(gradients, grad_array, style_array, image_array, spatial_array,
                               channel_array, static_cast<float>(strength), {threads, stream});
      },
      py::arg("grad_style"), py::arg("grad_image"), py::arg("grad_spatial_logits"),
      py::arg("grad_channel_logits"), py::arg("grad"), py::arg("style"), py::arg("image"),
      py::arg("spatial_logits"), py::arg("channel_logits"), py::arg("strength"), py::arg("threads"),
      py::arg("stream"));
}

}  // namespace revisage::python
