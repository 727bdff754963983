"""The display, the log file, and the loggers of a search: TensorBoard, MLflow, and those of third parties."""
