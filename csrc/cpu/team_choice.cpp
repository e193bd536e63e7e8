#include "cpu/team_choice.h"

#include <algorithm>

#include "plan/plan.h"

namespace wavernn_fast::cpu {

TeamChoice::TeamChoice(int threads)
    : sizes_(team_sizes(threads)), usual_team_(int(sizes_.size()) - 1) {
  sides_[0].stay = 1;
}

void TeamChoice::Best::add(int now, double value) {
  if (lanes != now) count = 0;
  lanes = now;
  seconds[count % kSlices] = value;
  count = count + 1 < 2 * kSlices ? count + 1 : kSlices;  // an engine may run for years
}

double TeamChoice::Best::best() const {
  return *std::min_element(seconds.begin(), seconds.begin() + std::min(count, kSlices));
}

bool TeamChoice::exists(int side) const {
  const int team = usual_team_ + kSteps[side];
  return team >= 0 && team < int(sizes_.size());
}

void TeamChoice::record(int lanes, double seconds_per_step, bool held_up) {
  if (trying_) {
    tried_.add(lanes, seconds_per_step);
    if (usual_.lanes == lanes) return judge(seconds_per_step);
    trying_ = false;  // other lanes than before: there is nothing to compare with
    sides_[side_].stay = kFirstStay;
    return;
  }
  if (held_up) usual_.count = 0;
  usual_.add(lanes, seconds_per_step);
  for (Side& side : sides_) side.since = std::min(side.since + 1, kLongestStay);
  for (int side = 0; side < 2 && !trying_; ++side) {
    const bool in_the_way = side == 0 && held_up && sides_[side].since >= kHeldUpStay;
    if (!exists(side) || (sides_[side].since < sides_[side].stay && !in_the_way)) continue;
    trying_ = true;
    side_ = side;
    sides_[side].since = 0;
    tried_.count = 0;
  }
}

// The end of a try, or the first slice of two.
void TeamChoice::judge(double seconds) {
  const double usual = usual_.best(), tried = tried_.best();
  if (tried_.count == 1 && seconds >= usual && seconds < kLost * usual) return;
  trying_ = false;
  if (tried < usual) {
    usual_team_ += kSteps[side_];
    usual_ = tried_;
    sides_[0] = sides_[1] = Side{};
    sides_[side_].stay = 1;  // further in this direction may be better still
    return;
  }
  Side& side = sides_[side_];
  const double loss = tried_.count * (tried / usual - 1);
  side.stay = int(std::clamp(kSlicesOfLoss * loss, double(kFirstStay), double(side.longest)));
  side.longest = std::min(2 * side.longest, kLongestStay);
}

}  // namespace wavernn_fast::cpu
