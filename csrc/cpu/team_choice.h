// How many threads the next slice of a run is given to.
#pragma once

#include <array>
#include <vector>

namespace wavernn_fast::cpu {

// A smaller team is faster for a small or pruned model, whose meetings take longer than what they
// share, where two processors are one core, and for any model while a stolen core makes every
// meeting wait for the scheduler. None of this can be known beforehand, so now and then the next
// smaller and the next larger team get a try. Noise only ever adds time: a team counts by the best
// of its last slices, and a try of one slice that was a near thing gets a second. The longer a team
// has won, and the more it wins by, the rarer the tries: they cost at most some half percent each.
class TeamChoice {
 public:
  explicit TeamChoice(int threads);

  int team() const { return usual_team_ + (trying_ ? kSteps[side_] : 0); }  // in team_sizes()
  int members() const { return sizes_[team()]; }                            // of the next slice

  // What a slice of members() has taken. `held_up`: its meetings waited for a processor, or it came
  // late; then what this team did before says nothing of what it does now.
  void record(int lanes, double seconds_per_step, bool held_up);

 private:
  static constexpr int kSlices = 4;     // that count
  static constexpr int kFirstStay = 8;  // slices between two tries, doubled by each that loses
  static constexpr int kLongestStay = 200;
  static constexpr int kHeldUpStay = 50;        // the same while meetings are slow
  static constexpr double kLost = 1.25;         // times as slow: no second slice
  static constexpr double kSlicesOfLoss = 200;  // between tries that take twice as long
  static constexpr int kSteps[] = {-1, 1};      // to the teams on both sides

  // The best of the last slices of so many lanes.
  struct Best {
    std::array<double, kSlices> seconds{};
    int count = 0, lanes = 0;
    void add(int lanes, double seconds);
    double best() const;
  };
  // Tries of the next smaller or larger team.
  struct Side {
    int since = 0;             // slices since the last one
    int stay = kFirstStay;     // slices from one to the next
    int longest = kFirstStay;  // that `stay` may be
  };

  bool exists(int side) const;
  void judge(double seconds);

  const std::vector<int> sizes_;
  int usual_team_;
  bool trying_ = false;
  int side_ = 0;  // of the try
  Best usual_, tried_;
  Side sides_[2];
};

}  // namespace wavernn_fast::cpu
