// A loaded network: weights laid out for one instruction set, memory planned, threads started.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bcdnet/program.h"

namespace bcdnet {

struct Options {
  int threads = 1;
  std::optional<std::string> target;  // one of Targets(); absent: the best
  std::optional<std::string>
      algorithm;  // one of Algorithms(target) for every binary convolution it can do; absent: the fastest
};

class Session {
 public:
  /// Validates everything and copies what it keeps. Throws std::invalid_argument that names the offending op.
  Session(const Program& program, const Options& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// images: [count][C][H][W]; outputs[i]: [count][channels of output i]. Any number of threads may call at once.
  void Run(const float* images, int64_t count, const std::vector<float*>& outputs) const;

  /// The same, and returns the seconds spent in each op, summed over the images.
  std::vector<double> Profile(const float* images, int64_t count, const std::vector<float*>& outputs) const;

  /// The same; captures[i] receives buffer ids[i] as [count] times the buffer's own shape (float or uint32 words).
  void Debug(const float* images, int64_t count, const std::vector<int>& ids, const std::vector<void*>& captures) const;

  const std::string& target() const;
  int threads() const;
  const Program& program() const;  // sizes and ids; its tensors are cleared

  /// Name of the algorithm that each op uses, empty where there is no choice.
  std::vector<std::string> OpAlgorithms() const;

  /// Bytes of the arena and scratch that one concurrent Run needs; Debug of a map that is stored as means takes more.
  size_t RunBytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Instruction sets of this build that this CPU runs, best first; the last is "SCALAR", plain loops.
std::vector<std::string> Targets();

/// Algorithms for binary convolutions on a target.
std::vector<std::string> Algorithms(const std::string& target);

/// Operations per second of one thread in a loop that is bound by one thing: "shuffle" (byte look-ups; binary
/// multiply-accumulates at 4 per byte), "pairs" (look-ups of two pixels at once, at 8 per byte), "popcount" (xor,
/// population count, add; binary MACs), "fp32" (multiply-add; MACs).
double Peak(const std::string& kind, const std::string& target);

}  // namespace bcdnet
