#pragma once

#include <memory>
#include <string>
#include <vector>

#include "program.hpp"

namespace intact {

// A batch whose samples have nothing to do with each other: the program of one sample, on each thread, for one sample
// after another, so that what lies between its steps stays in that thread's caches.
class Samples {
 public:
  // programs: one for each thread of `engine`, alike, each of an engine of one thread. common: of each input, whether
  // it is the same for all samples; others, and outputs, hold `count` samples one after another.
  Samples(std::shared_ptr<Engine> engine, std::vector<std::shared_ptr<Program>> programs, std::size_t count,
          std::vector<bool> common);

  // Throws what a program throws, for the first of the samples that it does for.
  void run(const std::vector<std::uint8_t*>& inputs, const std::vector<std::uint8_t*>& outputs);
  // As Program::profile: of the first sample, on one thread, times the samples of a thread.
  std::vector<double> profile(const std::vector<std::uint8_t*>& inputs, const std::vector<std::uint8_t*>& outputs,
                              std::size_t repetitions);

  const std::vector<std::string>& labels() const { return programs_[0]->labels(); }
  const std::vector<std::size_t>& input_bytes() const { return input_bytes_; }
  const std::vector<std::size_t>& output_bytes() const { return output_bytes_; }

 private:
  std::shared_ptr<Engine> engine_;
  std::vector<std::shared_ptr<Program>> programs_;
  std::size_t count_;
  std::vector<bool> common_;
  std::vector<std::size_t> input_bytes_, output_bytes_;
};

}  // namespace intact
