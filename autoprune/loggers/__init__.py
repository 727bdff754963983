"""Who else is told of a search: TensorBoard, MLflow, and loggers of third parties, each beside the display."""
