#include "fft_plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

namespace revisage {
namespace {

constexpr std::size_t kKeptPlans = 64;

// Radix 8 moves the data least often; 2 is avoided by taking 4 twice (16 = 4 * 4).
std::vector<int> radices(int length) {
  std::vector<int> found;
  int twos = 0;
  for (; length % 2 == 0; length /= 2) ++twos;
  for (; twos > 4 || twos == 3; twos -= 3) found.push_back(8);
  for (; twos > 1; twos -= 2) found.push_back(4);
  if (twos == 1) found.push_back(2);
  for (int prime = 3; length > 1; prime += 2) {
    if (prime > length / prime) prime = length;  // what is left is prime
    for (; length % prime == 0; length /= prime) found.push_back(prime);
  }
  if (found.empty()) found.push_back(1);  // a length of 1 is copied
  return found;
}

std::shared_ptr<const OwnedFftPlan> make_plan(int length) {
  const std::vector<int> found = radices(length);
  auto owned = std::make_shared<OwnedFftPlan>();
  FftPlan& plan = owned->plan;
  plan.length = length;
  plan.stages = static_cast<int>(found.size());
  plan.largest_radix = 1;
  const double turn = 2 * std::acos(-1.0);
  std::vector<std::size_t> twiddle_starts, root_starts;
  std::vector<float>& tables = owned->tables;
  int left = length;
  for (int stage = 0; stage < plan.stages; ++stage) {
    const int radix = found[static_cast<std::size_t>(stage)];
    plan.radix[stage] = radix;
    plan.largest_radix = std::max(plan.largest_radix, radix);
    twiddle_starts.push_back(tables.size());
    for (int p = 0; p < left / radix; ++p) {
      for (int j = 1; j < radix; ++j) {
        const double angle = turn * static_cast<double>(p) * j / left;
        tables.push_back(static_cast<float>(std::cos(angle)));
        tables.push_back(static_cast<float>(-std::sin(angle)));
      }
    }
    root_starts.push_back(tables.size());
    for (int j = 0; j < radix; ++j) {
      tables.push_back(static_cast<float>(std::cos(turn * j / radix)));
      tables.push_back(static_cast<float>(std::sin(turn * j / radix)));
    }
    left /= radix;
  }
  for (int stage = 0; stage < plan.stages; ++stage) {
    const auto at = static_cast<std::size_t>(stage);
    plan.twiddles[stage] = tables.data() + twiddle_starts[at];
    plan.roots[stage] = tables.data() + root_starts[at];
  }
  return owned;
}

}  // namespace

std::shared_ptr<const OwnedFftPlan> fft_plan(int length) {
  static std::mutex mutex;
  static std::map<int, std::shared_ptr<const OwnedFftPlan>> plans;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = plans.find(length);
  if (found != plans.end()) return found->second;
  if (plans.size() >= kKeptPlans) plans.erase(plans.begin());
  return plans[length] = make_plan(length);
}

}  // namespace revisage
