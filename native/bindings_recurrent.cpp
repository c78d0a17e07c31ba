// float32 weights and recurrent networks in intact._native.

#include <map>

#include "bindings.hpp"
#include "steps/recurrent.hpp"

namespace nb = nanobind;

namespace intact {
namespace {

// weights; the input's share, the initial states; y, the final states; whether time runs backwards
using GivenDirection =
    std::tuple<std::shared_ptr<RecurrentWeights>, Strided, Strided, std::optional<Strided>, Strided,
               Strided, std::optional<Strided>, bool>;

Cell cell_of(const std::string& name) {
  static const std::map<std::string, Cell> all = {
      {"lstm", Cell::kLstm}, {"gru", Cell::kGru}, {"gru_reset_first", Cell::kGruResetFirst}};
  const auto found = all.find(name);
  require(found != all.end(), "a cell is unknown");
  return found->second;
}

Direction direction_of(const GivenDirection& given) {
  const auto& [weights, from_x, h0, c0, y, h, c, reverse] = given;
  Direction d{weights, view(from_x), view(h0), std::nullopt, target_view(y), target_view(h),
              std::nullopt, reverse};
  if (c0) d.c0 = view(*c0);
  if (c) d.c = target_view(*c);
  return d;
}

template <class T>
void check_square(const Matrices<T>& weights) {
  require(weights.shape(1) == weights.shape(2), "a recurrence's weights are not square");
}

}  // namespace

void bind_recurrent(nb::module_& m, nb::class_<Program>& program) {
  nb::class_<PackedReals>(m, "PackedReals")
      .def_static("pack", [](const Matrices<float>& w) {
        return std::make_shared<PackedReals>(w.data(), w.shape(0), w.shape(1), w.shape(2));
      }, nb::arg("weights"), "float32 weights [groups, K, N].")
      .def_prop_ro("bytes", [](const PackedReals& packed) { return packed.data.bytes(); });

  nb::class_<RecurrentWeights>(m, "RecurrentWeights")
      .def_static("pack", [](Engine& engine, const Matrices<std::int8_t>& w,
                             const Row<float>& scale, const std::optional<Row<float>>& bias) {
        check_square(w);
        return std::make_shared<RecurrentWeights>(engine.kernels(), engine.store(), w.data(), w.shape(0),
                                                  w.shape(1), vector(scale), vector(bias));
      }, nb::arg("engine"), nb::arg("weights"), nb::arg("scale"), nb::arg("bias").none(),
         "int8 weights [gates, hidden, hidden] for `engine`; scale, bias: [gates * hidden].")
      .def_static("pack_reals", [](const Matrices<float>& w, const std::optional<Row<float>>& bias) {
        check_square(w);
        return std::make_shared<RecurrentWeights>(w.data(), w.shape(0), w.shape(1), vector(bias));
      }, nb::arg("weights"), nb::arg("bias").none())
      .def_prop_ro("bytes", [](const RecurrentWeights& w) {
        return w.integers ? w.integers->data.bytes() : w.reals->data.bytes();
      });

  program.def("recurrence", [](Program& p, const std::string& label, const std::string& cell,
                               std::size_t time, std::size_t batch, std::size_t hidden,
                               const std::vector<GivenDirection>& directions) {
    std::vector<Direction> all;
    for (const GivenDirection& given : directions) all.push_back(direction_of(given));
    p.add(make_recurrence(p, cell_of(cell), time, batch, hidden, std::move(all)), label);
  }, nb::arg("label"), nb::arg("cell"), nb::arg("time"), nb::arg("batch"), nb::arg("hidden"),
     nb::arg("directions"));
}

}  // namespace intact
