// What each of several processes computes, keeps and sends (docs/distributed.md).
#pragma once

#include "pipeline/planner.h"

namespace moga {

// For plan.request.processes and .sequence; the plan's counts for one process must be there. Throws Error if
// `sequence` does not divide the processes or the film has fewer tokens.
ProcessCosts process_costs(const FilmPlan& plan);

}  // namespace moga
