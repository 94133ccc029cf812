#include "src/train/trainer.h"

#include <cmath>
#include <iostream>

#include "src/base/check.h"
#include "src/base/watchdog.h"
#include "src/train/checkpoint.h"
#include "src/train/collective.h"
#include "src/train/evaluation.h"
#include "src/train/run_setup.h"
#include "src/train/steps.h"
#include "src/train/stop_signal.h"
#include "src/train/telemetry.h"

namespace dpfa::train {
namespace {

class Trainer {
 public:
  Trainer(RunSetup& setup, const RunOptions& options, comm::Communicator& communicator)
      : setup_(setup),
        options_(options),
        communicator_(communicator),
        plan_(*setup.plan),
        allowed_charges_(plan_.allowed_charges()),
        watchdog_(communicator.rank(), std::chrono::seconds(setup.config.runtime.watchdog_seconds)),
        telemetry_(communicator.rank() == 0, setup.run_dir, plan_.steps()) {
    const StepContext context{.plan = plan_,
                              .config = setup_.config,
                              .communicator = communicator_,
                              .dataset = *setup_.train,
                              .model = *setup_.model,
                              .weights = setup_.weights.span(),
                              .keys = *setup_.keys,
                              .watchdog = watchdog_,
                              .context = setup_.context,
                              .microbatch_size = setup_.microbatch_size,
                              .restored = setup_.restored ? &setup_.restored->optimizer : nullptr};
    steps_ = plan_.is_private() ? make_private_steps(context, *setup_.ledger) : make_baseline_steps(context);
  }

  Outcome run() {
    int64_t step = first_step();
    for (; step < plan_.steps(); ++step) {
      watchdog_.progress("draw");
      const StepResult result =
          steps_->run(step, learning_rate(setup_.config.optimizer, step, plan_.steps()));
      if (result != StepResult::kDone) return end_early(result, step);
      after_step(step + 1);
    }
    finish(step);
    return Outcome::kFinished;
  }

 private:
  // The step to begin with: 0, or where the newest valid checkpoint of a resumed run stands.
  int64_t first_step() {
    if (!setup_.restored) return 0;
    last_checkpoint_ = setup_.restored->step;
    telemetry_.say("resumed at step " + std::to_string(last_checkpoint_) + " of " +
                   std::to_string(plan_.steps()) +
                   (options_.insecure_seed ? " with the keys of --insecure-seed" : " with new keys"));
    return last_checkpoint_;
  }

  void after_step(int64_t done) {
    const TrainConfig& train = setup_.config.train;
    const bool last = done == plan_.steps();
    nlohmann::json line = {
        {"step", done}, {"learning_rate", learning_rate(setup_.config.optimizer, done - 1, plan_.steps())}};
    const bool evaluates = setup_.eval && (last || (train.eval_every > 0 && done % train.eval_every == 0));
    if (evaluates) {
      held_out_loss_ = evaluate(*setup_.model, *setup_.eval, setup_.context, steps_->records_per_pass(),
                                communicator_, [&] { watchdog_.progress("evaluation"); })
                           .loss_per_token;
      line["eval_loss"] = *held_out_loss_;
    }
    if (plan_.is_private()) line["charges"] = setup_.ledger->charges();
    if (evaluates && plan_.is_private() && setup_.ledger->open().at("stamps").empty())
      line["epsilon"] = epsilon_charged();  // null where nothing of delta is left: infinite
    if (options_.debug_nonprivate && steps_->last_training_loss())
      line["nonprivate"] = {{"rank_0_training_loss", *steps_->last_training_loss()}};
    telemetry_.write(line);
    telemetry_.progress(done, progress_text());
    if (last || (train.checkpoint_every > 0 && done % train.checkpoint_every == 0)) checkpoint(done);
  }

  void checkpoint(int64_t step) {
    watchdog_.progress("digest of a checkpoint");
    const std::string state = state_digest(step, setup_.weights.span(), steps_->optimizer_state());
    const std::string first = broadcast_text(communicator_, state);
    // All ranks know of a checkpoint before it is there, and hold it to that at a resume.
    on_every_rank(communicator_, [&] {
      if (state != first)
        throw StateError(
            "the weights or moments of this rank are not those of rank 0: its memory or its "
            "processor gives other results; no checkpoint was written");
      setup_.ledger->checkpoint(step, state);
    });
    watchdog_.progress("checkpoint");
    on_rank_0(communicator_, [&] {
      write_checkpoint(setup_.run_dir,
                       {.step = step,
                        .shape = setup_.shape,
                        .weights = setup_.weights.span(),
                        .optimizer = &steps_->optimizer_state(),
                        .tokenizer_dir = setup_.train->dir(),
                        .plan_digest = setup_.ledger->open().at("plan_digest"),
                        .run_id = setup_.ledger->open().at("run_id"),
                        .ledger = &*setup_.ledger,
                        .world_size = communicator_.size()},
                       setup_.config.train.keep_checkpoints);
    });
    last_checkpoint_ = step;
  }

  Outcome end_early(StepResult result, int64_t step) {
    if (last_checkpoint_ != step) checkpoint(step);
    if (result == StepResult::kStopped) {
      telemetry_.say("stopped on request after step " + std::to_string(step) + "; continue with --resume " +
                     setup_.run_dir.string());
      return Outcome::kStopped;
    }
    telemetry_.say("the privacy budget is spent after " + std::to_string(setup_.ledger->charges()) +
                   " charges; the weights of step " + std::to_string(step) + " are in " +
                   (setup_.run_dir / "latest").string());
    print_guarantee();
    return Outcome::kBudgetExhausted;
  }

  void finish(int64_t step) {
    if (last_checkpoint_ != step) checkpoint(step);  // a resumed run that was already at its end
    telemetry_.say("finished " + std::to_string(step) + " steps; checkpoint in " +
                   (setup_.run_dir / "latest").string());
    print_guarantee();
  }

  void print_guarantee() {
    if (!plan_.is_private()) {
      telemetry_.say("NOT PRIVATE: this run was trained without privacy");
      return;
    }
    const std::string stamp =
        setup_.ledger->open().at("stamps").empty() ? "" : "NOT PRIVATE (see the ledger's stamps); ";
    std::ostringstream text;
    text << stamp << "ledger head " << setup_.ledger->digest()
         << " (keep it: ledger verify --head checks it)";
    telemetry_.say(text.str());
  }

  double epsilon_charged() const { return plan_.epsilon_of(plan_.event(), setup_.ledger->charges()).epsilon; }

  std::string progress_text() const {
    std::ostringstream text;
    text.precision(4);
    if (plan_.is_private())
      text << " | " << setup_.ledger->charges() << " of " << allowed_charges_ << " charges";
    if (held_out_loss_) text << " | held-out loss " << *held_out_loss_;
    return text.str();
  }

  using TrainConfig = plan::TrainConfig;
  RunSetup& setup_;
  const RunOptions& options_;
  comm::Communicator& communicator_;
  const plan::PrivacyPlan& plan_;
  const int64_t allowed_charges_;
  Watchdog watchdog_;
  Telemetry telemetry_;
  std::unique_ptr<Steps> steps_;
  std::optional<double> held_out_loss_;
  int64_t last_checkpoint_ = -1;
};

}  // namespace

Outcome run_training(const RunOptions& options, comm::Communicator& communicator) {
  watch_stop_signals();
  RunSetup setup = prepare_run(options, communicator);
  if (options.dry_run) return Outcome::kFinished;
  Trainer trainer(setup, options, communicator);
  return trainer.run();
}

}  // namespace dpfa::train
