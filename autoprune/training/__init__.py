"""Training and scoring: the loop, its losses and learning rate, fine-tuning, distillation and regularisation."""
