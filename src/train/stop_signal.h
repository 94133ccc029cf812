// SIGUSR1 (and SIGTERM) as a wish that the run looks at, never as an action: the handler sets a flag, the
// trainer asks at each microbatch, discards the partial step, writes a checkpoint and ends with exit code 75.
#pragma once

namespace dpfa::train {

// Installs the handlers, after MPI and NCCL have installed theirs, and forgets wishes to an earlier run of
// the process. From then on a file size limit (SIGXFSZ) is a failed write with a sentence instead of a killed
// process.
void watch_stop_signals();
bool stop_requested();
bool terminate_requested();  // SIGTERM: seconds are left, so the process ends without MPI_Finalize

}  // namespace dpfa::train
