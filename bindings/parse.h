// The dict form of docs/format.md as the core's Program.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "bcdnet/program.h"

namespace bcdnet {

/// `program` points into the arrays of `keep`.
struct ParsedProgram {
  Program program;
  std::vector<nanobind::object> keep;
};

/// Throws std::invalid_argument naming the op that does not have the form.
ParsedProgram ParseProgram(const nanobind::list& buffers, const nanobind::list& ops, const nanobind::dict& tensors,
                           const nanobind::list& inputs, const nanobind::list& outputs);

}  // namespace bcdnet
