// The Python face of the native part: intact._native.

#include <nanobind/stl/array.h>

#include <array>
#include <cmath>
#include <memory>
#include <tuple>
#include <vector>

#include "bindings.hpp"
#include "histogram.hpp"
#include "samples.hpp"

namespace nb = nanobind;
using namespace intact;

namespace {

using Counts = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;
using AnyArray = nb::ndarray<nb::c_contig, nb::device::cpu>;
using ConstArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

// images, height, width, channels, out_height, out_width, then kernel, stride, dilation and
// padding, each of height and width
using WindowSizes = std::array<std::size_t, 14>;
// low, high, zero point
using Clamp = std::tuple<float, float, std::int32_t>;
// other tensor, (scale, zero point) of both, scale and clamp of the result
using Addend = std::tuple<Place, std::array<float, 3>, std::array<std::int32_t, 2>, Clamp>;

Windows windows(const WindowSizes& s) {
  return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13]};
}

std::uint8_t zero_point_of(std::int32_t value) {
  require(value >= 0 && value <= 255, "a zero point is no uint8");
  return static_cast<std::uint8_t>(value);
}

// Whatever is clamped to these bounds must be a uint8.
void check(const Clamp& clamp) {
  const auto& [low, high, zero_point] = clamp;
  require(zero_point >= 0 && zero_point <= 255, "a zero point is no uint8");
  require(low <= high && low >= static_cast<float>(-zero_point) &&
              high <= static_cast<float>(255 - zero_point),
          "a clamp leaves what is no uint8");
}

Sum sum_of(const std::array<float, 3>& scales, const std::array<std::int32_t, 2>& zero_points,
           const Clamp& clamp) {
  check(clamp);
  const auto& [low, high, zero_point] = clamp;
  return {.a_scale = scales[0], .b_scale = scales[1], .scale = scales[2],
          .a_zero_point = zero_points[0], .b_zero_point = zero_points[1],
          .low = low, .high = high, .zero_point = zero_point};
}

Tail tail_of(const std::optional<Row<std::uint8_t>>& table, const std::optional<Addend>& addend) {
  Tail tail;
  tail.table = vector(table);
  if (addend) {
    const auto& [place, scales, zero_points, clamp] = *addend;
    tail.other = region(place);
    tail.sum = sum_of(scales, zero_points, clamp);
  }
  return tail;
}

// function, alpha, beta
using AppliedName = std::tuple<std::string, float, float>;
// scale, zero point
using Scale = std::tuple<float, std::int32_t>;
// scales, zero points
using RowPlaces = std::tuple<Place, Place>;
// place, images
using ExtremesPlace = std::tuple<Place, std::size_t>;

Applied applied(const AppliedName& given) {
  const auto& [name, alpha, beta] = given;
  return {unary_of(name), alpha, beta};
}

RealTail real_tail_of(const std::optional<Row<float>>& shift,
                      const std::optional<AppliedName>& function,
                      const std::optional<Place>& other,
                      const std::optional<std::array<float, 2>>& bounds,
                      const std::optional<Scale>& quantized) {
  RealTail tail;
  tail.shift = vector(shift);
  if (function) tail.function = applied(*function);
  if (bounds) std::tie(tail.low, tail.high) = std::tie((*bounds)[0], (*bounds)[1]);
  if (other) tail.other = region(*other);
  if (quantized) {
    tail.quantized = true;
    std::tie(tail.scale, tail.zero_point) = *quantized;
  }
  return tail;
}

RowParameters rows_of(const RowPlaces& places) {
  const auto& [scales, zero_points] = places;
  return {target(scales), target(zero_points)};
}

std::optional<Extremes> extremes_of(const std::optional<ExtremesPlace>& given) {
  if (!given) return std::nullopt;
  const auto& [place, images] = *given;
  return Extremes{target(place), images};
}

// place, scale, zero point
using QuantizedPlace = std::tuple<Place, float, std::int32_t>;

