"""The display, the log file, and the loggers of a search: TensorBoard, MLflow, W&B, and those of third parties."""
