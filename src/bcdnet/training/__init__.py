"""Training: recipes, the two-step schedule, distillation, exact resume, evaluation."""
