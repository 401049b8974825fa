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

/// Calls f(shortcut, map) where an epilogue's map has an element of its shortcut for each of its own.
template <class F>
void ForAddition(const Op& op, const Program& program, const F& f) {
  std::visit(
      [&](const auto& body) {
        if constexpr (requires { body.epilogue; }) {
          const Epilogue& e = body.epilogue;
          if (!e.map || !e.shortcut || e.shortcut->duplicate || e.shortcut->avg_pool) return;
          const Buffer &from = program.buffers[e.shortcut->buffer], &to = program.buffers[*e.map];
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
  for (size_t id = 0; id < program.buffers.size(); ++id) {
    const Buffer& b = program.buffers[id];
    plan.places.push_back({b, 0, b.kind == Kind::kBits ? BitWords(b.channels) : PadChannels(b.channels)});
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
    ForAddition(program.ops[i], program, [&](int shortcut, int map) {
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
