// Places of all buffers in one arena: two buffers overlap only if they are never needed at the same time, or if an op
// writes one over the other, element by element as it reads it for the last time.
#pragma once

#include <vector>

#include "runtime/step.h"

namespace bcdnet {

struct Plan {
  std::vector<Place> places;  // by buffer id; the image has none
  std::vector<int> writers;   // by buffer id: the op that writes it, -1 for none
  uint64_t arena_bytes = 0;
  uint64_t whole_bytes = 0;  // of the maps whose means the arena holds
};

/// `program` is valid.
Plan MakePlan(const Program& program);

}  // namespace bcdnet
