// The privacy statement of a plan: what a user shows to the person whose records are trained on.
#include <cmath>
#include <iomanip>
#include <sstream>

#include "accounting/accountant.h"
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

void add_epsilon(const PrivacyPlan& plan, const std::string& label, int64_t charges, Lines& lines) {
  const auto report = accounting::epsilon_of(plan.event(), charges, plan.target_delta());
  lines.add(label, rounded(report.epsilon, true) + " at delta = " + format_real(plan.target_delta()) +
                       " after " + std::to_string(charges) + " charged steps (accountant " +
                       report.accountant + "; no accountant can report less than " +
                       rounded(report.lower_bound, false) + ")");
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
    "delta above.\n"
    "Not protected:\n"
    "  - from the operators of the ranks and of the network: the ranks see records and sums without noise\n"
    "    (noise = after_sum: rank 0 draws the noise root; ranks and network are trusted);\n"
    "  - from anyone who watches the machine's timing: the time of a step depends on the records drawn;\n"
    "  - a person with several records counts as several units: for k records epsilon grows about "
    "k-fold, delta faster;\n"
    "  - other runs on the same data, tuning runs included, compose with this one and are not included;\n"
    "  - what is true of the population and would be learnt without the record too.";

}  // namespace

std::string PrivacyPlan::statement() const {
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
  const std::string grid = "2^" + std::to_string(grid_exponent());
  const std::string target = std::isfinite(target_epsilon())
                                 ? " (calibrated for epsilon <= " + format_real(target_epsilon()) +
                                       " after " + std::to_string(max_charges()) + " charged steps)"
                                 : " (given)";
  lines.paragraph("Privacy statement");
  lines.add("privacy unit", "one record, truncated to the model's context");
  lines.add("relation", "add_or_remove_one: neighbouring datasets differ by one record");
  add_sampling(*this, lines);
  lines.add("noise_multiplier", format_real(noise_multiplier()) + target);
  lines.add("max_grad_norm", format_real(max_grad_norm()) + " (L2, flat over all trainable parameters)");
  lines.add("sensitivity",
            format_real(sensitivity()) + " = max_grad_norm x (1 + " + format_real(slack()) + ")");
  lines.add("noise stddev", format_real(noise_stddev()) + " on the sum, on the grid " + grid);
  lines.add("steps", steps_text(*this));
  add_epsilon(*this, "epsilon", steps(), lines);
  if (max_charges() > steps()) add_epsilon(*this, "with reserve", max_charges(), lines);
  lines.add("numerics", numerics() == "exact"
                            ? "exact: integer sums of materialised, rounded gradients"
                            : "fp32: norms by another formula, its error is in the sensitivity");
  lines.add("generator", generator() == "chacha20" ? "chacha20, keyed by the operating system at each start"
                                                   : "philox: makes no cryptographic claim");
  lines.add("noise placement", "after_sum: rank 0 draws the noise root; ranks and network are trusted");
  for (const std::string& warning : warnings()) lines.add("warning", warning);
  lines.paragraph(kProtection);
  return lines.text();
}

}  // namespace dpfa::plan