std::optional<Quantized> quantized_of(const std::optional<QuantizedPlace>& given,
                                      const std::optional<RowPlaces>& found) {
  if (!given) return std::nullopt;
  const auto& [place, scale, zero_point] = *given;
  Quantized result{target(place), scale, zero_point, std::nullopt};
  if (found) result.rows = rows_of(*found);
  return result;
}

Output output_of(const Row<std::int32_t>& bias, const Row<float>& scale,
                 const std::optional<Clamp>& clamp) {
  Output output;
  output.bias = vector(bias);
  output.scale = vector(scale);
  if (clamp) {
    check(*clamp);
    std::tie(output.low, output.high, output.zero_point) = *clamp;
  }
  return output;
}

nb::tuple describe_values(const Row<float>& values) {
  if (values.size() == 0) throw nb::value_error("there are no values to describe");
  Description found;
  {
    nb::gil_scoped_release unlocked;
    found = describe(values.data(), values.size());
  }
  auto counts = std::make_unique<std::vector<std::int64_t>>(std::move(found.counts));
  std::int64_t* data = counts->data();
  const std::size_t size = counts->size();
  nb::capsule owner(counts.release(), [](void* p) noexcept {
    delete static_cast<std::vector<std::int64_t>*>(p);
  });
  return nb::make_tuple(found.low, found.high, found.exponent, found.first,
                        Counts(data, {size}, owner));
}

// What a program, or one of samples, reads and writes.
struct Pointers {
  template <class Runnable>
  Pointers(const Runnable& program, const std::vector<ConstArray>& in,
           const std::vector<AnyArray>& out) {
    require(in.size() == program.input_bytes().size() && out.size() == program.output_bytes().size(),
            "the program has another number of inputs or outputs");
    for (std::size_t i = 0; i < in.size(); ++i) {
      require(in[i].nbytes() == program.input_bytes()[i], "an input has another size");
      // Steps never write to inputs: they have no output region there.
      inputs.push_back(static_cast<std::uint8_t*>(const_cast<void*>(in[i].data())));
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      require(out[i].nbytes() == program.output_bytes()[i], "an output has another size");
      outputs.push_back(static_cast<std::uint8_t*>(out[i].data()));
    }
  }
  std::vector<std::uint8_t*> inputs, outputs;
};

