// Collects the tables of all targets.
#include "kernels/targets.h"

#include "hwy/targets.h"
#include "kernels/tables.h"

#include <stdexcept>

namespace bcdnet {

const std::vector<KernelTable>& KernelTables() {
  // Never destroyed: another thread may be in a run as the process ends.
  static const auto* tables = new std::vector<KernelTable>([] {
    std::vector<KernelTable> found;
#ifdef HWY_COMPILE_ONLY_STATIC  // one instruction set: nothing to ask the machine
    const int64_t supported = HWY_STATIC_TARGET;
#else
    const int64_t supported = hwy::SupportedTargets();
#endif
#define BCDNET_COLLECT(NAMESPACE, BIT, NAME)   \
  if ((supported & (BIT)) != 0) {              \
    KernelTable& table = found.emplace_back(); \
    table = reference::Table();                \
    table.target = NAME;                       \
    NAMESPACE::AddBinary(table);               \
    NAMESPACE::AddEpilogue(table);             \
    NAMESPACE::AddReal(table);                 \
    NAMESPACE::AddPeak(table);                 \
  }
    BCDNET_TARGETS(BCDNET_COLLECT)
#undef BCDNET_COLLECT
    found.push_back(reference::Table());
    return found;
  }());
  return *tables;
}

const KernelTable& FindKernelTable(const std::string& target) {
  std::string names;
  for (const KernelTable& table : KernelTables()) {
    if (table.target == target) return table;
    names += (names.empty() ? "" : ", ") + table.target;
  }
  throw std::invalid_argument("unknown target '" + target + "'; this machine runs " + names);
}

}  // namespace bcdnet
