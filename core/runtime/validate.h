// Every index and size of a program, checked before anything is allocated for it.
#pragma once

#include "bcdnet/program.h"

namespace bcdnet {

/// Throws std::invalid_argument naming the op and what is wrong with it.
void Validate(const Program& program);

}  // namespace bcdnet
