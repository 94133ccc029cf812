// The privacy statement of a plan: what a user shows to the person whose records are trained on.
#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

#include "accounting/accountant.h"
#include "src/plan/claims.h"
#include "src/plan/plan.h"
#include "src/plan/value.h"

namespace dpfa::plan {
namespace {

// Four digits, never below an upper bound and never above a lower one.
std::string rounded(double value, bool up) {
  if (!std::isfinite(value) || value <= 0) return format_real(value);
  const double unit = std::pow(10.0, std::floor(std::log10(value)) - 3);
  const double digits = up ? std::ceil(value / unit) : std::floor(value / unit);
  std::ostringstream out;
  out << std::setprecision(4) << digits * unit;
  return out.str();
}

class Lines {
 public:
  void add(const std::string& label, const std::string& text) {
    out_ << "  " << std::left << std::setw(18) << label << text << "\n";
  }
  void paragraph(const std::string& text) { out_ << text << "\n"; }
  std::string text() const { return out_.str(); }

 private:
  std::ostringstream out_;
};

std::string ranks_text(int64_t ranks) { return std::to_string(ranks) + (ranks == 1 ? " rank" : " ranks"); }

// Returns the epsilon.
double add_epsilon(const PrivacyPlan& plan, const std::string& label, const accounting::Event& event,
                   int64_t charges, Lines& lines) {
  const auto report = plan.epsilon_of(event, charges);
  const std::string least = report.lower_bound > 0
                                ? "; no accountant can report less than " + rounded(report.lower_bound, false)
                                : "";
  lines.add(label, rounded(report.epsilon, true) + " at delta = " + format_real(plan.target_delta()) +
                       " after " + std::to_string(charges) + " charged steps (accountant " +
                       report.accountant + least + ")");
  return report.epsilon;
}

// constant_step_slots: what the claims rest on beside the plan, and what of delta pays for draws that are
// left out (accounting::delta_left).
void add_constant_work(const PrivacyPlan& plan, double epsilon, int64_t charges, Lines& lines) {
  const nlohmann::json size = plan.to_json().at("dataset_size");
  if (size.is_null()) return;  // such a run does not start
  const double paid = -accounting::delta_left(0, epsilon, static_cast<double>(charges) * plan.draw_overrun());
  lines.add("  provided that",
            "dataset_size = " + size.dump() + " is not exceeded by the number of records: of more than " +
                std::to_string(size.get<int64_t>() + 1) +
                " the rest is not used, and the epsilon and delta of one record would be those of two");
  lines.add("  of that delta",
            (std::isfinite(epsilon) ? "at most " + rounded(paid, true) + " pays"
                                    : std::string("more than there is would pay")) +
                " for draws beyond the room of a step; what caches and the arithmetic of single numbers tell "
                "in time is not covered");
}

void add_sampling(const PrivacyPlan& plan, Lines& lines) {
  lines.add("sampler", "Poisson: each record enters a step independently with probability sample_rate");
  lines.add("sample_rate", format_real(plan.sample_rate()));
  const nlohmann::json size = plan.to_json().at("dataset_size");
  lines.add("expected batch", format_real(plan.expected_batch_size()) + " records, the public divisor" +
                                  (size.is_null() ? "" : "; dataset_size declared public: " + size.dump()));
}

std::string steps_text(const PrivacyPlan& plan) {
  return std::to_string(plan.steps()) + " (+ " + std::to_string(plan.max_charges() - plan.steps()) +
         " in reserve for steps that restarts repeat)";
}

const char kProtection[] =
    "Protected: whether any one record was in the training data, and what it says, from anyone who sees the\n"
    "model, the checkpoints, the ledger and the metrics, whatever else they know, up to the epsilon and "
    "delta above.\n";

const char kAlwaysOpen[] =
    "  - a person with several records counts as several units: for k records epsilon grows about "
    "k-fold, delta faster;\n"
    "  - other runs on the same data, tuning runs included, compose with this one and are not included;\n"
    "  - what is true of the population and would be learnt without the record too.";

std::string protection(const PrivacyPlan& plan, const RunFacts& facts) {
  const Claims claims = claims_of(plan, facts);
  if (!claims.outsiders.event) return "No epsilon holds for this run: " + claims.outsiders.refusal + ".";
  std::string text = kProtection;
  if (claims.network.event)
    text +=
        "The same epsilon holds, on the same proviso, for anyone who also reads what the ranks send each "
        "other, and when.\n";
  if (claims.insiders.event)
    text +=
        "The epsilon to " + ranks_text(plan.noise_shares()->colluding_ranks) +
        " holds on the same proviso whichever they are and whatever they pool: records, keys, noise, every "
        "sum.\n"
        "It covers records that they cannot simply read: data.train without {rank} is one folder for all.\n";
  text += "Not protected:\n";
  if (!plan.noise_shares())
    text +=
        "  - from the operators of the ranks and of the network: the ranks see records and sums without "
        "noise\n"
        "    (noise = after_sum: rank 0 draws the noise root; ranks and network are trusted);\n";
  if (plan.noise_shares() && !claims.network.event)
    text += "  - from the network: " + claims.network.refusal + ";\n";
  if (plan.noise_shares() && !claims.insiders.event)
    text += "  - from the ranks: " + claims.insiders.refusal + ";\n";
  if (plan.noise_shares())
    text +=
        "  - from a rank that lies: it counts as one of the colluding ranks, and its own part may be "
        "wrong;\n";
  if (plan.draw_overrun() == 0)
    text +=
        "  - from anyone who watches the machine's timing: the time of a step depends on the records "
        "drawn;\n";
  return text + kAlwaysOpen;
}

// Epsilon to everybody, and where ranks may collude the larger one to them.
void add_epsilons(const PrivacyPlan& plan, const RunFacts& facts, Lines& lines) {
  const Claims claims = claims_of(plan, facts);
  if (!claims.outsiders.event) {
    lines.add("epsilon", "none: " + claims.outsiders.refusal);
    return;
  }
  double largest = 0;
  const auto add = [&](const std::string& label, int64_t charges) {
    largest = std::max(largest, add_epsilon(plan, label, *claims.outsiders.event, charges, lines));
    if (claims.insiders.event)
      largest =
          std::max(largest, add_epsilon(plan, "  to " + ranks_text(plan.noise_shares()->colluding_ranks),
                                        *claims.insiders.event, charges, lines));
  };
  add("epsilon", plan.steps());
  if (plan.max_charges() > plan.steps()) add("with reserve", plan.max_charges());
  if (plan.draw_overrun() > 0) add_constant_work(plan, largest, plan.max_charges(), lines);
  if (plan.noise_shares() && !claims.insiders.event)
    lines.add("  to ranks", "no claim: " + claims.insiders.refusal);
}

std::string placement(const PrivacyPlan& plan) {
  const auto shares = plan.noise_shares();
  if (!shares) return "after_sum: rank 0 draws the noise root; ranks and network are trusted";
  const std::string against =
      shares->colluding_ranks == 0
          ? "together"
          : "so that those which " + ranks_text(shares->colluding_ranks) + " cannot subtract are together";
  return "shares: each of " + ranks_text(shares->ranks) +
         " adds discrete Gaussian noise of standard deviation " +
         format_real(shares->share.share_sigma * plan.lane_grid()) + ", " + against +
         " noise_multiplier x sensitivity";
}

std::string lanes(const PrivacyPlan& plan) {
  const NoiseShares shares = *plan.noise_shares();
  return std::to_string(shares.lane_bits) + " bits on the grid " + format_real(plan.lane_grid()) +
         "; a coordinate of a rank's sum is cut at " +
         format_real(static_cast<double>(shares.share.clamp) * plan.lane_grid()) +
         (shares.share.dither_shift > 0 ? "; sums are dithered to it" : "; contributions are whole on it");
}

}  // namespace

std::string PrivacyPlan::statement() const { return statement(RunFacts{}); }

std::string PrivacyPlan::statement(const RunFacts& facts) const {
  Lines lines;
  if (!is_private()) {
    lines.paragraph("NOT PRIVATE: privacy.enabled = false");
    add_sampling(*this, lines);
    lines.add("steps", std::to_string(steps()));
    lines.add("noise", "none");
    lines.paragraph(
        "No noise is added. The model, its checkpoints and its metrics may reveal any training record.");
    return lines.text();
  }
  const std::string grid = "2^" + std::to_string(std::ilogb(lane_grid()));
  const std::string target = std::isfinite(target_epsilon())
                                 ? " (calibrated for epsilon <= " + format_real(target_epsilon()) +
                                       " after " + std::to_string(max_charges()) + " charged steps)"
                                 : " (given)";
  lines.paragraph("Privacy statement");
  lines.add("privacy unit", "one record, truncated to the model's context");
  const auto shares = noise_shares();
  const bool dithered_apart = shares && shares->ranks > 1 && shares->share.dither_shift > 0;
  lines.add("relation", std::string("add_or_remove_one: neighbouring datasets differ by one record") +
                            (dithered_apart ? ", the others on the same ranks" : ""));
  add_sampling(*this, lines);
  lines.add("noise_multiplier", format_real(noise_multiplier()) + target);
  lines.add("max_grad_norm", format_real(max_grad_norm()) + " (L2, one norm over all trainable parameters)");
  if (clipping() == "automatic")
    lines.add("clipping",
              "automatic: a record's gradient of norm N is multiplied by max_grad_norm / (N + 0.01)");
  lines.add("sensitivity",
            format_real(sensitivity()) + " = max_grad_norm x (1 + " + format_real(slack()) + ")");
  lines.add("noise stddev", format_real(noise_stddev()) + " on the sum, on the grid " + grid);
  lines.add("steps", steps_text(*this));
  add_epsilons(*this, facts, lines);
  lines.add("numerics", numerics() == "exact"
                            ? "exact: integer sums of materialised, rounded gradients"
                            : "fp32: norms by another formula, its error is in the sensitivity");
  lines.add("generator", generator() == "chacha20" ? "chacha20, keyed by the operating system at each start"
                                                   : "philox: makes no cryptographic claim");
  lines.add("noise placement", placement(*this));
  if (noise_shares()) lines.add("lanes", lanes(*this));
  for (const std::string& warning : warnings()) lines.add("warning", warning);
  lines.paragraph(protection(*this, facts));
  return lines.text();
}

}  // namespace dpfa::plan
