"""TrainingJob's decisions, pure: `plan.plan(view, now)`, one module for each policy."""
