#include "runtime/plan.h"

#include <algorithm>
#include <numeric>

namespace bcdnet {
namespace {

/// Calls f(id) for every buffer that an op reads or writes.
template <class F>
void ForBuffers(const Epilogue& e, const F& f) {
  if (e.gain) f(*e.gain);
  if (e.beta) f(*e.beta);
  if (e.shortcut) f(e.shortcut->buffer);
  if (e.map) f(*e.map);
  for (const BitsOutput& bits : e.bits) {
    f(bits.buffer);
    if (bits.alpha) f(*bits.alpha);
  }
}

template <class F>
void ForBuffers(const Op& op, const F& f) {
  std::visit(
      [&](const auto& body) {
        if constexpr (requires { body.inputs; }) {
          for (int id : body.inputs) f(id);
        } else {
          f(body.input);
        }
        if constexpr (requires { body.output; }) f(body.output);
        if constexpr (requires { body.epilogue; }) ForBuffers(body.epilogue, f);
      },
      op.body);
}

/// For each buffer whether it is a map of which only means of windows of 2 x 2 are read, by shortcuts: a quarter of it
/// is then all that need be written, and read.
std::vector<bool> ReadAsMeans(const Program& program) {
  std::vector<int> uses(program.buffers.size(), 0), means(program.buffers.size(), 0);
  std::vector<bool> found(program.buffers.size(), false);
  for (const Op& op : program.ops) {
    ForBuffers(op, [&](int id) { ++uses[id]; });
    std::visit(
        [&](const auto& body) {
          if constexpr (requires { body.epilogue; }) {
            const std::optional<Shortcut>& shortcut = body.epilogue.shortcut;
            if (shortcut && shortcut->avg_pool) ++means[shortcut->buffer];
          }
        },
        op.body);
  }
  for (int id : program.outputs) ++uses[id];
  for (const Op& op : program.ops) {
    const auto* conv = std::get_if<BinaryConv2dOp>(&op.body);  // which write the large ones
    if (conv == nullptr || !conv->epilogue.map) continue;
    const int id = *conv->epilogue.map;
    const Buffer& map = program.buffers[id];
    found[id] = means[id] > 0 && uses[id] == 1 + means[id] && map.height % 2 == 0 && map.width % 2 == 0;
  }
  return found;
}

/// Calls f(shortcut, map) where an epilogue's map has, as they are stored, an element of its shortcut for each of its
/// own.
template <class F>
void ForAddition(const Op& op, const Plan& plan, const F& f) {
  std::visit(
      [&](const auto& body) {
        if constexpr (requires { body.epilogue; }) {
          const Epilogue& e = body.epilogue;
          if (!e.map || !e.shortcut || e.shortcut->duplicate) return;
          const Place &shortcut = plan.places[e.shortcut->buffer], &map = plan.places[*e.map];
          if (map.means || e.shortcut->avg_pool != shortcut.means) return;
          const Buffer &from = shortcut.buffer, &to = map.buffer;
          if (from.height == to.height && from.width == to.width && from.channels == to.channels) {
            f(e.shortcut->buffer, *e.map);
          }
        }
      },
      op.body);
}

struct Life {
  int id;
  int first, last;  // ops between which the buffer is needed, both included
};

}  // namespace

Plan MakePlan(const Program& program) {
  Plan plan;
  std::vector<Life> lives(program.buffers.size());
  const std::vector<bool> means = ReadAsMeans(program);
  for (size_t id = 0; id < program.buffers.size(); ++id) {
    const Buffer& b = program.buffers[id];
    Place& place =
        plan.places.emplace_back(Place{b, 0, b.kind == Kind::kBits ? BitWords(b.channels) : PadChannels(b.channels)});
    if (means[id]) {
      place.means = true;
      place.whole = plan.whole_bytes;
      plan.whole_bytes += RoundUp(place.bytes());
      place.buffer.height /= 2;
      place.buffer.width /= 2;
    }
    lives[id] = {static_cast<int>(id), -1, -1};
  }
  const int ops = static_cast<int>(program.ops.size());
  for (int i = 0; i < ops; ++i) {
    ForBuffers(program.ops[i], [&](int id) {
      if (lives[id].first < 0) lives[id].first = i;
      lives[id].last = i;
    });
  }
  for (const Life& life : lives) plan.writers.push_back(life.first);  // nothing is read before it is written
  for (int id : program.outputs) lives[id].last = ops;

  // A map that is written over its shortcut is in the caches already.
  std::vector<int> host(lives.size());
  std::iota(host.begin(), host.end(), 0);
  for (int i = 0; i < ops; ++i) {
    ForAddition(program.ops[i], plan, [&](int shortcut, int map) {
      int uses = 0;
      ForBuffers(program.ops[i], [&](int id) { uses += id == shortcut; });
      if (lives[shortcut].last != i || uses > 1) return;
      host[map] = host[shortcut];
      lives[host[map]].last = lives[map].last;
    });
  }

  // Largest first, each at the lowest offset that is free for its whole life.
  std::erase_if(lives, [&](const Life& l) {
    return l.first < 0 || host[l.id] != l.id || program.buffers[l.id].kind == Kind::kImage;
  });
  std::stable_sort(lives.begin(), lives.end(),
                   [&](const Life& a, const Life& b) { return plan.places[a.id].bytes() > plan.places[b.id].bytes(); });
  std::vector<Life> placed;  // by offset
  for (const Life& life : lives) {
    const uint64_t bytes = RoundUp(plan.places[life.id].bytes());
    uint64_t offset = 0;
    for (const Life& other : placed) {
      if (other.last < life.first || other.first > life.last) continue;
      const Place& place = plan.places[other.id];
      if (offset + bytes <= place.offset) break;
      offset = std::max(offset, place.offset + RoundUp(place.bytes()));
    }
    plan.places[life.id].offset = offset;
    plan.arena_bytes = std::max(plan.arena_bytes, offset + bytes);
    const auto at = std::upper_bound(placed.begin(), placed.end(), offset, [&](uint64_t value, const Life& other) {
      return value < plan.places[other.id].offset;
    });
    placed.insert(at, life);
  }
  for (size_t id = 0; id < host.size(); ++id) plan.places[id].offset = plan.places[host[id]].offset;
  return plan;
}

}  // namespace bcdnet
