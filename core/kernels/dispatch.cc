// Collects the tables of all targets.
#include <stdexcept>

#include "reference/reference.h"

namespace bcdnet {

const std::vector<KernelTable>& KernelTables() {
  static const std::vector<KernelTable> tables = [] {
    std::vector<KernelTable> found;
    found.push_back(reference::Table());
    return found;
  }();
  return tables;
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
