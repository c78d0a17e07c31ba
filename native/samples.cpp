#include "samples.hpp"

#include <algorithm>
#include <exception>
#include <mutex>

namespace intact {

Samples::Samples(std::shared_ptr<Engine> engine, std::vector<std::shared_ptr<Program>> programs, std::size_t count,
                 std::vector<bool> common)
    : engine_(std::move(engine)), programs_(std::move(programs)), count_(count), common_(std::move(common)) {
  require(engine_ && count_ > 0, "there are no samples");
  require(programs_.size() == engine_->pool().threads(), "not every thread has a program");
  for (const auto& program : programs_) {
    require(program && program->engine().pool().threads() == 1, "a sample's program has several threads");
    require(program->input_bytes() == programs_[0]->input_bytes() &&
                program->output_bytes() == programs_[0]->output_bytes(),
            "the samples' programs differ");
  }
  const auto& of_one = programs_[0]->input_bytes();
  require(common_.size() == of_one.size(), "it is not known of every input whether all samples share it");
  for (std::size_t i = 0; i < of_one.size(); ++i) input_bytes_.push_back(common_[i] ? of_one[i] : times(of_one[i], count_));
  for (const std::size_t bytes : programs_[0]->output_bytes()) output_bytes_.push_back(times(bytes, count_));
}

void Samples::run(const std::vector<std::uint8_t*>& inputs, const std::vector<std::uint8_t*>& outputs) {
  const std::lock_guard lock(engine_->mutex());
  std::mutex failing;
  std::size_t failed = count_;
  std::exception_ptr error;
  engine_->pool().run(count_, [&](std::size_t sample, std::size_t thread) {
    Program& program = *programs_[thread];
    std::vector<std::uint8_t*> in = inputs, out = outputs;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!common_[i]) in[i] += sample * program.input_bytes()[i];
    }
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += sample * program.output_bytes()[i];
    try {
      program.run(in, out);
    } catch (...) {
      const std::lock_guard of_error(failing);
      if (sample < failed) error = std::current_exception();
      failed = std::min(failed, sample);
    }
  });
  if (error) std::rethrow_exception(error);
}

std::vector<double> Samples::profile(const std::vector<std::uint8_t*>& inputs,
                                     const std::vector<std::uint8_t*>& outputs, std::size_t repetitions) {
  const std::lock_guard lock(engine_->mutex());
  std::vector<double> seconds = programs_[0]->profile(inputs, outputs, repetitions);
  const std::size_t threads = programs_.size();
  for (double& of_step : seconds) of_step *= static_cast<double>((count_ + threads - 1) / threads);
  return seconds;
}

}  // namespace intact
