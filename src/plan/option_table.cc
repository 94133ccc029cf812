#include "src/plan/option_table.h"

#include <algorithm>
#include <cmath>

#include "src/plan/value.h"

namespace dpfa::plan {
namespace {

// Counts stay exactly representable in a double.
constexpr double kLargestCount = 9007199254740992.0;

Rule any_text(const std::string& expected) { return {.expected = expected}; }

Rule boolean() { return {.expected = "true or false"}; }

Rule one_of(const std::vector<std::string>& choices, const std::vector<std::string>& not_in_this_build = {}) {
  std::string expected;
  for (const std::string& choice : choices) expected += (expected.empty() ? "" : " or ") + choice;
  std::vector<std::string> all = choices;
  all.insert(all.end(), not_in_this_build.begin(), not_in_this_build.end());
  return {.expected = expected, .choices = all, .not_in_this_build = not_in_this_build};
}

Rule count_from(int64_t low) {
  return {.expected = "a whole number >= " + std::to_string(low), .accepts = [low](double value) {
            return value >= static_cast<double>(low) && value <= kLargestCount;
          }};
}

Rule count_up_to(int64_t high) {
  return {.expected = "a whole number from 0 to " + std::to_string(high),
          .accepts = [high](double value) { return value >= 0 && value <= static_cast<double>(high); }};
}

Rule one_of_counts(const std::vector<double>& counts) {
  std::string expected;
  for (double count : counts) expected += (expected.empty() ? "" : " or ") + format_real(count);
  return {.expected = expected, .accepts = [counts](double value) {
            return std::find(counts.begin(), counts.end(), value) != counts.end();
          }};
}

Rule at_least(double low) {
  return {.expected = "a number >= " + format_real(low),
          .accepts = [low](double value) { return value >= low; }};
}

Rule above_zero() {
  return {.expected = "a number > 0", .accepts = [](double value) { return value > 0; }};
}

Rule above_zero_to(double high) {
  return {.expected = "a number in (0, " + format_real(high) + "]",
          .accepts = [high](double value) { return value > 0 && value <= high; }};
}

Rule between(double low, double high) {
  return {.expected = "a number in [" + format_real(low) + ", " + format_real(high) + "]",
          .accepts = [low, high](double value) { return value >= low && value <= high; }};
}

Rule zero_to_below_one() {
  return {.expected = "a number in [0, 1)", .accepts = [](double value) { return value >= 0 && value < 1; }};
}

}  // namespace

// The key is the member's name, so table and struct cannot disagree.
#define DPFA_KEY(section, key) \
#section, #key, [](Config & config) -> ConfigOption::Field { return &config.section.key; }

const std::vector<ConfigOption>& option_table() {
  static const std::vector<ConfigOption> table = {
      {DPFA_KEY(model, architecture), one_of({"gpt2"}), "the model family"},
      {DPFA_KEY(model, from), any_text("a folder"),
       "Hugging Face folder to fine-tune; layers, width, heads and vocabulary come from it"},
      {DPFA_KEY(model, layers), count_from(1), "transformer blocks"},
      {DPFA_KEY(model, width), count_from(1), "channels of the residual stream"},
      {DPFA_KEY(model, heads), count_from(1), "attention heads; divides width"},
      {DPFA_KEY(model, context), count_from(0),
       "tokens of one example; longer records are truncated; with `from`, 0 takes all of the model's "
       "positions"},
      {DPFA_KEY(model, vocab_size), count_from(0), "tokens of the vocabulary; 0: the tokenizer's"},
      {DPFA_KEY(model, tied_head), boolean(), "the output projection is the token embedding"},
      {DPFA_KEY(model, dropout), zero_to_below_one(), "dropout at the embedding and the residual sites"},

      {DPFA_KEY(data, train), any_text("a folder"),
       "training records, as `dpfa data prepare` writes them; with {rank} in it every rank holds records of "
       "its own"},
      {DPFA_KEY(data, eval), any_text("a folder"), "held-out records"},
      {DPFA_KEY(data, eval_is_public), boolean(),
       "the held-out records are public, so their loss may be shown; otherwise they count as private"},

      {DPFA_KEY(privacy, enabled), boolean(), "false: a baseline without noise, stamped NOT PRIVATE"},
      {DPFA_KEY(privacy, noise_multiplier), above_zero_to(1e6),
       "noise standard deviation / sensitivity; give this or target_epsilon"},
      {DPFA_KEY(privacy, target_epsilon), above_zero(),
       "the noise is calibrated so that epsilon at target_delta stays at or below this"},
      {DPFA_KEY(privacy, target_delta), zero_to_below_one(),
       "delta of the guarantee; required (0: not given); at most 1 / dataset_size is usual"},
      {DPFA_KEY(privacy, max_grad_norm), between(1e-12, 1e12), "L2 bound C of one record's gradient"},
      {DPFA_KEY(privacy, sample_rate), above_zero_to(1),
       "probability with which each record enters a step; or give expected_batch_size and dataset_size"},
      {DPFA_KEY(privacy, expected_batch_size), above_zero(), "the public divisor of the noisy sum"},
      {DPFA_KEY(privacy, dataset_size), count_from(1),
       "declared public; never compared with the number of records"},
      {DPFA_KEY(privacy, steps), count_from(0), "training steps; required (0: not given)"},
      {DPFA_KEY(privacy, reserve_steps), count_from(0), "further charges for steps that restarts repeat"},
      {DPFA_KEY(privacy, clipping), one_of({"flat", "automatic"}, {"per_layer"}),
       "what a record's gradient is multiplied by, with its norm N over all parameters; flat: "
       "min(1, max_grad_norm / N); automatic: max_grad_norm / (N + 0.01)"},
      {DPFA_KEY(privacy, privacy_unit), one_of({"record"}, {"user"}), "what one unit of the guarantee is"},
      {DPFA_KEY(privacy, neighboring_relation),
       one_of({"add_or_remove_one"}, {"replace_one", "replace_special", "zero_out"}),
       "which datasets count as neighbours"},
      {DPFA_KEY(privacy, generator), one_of({"chacha20", "philox"}),
       "noise generator; philox makes no cryptographic claim"},
      {DPFA_KEY(privacy, numerics), one_of({"exact", "fp32", "auto"}),
       "exact: what is measured is what is added, bit for bit; fp32: norms by another formula, larger "
       "sensitivity; "
       "auto: the faster of both, measured at start; exact where layers are recomputed"},
      {DPFA_KEY(privacy, loss), one_of({"token_mean", "token_sum"}),
       "loss of one record over its own target tokens"},

      {DPFA_KEY(optimizer, name), one_of({"adamw", "sgd"}), "the update rule"},
      {DPFA_KEY(optimizer, learning_rate), above_zero(), "largest learning rate of the schedule"},
      {DPFA_KEY(optimizer, beta1), zero_to_below_one(), "adamw: decay of the first moment"},
      {DPFA_KEY(optimizer, beta2), zero_to_below_one(), "adamw: decay of the second moment"},
      {DPFA_KEY(optimizer, epsilon), above_zero(), "adamw: added to the root of the second moment"},
      {DPFA_KEY(optimizer, weight_decay), at_least(0), "adamw: decoupled weight decay"},
      {DPFA_KEY(optimizer, momentum), zero_to_below_one(), "sgd: momentum"},
      {DPFA_KEY(optimizer, schedule), one_of({"cosine", "constant"}), "learning rate after the warm-up"},
      {DPFA_KEY(optimizer, warmup_steps), count_from(0), "steps of linear warm-up"},
      {DPFA_KEY(optimizer, final_learning_rate_ratio), between(0, 1),
       "last learning rate / learning_rate (cosine)"},

      {DPFA_KEY(train, eval_every), count_from(0), "steps between evaluations; 0: only at the end"},
      {DPFA_KEY(train, checkpoint_every), count_from(0), "steps between checkpoints; 0: only at the end"},
      {DPFA_KEY(train, keep_checkpoints), count_from(1), "checkpoints that are kept"},

      {DPFA_KEY(aggregation, mode), one_of({"plaintext", "masked"}),
       "how the ranks sum; masked: no rank and no network sees another's part"},
      {DPFA_KEY(aggregation, noise), one_of({"after_sum", "shares"}),
       "after_sum: rank 0 draws the noise root, ranks and network are trusted; shares: every rank adds a "
       "share of its own"},
      {DPFA_KEY(aggregation, colluding_ranks), count_from(0),
       "ranks that may pool what they know; needs noise = shares, mode = masked and constant_step_slots"},
      {DPFA_KEY(aggregation, collective), one_of({"allreduce", "reduce_scatter"}),
       "how integers are added over the ranks; reduce_scatter: every rank adds a slice, then all gather the "
       "slices; the same bits"},
      {DPFA_KEY(aggregation, allow_list), any_text("a file"),
       "mode = masked: the public key of each rank, lines of `dpfa keys new`"},
      {DPFA_KEY(aggregation, identity), any_text("a file"),
       "mode = masked: the secret key of this rank, from `dpfa keys new`; another file on every rank"},
      {DPFA_KEY(aggregation, ranks), count_from(0),
       "noise = shares: ranks that add a share; 0: those that are started"},
      {DPFA_KEY(aggregation, lane_bits), one_of_counts({16, 21, 32}),
       "noise = shares: bits of an integer that ranks sum"},
      {DPFA_KEY(aggregation, grid_bits), count_up_to(22),
       "noise = shares: the grid is 2^-grid_bits of max_grad_norm, down to a power of two; 0: the finest "
       "that "
       "the lanes hold"},
      {DPFA_KEY(aggregation, clamp_norms), above_zero_to(1e6),
       "noise = shares: a coordinate of a rank's sum may reach at least this times max_grad_norm; beyond it "
       "is cut"},
      {DPFA_KEY(aggregation, overflow_probability), above_zero_to(1e-6),
       "noise = shares: most that some sum of lanes leaves its range with in one step"},

      {DPFA_KEY(runtime, microbatch_size), count_up_to(255),
       "records per forward pass; 0: chosen by measurement, or one with constant_step_slots, which takes no "
       "more"},
      {DPFA_KEY(runtime, compute), one_of({"fp32", "bf16"}), "type of the matrix products"},
      {DPFA_KEY(runtime, device), one_of({"cpu"}, {"cuda"}), "where the model runs"},
      {DPFA_KEY(runtime, attention), one_of({"flash", "exact"}),
       "exact forms all scores: slower, for comparing"},
      {DPFA_KEY(runtime, recompute), one_of({"none", "layer"}),
       "layer: activations of one layer at a time, for less memory and more time; not with numerics = fp32"},
      {DPFA_KEY(runtime, norm_method), one_of({"auto", "gram", "direct", "materialise"}),
       "how numerics = fp32 measures gradient norms, refused with exact; auto: the fastest for each matrix, "
       "measured once, of direct and materialise alone with constant_step_slots, which refuses gram"},
      {DPFA_KEY(runtime, norm_memory_mib), count_from(0),
       "memory for gradients that norm_method = auto keeps; 0: as much as those of one record"},
      {DPFA_KEY(runtime, threads), count_from(0), "threads per rank; 0: cores of the host / ranks on it"},
      {DPFA_KEY(runtime, expected_world_size), count_from(1),
       "stop where another number of ranks was started"},
      {DPFA_KEY(runtime, watchdog_seconds), count_from(0),
       "shortest time without progress after which a rank ends itself; 0: off"},
      {DPFA_KEY(runtime, constant_step_slots), boolean(),
       "every step makes the same number of passes over whole contexts, one record each, whatever was drawn; "
       "several times slower; needs privacy.dataset_size, and of more than dataset_size + 1 records the rest "
       "is not used"},

      {DPFA_KEY(output, dir), any_text("a folder"),
       "run directory; an existing one is refused without --resume"},
  };
  return table;
}

#undef DPFA_KEY

}  // namespace dpfa::plan
