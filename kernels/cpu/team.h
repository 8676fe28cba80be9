// Teams of threads that share a job.
#pragma once

#include <atomic>

#include "abi.h"

using TeamWork = void (*)(void* context, i64 part, i64 parts);

// Runs work(context, part, parts) for every part, each in a thread of its own; one part in the
// calling thread. Parts may be fewer than asked for.
void run_team(i64 threads, TeamWork work, void* context);

// Waits for the other parts of a team.
void team_barrier(i64 parts);

template <class Function>
void run_team(i64 threads, Function&& function) {
  using Plain = std::remove_reference_t<Function>;
  run_team(
      threads,
      [](void* context, i64 part, i64 parts) { (*static_cast<Plain*>(context))(part, parts); },
      &function);
}

class Flag {
 public:
  void raise() { raised_.store(true, std::memory_order_relaxed); }
  bool raised() const { return raised_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> raised_{false};
};