// labels, run and profile.
template <class Runnable>
void bind_runs(nb::class_<Runnable>& of) {
  of.def_prop_ro("labels", &Runnable::labels)
      .def("run", [](Runnable& program, const std::vector<ConstArray>& inputs,
                     const std::vector<AnyArray>& outputs) {
        const Pointers pointers(program, inputs, outputs);
        nb::gil_scoped_release unlocked;
        program.run(pointers.inputs, pointers.outputs);
      }, nb::arg("inputs"), nb::arg("outputs"))
      .def("profile", [](Runnable& program, const std::vector<ConstArray>& inputs,
                         const std::vector<AnyArray>& outputs, std::size_t repetitions) {
        const Pointers pointers(program, inputs, outputs);
        nb::gil_scoped_release unlocked;
        return program.profile(pointers.inputs, pointers.outputs, repetitions);
      }, nb::arg("inputs"), nb::arg("outputs"), nb::arg("repetitions"));
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The compiled part of intact: programs of integer operators.";
  m.def("describe", &describe_values, nb::arg("values"),
        "Minimum, maximum, bin exponent, first bin and bin counts of finite float32 values.");
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const char* name : available_kernels()) names.emplace_back(name);
    return names;
  }, "The names of the instruction sets that this CPU has, best first.");

  nb::class_<Engine>(m, "Engine")
      .def("__init__", [](nb::pointer_and_handle<Engine>, std::size_t, const std::string&) {
        throw nb::type_error("use Engine.create");
      })
      .def_static("create", [](std::size_t threads, const std::string& isa) {
        require(threads >= 1 && threads <= 1024, "the number of threads is not in 1 to 1024");
        return std::make_shared<Engine>(threads, isa.c_str());
      }, nb::arg("threads"), nb::arg("isa"))
      .def_prop_ro("isa", [](const Engine& engine) { return std::string(engine.kernels().name); })
      .def_prop_ro("threads", [](Engine& engine) { return engine.pool().threads(); })
      .def("peak", [](Engine& engine) {
        nb::gil_scoped_release unlocked;
        return engine.peak();
      }, "Multiply-accumulates a second, in billions, on data in the first cache.");

  nb::class_<Packed>(m, "Packed")
      .def_static("pack", [](Engine& engine, const Matrices<std::int8_t>& weights,
                             const std::array<std::size_t, 6>& kernel) {
        require(weights.size() > 0, "weights are empty");
        const auto& [h, w, stride_h, stride_w, dilation_h, dilation_w] = kernel;
        require(h > 0 && w > 0 && stride_h > 0 && stride_w > 0, "a kernel or stride is zero");
        const Kernel shape{h, w, stride_h, stride_w, dilation_h, dilation_w};
        return std::make_shared<Packed>(engine.kernels(), engine.store(), weights.data(), weights.shape(0),
                                        weights.shape(1), weights.shape(2), shape);
      }, nb::arg("engine"), nb::arg("weights"), nb::arg("kernel"),
         "Weights [groups, K, N] for `engine`; size, strides and dilations of the kernel.")
      .def_prop_ro("bytes", [](const Packed& packed) { return packed.data.bytes(); });

  nb::class_<Program> program(m, "Program");
  bind_recurrent(m, program);
  bind_runs(program);
  program
      .def(nb::init<std::shared_ptr<Engine>, std::size_t, std::vector<std::size_t>,
                    std::vector<std::size_t>>(),
           nb::arg("engine"), nb::arg("arena_bytes"), nb::arg("input_bytes"),
           nb::arg("output_bytes"))
      .def("begin_chain", &Program::begin_chain)
      .def("end_chain", &Program::end_chain, nb::arg("label"))
      .def("convolution", [](Program& p, const std::string& label, const Place& x, const Place& y,
                             const WindowSizes& sizes, std::int32_t x_zero_point,
                             std::shared_ptr<Packed> weights, const Row<std::int32_t>& bias,
                             const Row<float>& scale, const Clamp& clamp,
                             const std::optional<Row<std::uint8_t>>& table,
                             const std::optional<Addend>& addend,
                             const std::optional<std::array<std::size_t, 2>>& within) {
        Output output = output_of(bias, scale, clamp);
        output.within = within;
        p.add(make_convolution(p, region(x), target(y), windows(sizes), zero_point_of(x_zero_point),
                               std::move(weights), std::move(output), tail_of(table, addend)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("windows"), nb::arg("x_zero_point"),
         nb::arg("weights"), nb::arg("bias"), nb::arg("scale"), nb::arg("clamp"),
         nb::arg("table").none(), nb::arg("addend").none(), nb::arg("within").none())
      .def("real_convolution", [](Program& p, const std::string& label, const Place& x,
                                  const Place& y, const WindowSizes& sizes,
                                  std::int32_t x_zero_point, std::shared_ptr<Packed> weights,
                                  const Row<std::int32_t>& bias, const Row<float>& scale,
                                  const std::optional<RowPlaces>& rows,
                                  const std::optional<Row<float>>& shift,
                                  const std::optional<AppliedName>& function,
                                  const std::optional<Place>& other,
                                  const std::optional<std::array<float, 2>>& bounds,
                                  const std::optional<Scale>& quantized,
                                  const std::optional<ExtremesPlace>& extremes,
                                  const std::optional<RowPlaces>& found) {
        Output output = output_of(bias, scale, std::nullopt);
        if (rows) output.rows = rows_of(*rows);
        output.extremes = extremes_of(extremes);
        if (found) output.found = rows_of(*found);
        output.real = real_tail_of(shift, function, other, bounds, quantized);
        p.add(make_convolution(p, region(x), target(y), windows(sizes), zero_point_of(x_zero_point),
                               std::move(weights), std::move(output), Tail{}), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("windows"), nb::arg("x_zero_point"),
         nb::arg("weights"), nb::arg("bias"), nb::arg("scale"), nb::arg("rows").none(),
         nb::arg("shift").none(), nb::arg("function").none(), nb::arg("other").none(),
         nb::arg("bounds").none(), nb::arg("quantized").none(), nb::arg("extremes").none(),
         nb::arg("found").none())
      .def("real_depthwise", [](Program& p, const std::string& label, const Place& x,
                                const Place& y, const WindowSizes& sizes,
                                const Row<std::int8_t>& weights, const Row<std::int32_t>& bias,
                                const Row<float>& scale, const RowPlaces& rows,
                                const std::optional<Row<float>>& shift,
                                const std::optional<AppliedName>& function,
                                const std::optional<Place>& other,
                                const std::optional<std::array<float, 2>>& bounds,
                                const std::optional<ExtremesPlace>& extremes,
                                const std::optional<RowPlaces>& found,
                                const std::optional<std::array<Place, 3>>& of_lines) {
        Output output = output_of(bias, scale, std::nullopt);
        output.rows = rows_of(rows);
        output.extremes = extremes_of(extremes);
        if (found) output.found = rows_of(*found);
        if (of_lines) {
          const auto& [sums, most, negatives] = *of_lines;
          output.of_lines = {target(sums), target(most), target(negatives)};
        }
        output.real = real_tail_of(shift, function, other, bounds, std::nullopt);
        p.add(make_real_depthwise(p, region(x), target(y), windows(sizes), vector(weights),
                                  std::move(output)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("windows"), nb::arg("weights"),
         nb::arg("bias"), nb::arg("scale"), nb::arg("rows"), nb::arg("shift").none(),
         nb::arg("function").none(), nb::arg("other").none(), nb::arg("bounds").none(),
         nb::arg("extremes").none(), nb::arg("found").none(), nb::arg("of_lines").none())
      .def("real_pool", [](Program& p, const std::string& label, const Place& x, const Place& y,
                           const WindowSizes& sizes, const std::optional<Row<float>>& counts) {
        p.add(make_real_pool(p, region(x), target(y), windows(sizes), vector(counts)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("windows"), nb::arg("counts").none())
      .def("depthwise", [](Program& p, const std::string& label, const Place& x, const Place& y,
                           const WindowSizes& sizes, std::int32_t x_zero_point,
                           const Row<std::int8_t>& weights, const Row<std::int32_t>& bias,
                           const Row<float>& scale, const Clamp& clamp,
                           const std::optional<Row<std::uint8_t>>& table,
                           const std::optional<Addend>& addend) {
        p.add(make_depthwise(p, region(x), target(y), windows(sizes), zero_point_of(x_zero_point),
                             vector(weights), output_of(bias, scale, clamp),
                             tail_of(table, addend)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("windows"), nb::arg("x_zero_point"),
         nb::arg("weights"), nb::arg("bias"), nb::arg("scale"), nb::arg("clamp"),
         nb::arg("table").none(), nb::arg("addend").none())
      .def("quantize", [](Program& p, const std::string& label, const Place& x, const Place& y,
                          std::size_t images, std::size_t channels, std::size_t pixels, float scale,
                          std::int32_t zero_point) {
        p.add(make_quantize(p, region(x), target(y), images, channels, pixels, scale, zero_point), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("images"), nb::arg("channels"),
         nb::arg("pixels"), nb::arg("scale"), nb::arg("zero_point"))
      .def("dequantize", [](Program& p, const std::string& label, const Place& x, const Place& y,
                            std::size_t images, std::size_t channels, std::size_t pixels,
                            float scale, std::int32_t zero_point) {
        p.add(make_dequantize(p, region(x), target(y), images, channels, pixels, scale, zero_point), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("images"), nb::arg("channels"),
         nb::arg("pixels"), nb::arg("scale"), nb::arg("zero_point"))
      .def("add", [](Program& p, const std::string& label, const Place& a, const Place& b,
                     const Place& y, std::size_t size, const std::array<float, 3>& scales,
                     const std::array<std::int32_t, 2>& zero_points, const Clamp& clamp) {
        p.add(make_add(p, region(a), region(b), target(y), size, sum_of(scales, zero_points, clamp)), label);
      }, nb::arg("label"), nb::arg("a"), nb::arg("b"), nb::arg("y"), nb::arg("size"),
         nb::arg("scales"), nb::arg("zero_points"), nb::arg("clamp"))
      .def("gate", [](Program& p, const std::string& label, const Place& a, const Place& gate,
                      const Place& y, std::size_t images, std::size_t pixels, std::size_t channels,
                      const std::array<std::int32_t, 2>& zero_points, float scale,
                      const Clamp& clamp) {
        check(clamp);
        const auto& [low, high, zero_point] = clamp;
        const Product product{zero_points[0], zero_points[1], scale, low, high, zero_point};
        p.add(make_gate(p, region(a), region(gate), target(y), images, pixels, channels, product), label);
      }, nb::arg("label"), nb::arg("a"), nb::arg("gate"), nb::arg("y"), nb::arg("images"),
         nb::arg("pixels"), nb::arg("channels"), nb::arg("zero_points"), nb::arg("scale"),
         nb::arg("clamp"))
      .def("copy", [](Program& p, const std::string& label, const Place& x, const Place& y,
                      std::size_t rows, std::size_t x_stride, std::size_t x_offset,
                      std::size_t columns, std::size_t y_stride, std::size_t y_offset,
                      const std::optional<Row<std::uint8_t>>& table) {
        p.add(make_copy(p, region(x), target(y), rows, x_stride, x_offset, columns, y_stride,
                        y_offset, vector(table)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("rows"), nb::arg("x_stride"),
         nb::arg("x_offset"), nb::arg("columns"), nb::arg("y_stride"), nb::arg("y_offset"),
         nb::arg("table").none())
      .def("max_pool", [](Program& p, const std::string& label, const Place& x, const Place& y,
                          const WindowSizes& sizes, const std::optional<Row<std::uint8_t>>& table) {
        p.add(make_max_pool(p, region(x), target(y), windows(sizes), vector(table)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("windows"), nb::arg("table").none())
      .def("average_pool", [](Program& p, const std::string& label, const Place& x, const Place& y,
                              const WindowSizes& sizes, std::int32_t x_zero_point, float x_scale,
                              const Row<float>& counts, std::optional<float> y_scale,
                              const std::optional<Clamp>& clamp) {
        const Clamp bounds = clamp.value_or(Clamp{0, 0, 0});
        check(bounds);
        require(y_scale.has_value() == clamp.has_value(), "a scale and a clamp belong together");
        const auto& [low, high, zero_point] = bounds;
        p.add(make_average_pool(p, region(x), target(y), windows(sizes), zero_point_of(x_zero_point),
                                x_scale, vector(counts), y_scale, zero_point, low, high), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("windows"), nb::arg("x_zero_point"),
         nb::arg("x_scale"), nb::arg("counts"), nb::arg("y_scale").none(), nb::arg("clamp").none())
      .def("float_product", [](Program& p, const std::string& label, const Place& x, const Place& y,
                               std::size_t rows, std::shared_ptr<PackedReals> weights,
                               const std::optional<Row<float>>& bias) {
        p.add(make_float_product(p, region(x), target(y), rows, std::move(weights), vector(bias)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("rows"), nb::arg("weights"),
         nb::arg("bias").none())
      .def("function", [](Program& p, const std::string& label, const Place& x, const Place& y,
                          std::size_t size, const AppliedName& function) {
        p.add(make_function(p, region(x), target(y), size, applied(function)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("size"), nb::arg("function"))
      .def("quantize_rows", [](Program& p, const std::string& label, const Place& x, const Place& y,
                               const RowPlaces& parameters,
                               const std::optional<ExtremesPlace>& extremes, std::size_t rows,
                               std::size_t channels, std::size_t pixels) {
        p.add(make_quantize_rows(p, region(x), target(y), rows_of(parameters), extremes_of(extremes),
                                 rows, channels, pixels), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("parameters"),
         nb::arg("extremes").none(), nb::arg("rows"), nb::arg("channels"), nb::arg("pixels"))
      .def("quantize_gated", [](Program& p, const std::string& label, const Place& x, const Place& gate,
                                const Place& most, const Place& negatives, const Place& y,
                                const RowPlaces& parameters, std::size_t images, std::size_t lines,
                                std::size_t pixels, std::size_t channels) {
        const GatedImages given{region(x), region(gate), region(most), region(negatives), images, lines, pixels,
                                channels};
        p.add(make_quantize_gated(p, given, target(y), rows_of(parameters)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("gate"), nb::arg("most"), nb::arg("negatives"), nb::arg("y"),
         nb::arg("parameters"), nb::arg("images"), nb::arg("lines"), nb::arg("pixels"), nb::arg("channels"))
      .def("binary", [](Program& p, const std::string& label, const Place& a, const Place& b,
                        const Place& y, const std::array<std::size_t, 3>& a_strides,
                        const std::array<std::size_t, 3>& b_strides, const std::string& operation,
                        const std::array<std::size_t, 3>& sizes,
                        const std::optional<ExtremesPlace>& extremes) {
        const Operand left{region(a), a_strides[0], a_strides[1], a_strides[2]};
        const Operand right{region(b), b_strides[0], b_strides[1], b_strides[2]};
        p.add(make_binary(p, left, right, target(y), operation, sizes[0], sizes[1], sizes[2],
                          extremes_of(extremes)), label);
      }, nb::arg("label"), nb::arg("a"), nb::arg("b"), nb::arg("y"), nb::arg("a_strides"),
         nb::arg("b_strides"), nb::arg("operation"), nb::arg("sizes"), nb::arg("extremes").none())
      .def("layer_norm", [](Program& p, const std::string& label, const Place& x, const Place& y,
                            const std::optional<QuantizedPlace>& quantized,
                            const std::optional<RowPlaces>& found, std::size_t rows,
                            const Row<float>& gamma, const std::optional<Row<float>>& beta,
                            float epsilon) {
        p.add(make_layer_norm(p, region(x), target(y), quantized_of(quantized, found), rows,
                              vector(gamma), vector(beta), epsilon), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("quantized").none(),
         nb::arg("found").none(), nb::arg("rows"), nb::arg("gamma"), nb::arg("beta").none(),
         nb::arg("epsilon"))
      .def("softmax", [](Program& p, const std::string& label, const Place& x, const Place& y,
                         std::size_t rows, std::size_t size, bool logarithm) {
        p.add(make_softmax(p, region(x), target(y), rows, size, logarithm), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("rows"), nb::arg("size"),
         nb::arg("logarithm"))
      .def("attention", [](Program& p, const std::string& label, const Strided& q, const Strided& k,
                           const Strided& v, const std::optional<Strided>& mask, const Strided& y,
                           const std::array<std::size_t, 6>& sizes, float scale,
                           bool empty_is_zero, std::size_t masks,
                           const std::optional<QuantizedPlace>& quantized) {
        target(std::get<0>(y));
        std::optional<View> masked;
        if (mask) masked = view(*mask);
        const auto& [batch, heads, queries, keys, width, v_width] = sizes;
        p.add(make_attention(p, view(q), view(k), view(v), masked, view(y), batch, heads, queries,
                             keys, width, v_width, scale, empty_is_zero, masks,
                             quantized_of(quantized, std::nullopt)), label);
      }, nb::arg("label"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("mask").none(),
         nb::arg("y"), nb::arg("sizes"), nb::arg("scale"), nb::arg("empty_is_zero"),
         nb::arg("masks"), nb::arg("quantized").none());
  bind_images(program);
  bind_small(m, program);

  nb::class_<Samples> samples(m, "Samples");
  samples.def(nb::init<std::shared_ptr<Engine>, std::vector<std::shared_ptr<Program>>, std::size_t,
                       std::vector<bool>>(),
              nb::arg("engine"), nb::arg("programs"), nb::arg("count"), nb::arg("common"));
  bind_runs(samples);
}
