#include "team.h"

#include <omp.h>
#include <pthread.h>

namespace {

// GNU's OpenMP keeps its threads in a pool that a fork does not copy, and a team in the child
// would wait for them for ever. Nothing tells whether the pool has been used (torch shares it),
// so that a child computes in the thread that called.
std::atomic<bool> in_child{false};

const bool watching = pthread_atfork(nullptr, nullptr, [] { in_child.store(true); }) == 0;

}  // namespace

void run_team(i64 threads, TeamWork work, void* context) {
  if (threads <= 1 || !watching || in_child.load(std::memory_order_relaxed)) {
    work(context, 0, 1);
    return;
  }
#pragma omp parallel num_threads(static_cast<int>(threads))
  work(context, omp_get_thread_num(), omp_get_num_threads());
}

void team_barrier(i64 parts) {
  if (parts > 1) {
#pragma omp barrier
  }
}
